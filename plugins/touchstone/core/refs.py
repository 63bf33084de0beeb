"""What people call a commit by: a branch, a tag, a full or a short id. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from touchstone.core.documents import shorten

MAX_REF: Final = 200
MIN_SHORT_ID: Final = 4

HEADS: Final = "refs/heads/"
TAGS: Final = "refs/tags/"

_FULL_ID = re.compile(r"[0-9a-fA-F]{40}|[0-9a-fA-F]{64}")
_SHORT_ID = re.compile(rf"[0-9a-fA-F]{{{MIN_SHORT_ID},63}}")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|\.lock(?:/|$)|^[./-]|[./]$|^@$")
"""What git refuses in the name of a ref: man git-check-ref-format."""
_EXPRESSION = re.compile(r"[\^~:]|@\{|\.\.")


def check_ref(ref: str) -> str:
    """
    Return a ref as git will be asked for it.

    :param ref: What somebody calls a branch, a tag or a commit; quotes and ``#`` may be in it.
    :raises ValueError: If git could have no ref of that name.
    """
    if not ref:
        raise ValueError("is empty; name a branch, a tag or a commit, or leave it out")
    if len(ref) > MAX_REF:
        raise ValueError(f"is longer than {MAX_REF} characters; name a branch, tag or commit")
    if _EXPRESSION.search(ref):
        raise ValueError(
            f"{shorten(ref)} is an expression that git computes a commit from; name the branch, "
            "the tag or the commit itself"
        )
    if _FORBIDDEN.search(ref) or not ref.isprintable():
        raise ValueError(f"{shorten(ref)} can be no git ref; name a branch, a tag or a commit")
    return ref


def is_full_id(ref: str) -> bool:
    """Tell whether a ref is a whole object id."""
    return _FULL_ID.fullmatch(ref) is not None


def may_be_short_id(ref: str) -> bool:
    """Tell whether a ref may be the beginning of an object id."""
    return _SHORT_ID.fullmatch(ref) is not None


def choose_ref(ref: str, found: Mapping[str, str]) -> str | None:
    """
    Return the full name of the ref that is meant.

    :param ref: What was asked for.
    :param found: Ids of refs of the repository by their full names.
    :return: ``None`` if there is none of that name.
    :raises ValueError: If a tag and a branch have that name, and are not the same commit.
    """
    if ref == "HEAD" or ref.startswith("refs/"):
        return ref if ref in found else None
    branch, tag = f"{HEADS}{ref}", f"{TAGS}{ref}"
    ids = {found.get(f"{name}^{{}}", found.get(name)) for name in (branch, tag) if name in found}
    if len(ids) > 1:
        raise ValueError(
            f"{shorten(ref)} is both a branch and a tag of other content; name {branch} or {tag}"
        )
    return next((name for name in (branch, tag) if name in found), None)


_PEELED: Final = "^{}"
"""Ends the name under which git lists what an annotated tag stands for."""


@dataclass(frozen=True, kw_only=True)
class RefListing:
    """
    The branches and tags of a repository, as it told them.

    :param ids: Ids by full names; an annotated tag has the commit that it stands for under its
        name with ``^{}`` behind, too.
    :param default: Full name of the default branch; ``None`` if the host does not tell it.
    """

    ids: Mapping[str, str]
    default: str | None = None

    @property
    def names(self) -> list[str]:
        """Return the full names that may be asked for: the default branch, branches, tags."""
        heads = sorted(name for name in self.ids if name.startswith(HEADS))
        # Of tags the last ones are more often wanted than the first.
        tags = sorted((name for name in self.ids if name.startswith(TAGS)), reverse=True)
        found = [each for each in (*heads, *tags) if not each.endswith(_PEELED)]
        return sorted(found, key=lambda name: name != self.default)

    def find_commit(self, name: str) -> str | None:
        """Return the commit that a ref stands at; ``None`` if there is no such ref."""
        return self.ids.get(f"{name}{_PEELED}", self.ids.get(name))


def parse_listing(text: str) -> RefListing:
    """
    Return what ``git ls-remote --symref`` has written, as far as it is branches and tags.

    What no form could send is left out: a name may hold what git itself would refuse.
    """
    ids: dict[str, str] = {}
    default = None
    for line in text.split("\n"):
        value, _, name = line.partition("\t")
        if value.startswith("ref: ") and name == "HEAD":
            default = value.removeprefix("ref: ")
        elif is_full_id(value) and (name == "HEAD" or _may_be_asked_for(name)):
            ids[name] = value
    return RefListing(ids=ids, default=default if default in ids else None)


def _may_be_asked_for(name: str) -> bool:
    if not name.startswith((HEADS, TAGS)):
        return False
    try:
        check_ref(name.removesuffix(_PEELED).removeprefix(HEADS).removeprefix(TAGS))
    except ValueError:
        return False
    return True
