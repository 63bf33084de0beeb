"""Looks at a source before it is sent: refs, files, what was sent before; nothing is changed."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from touchstone.confined.archives import UNPACKED_FACTOR, list_archive, repack
from touchstone.core.answers.sources import (
    EqualSubmission,
    ListedArchive,
    ListedFile,
    ListedRef,
    SourceReport,
)
from touchstone.core.conf import Source
from touchstone.core.names import build_content_key
from touchstone.core.records.submissions import SentSource
from touchstone.core.refs import (
    HEADS,
    TAGS,
    RefListing,
    choose_ref,
    is_full_id,
    may_be_short_id,
)
from touchstone.services.checks import check_source
from touchstone.services.events import EventKeeper
from touchstone.settings import Settings
from touchstone.stores.objects import ObjectStore
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.errors import ConfigurationError, TransientError

MAX_REFS: Final = 300
"""So many refs are offered; any other one may be typed."""
MAX_COMPARED: Final = 200
"""With so many of the newest submissions a source is compared."""
MAX_EQUAL: Final = 10
MAX_AT_ONCE: Final = 4
"""Sources that one process looks at at a time: each is a process of its own, for seconds."""

_NOT_LOOKED_FOR: Final = "no branch and no tag; as the beginning of a commit's id it is looked for "
_NOT_CHECKED: Final = "whether the repository has this commit shows when it is fetched"


class LooksBusy(TransientError):
    """As many sources are being looked at as are looked at at a time."""


class LookGate:
    """
    Counts who is looking at a source.

    :param total: Most at once; one by each user.
    """

    def __init__(self, total: int = MAX_AT_ONCE) -> None:
        self._total = total
        self._users: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def enter(self, user: str) -> Iterator[None]:
        """
        Be one of those who look.

        :raises LooksBusy: If this user does already, or enough others do.
        """
        with self._lock:
            if user in self._users or len(self._users) >= self._total:
                raise LooksBusy(
                    "source: others are being looked at; try again in a moment", retry_after=1
                )
            self._users.add(user)
        try:
            yield
        finally:
            with self._lock:
                self._users.discard(user)


ListRefs = Callable[[Settings, str], RefListing]
"""Asks a repository for its refs, by an installation's settings."""


def list_refs(settings: Settings, url: str) -> RefListing:
    """Return what a repository's host lists, as the installation's credentials may see it."""
    from touchstone.hooks.git import GitSource, find_credentials

    git = GitSource(
        hosts=settings.git_hosts,
        allow_local=settings.allow_local_sources,
        max_bytes=settings.content_bytes,
        credentials=find_credentials(settings.git_conn_id),
    )
    return git.list_refs(url)


@dataclass(frozen=True, kw_only=True)
class Looker:
    """
    Says what is known of a source.

    :param records: The records of submissions.
    :param objects: Where uploaded archives are.
    :param settings: Which hosts are read from, and how large content may be.
    :param keeper: Keeps events, with their quotas.
    :param gate: Counts who is looking.
    :param list_refs: Asks a repository for its refs.
    """

    records: RecordStore
    objects: ObjectStore
    settings: Settings
    keeper: EventKeeper
    gate: LookGate
    list_refs: ListRefs = list_refs

    def look(self, source: Source, *, user: str, is_admin: bool) -> SourceReport:
        """
        Return what is known of a source before it is sent.

        :param source: The source.
        :param user: Who would submit it.
        :param is_admin: Whether they may see everybody's submissions.
        :raises ConfigurationError: What ``register`` would refuse of it, with the field's name, but
            for what only fetching it shows.
        :raises LooksBusy: If enough sources are being looked at.
        """
        check_source(self.settings, source, self.objects)
        with self.gate.enter(user):
            found = (
                self._look_at_repository(source)
                if source.upload_sha256 is None
                else self._look_at_archive(source, source.upload_sha256)
            )
        equal, compared = self._find_equal(found, source, None if is_admin else user)
        return found.model_copy(
            update={
                "equal": equal,
                "compared": compared,
                "quotas": self.keeper.list_quotas(user),
            }
        )

    def _look_at_repository(self, source: Source) -> SourceReport:
        listing = self.list_refs(self.settings, source.url)
        names = listing.names
        commit, note = _resolve(source.ref, listing)
        return SourceReport(
            source=source.url,
            refs=tuple(_show_ref(name, listing) for name in names[:MAX_REFS]),
            refs_left_out=max(0, len(names) - MAX_REFS),
            commit=commit,
            ref_note=note,
        )

    def _look_at_archive(self, source: Source, sha256: str) -> SourceReport:
        limit = self.settings.content_bytes
        key = build_content_key(sha256)
        archive = self.objects.get(self.settings.content_bucket, key, sha256=sha256)
        listed = list_archive(archive, "source", max_bytes=UNPACKED_FACTOR * limit)
        content = repack(archive, "source", path=source.path, max_bytes=limit)
        return SourceReport(
            source=source.url,
            archive=ListedArchive(
                sha256=sha256,
                content_sha256=hashlib.sha256(content).hexdigest(),
                files=tuple(ListedFile(name=name, size=size) for name, size in listed.files),
                count=listed.count,
                size=listed.size,
            ),
        )

    def _find_equal(
        self, found: SourceReport, source: Source, owner: str | None
    ) -> tuple[tuple[EqualSubmission, ...], int]:
        """Return the submissions of the same source, and among how many they were looked for."""
        content = found.archive.content_sha256 if found.archive else None
        if found.commit is None and content is None:
            return (), 0
        page = self.records.list_submissions(limit=MAX_COMPARED, owner=owner, model=SentSource)
        equal = []
        for each in page.records:
            if each.replay_of or each.system is not source.system:
                continue
            is_commit = found.commit is not None and each.commit == found.commit
            is_same = is_commit and (each.source_path or ".") == source.path
            if not is_same and not (content and each.content_sha256 == content):
                continue
            equal.append(
                EqualSubmission(
                    submission_id=each.submission_id,
                    submitted_by=each.submitted_by,
                    status=each.status.value,
                    created_at=each.created_at.isoformat(),
                    by="commit" if is_same else "content",
                )
            )
        return tuple(equal[:MAX_EQUAL]), len(page.records)


def _resolve(ref: str | None, listing: RefListing) -> tuple[str | None, str | None]:
    """
    Return the commit that a ref stands at, if that is known, and what else is to be said.

    :raises ConfigurationError: If the repository has no such ref, or two, or no commits at all.
    """
    from touchstone.hooks.repository import explain_missing

    if ref is None:
        commit = listing.find_commit("HEAD")
        if commit is None and not listing.ids:
            raise ConfigurationError("source: the repository has no commits; push one first")
        return commit, None if commit else "the host does not tell its default branch; name one"
    if is_full_id(ref):
        is_listed = ref.lower() in listing.ids.values()
        return ref.lower(), None if is_listed else _NOT_CHECKED
    try:
        name = choose_ref(ref, listing.ids)
    except ValueError as error:
        raise ConfigurationError(f"ref: {error}") from error
    if name is not None:
        return listing.find_commit(name), None
    if may_be_short_id(ref) or ref.startswith("refs/"):
        return None, f"{_NOT_LOOKED_FOR}when it is fetched"
    raise explain_missing(ref, "ref")


def _show_ref(name: str, listing: RefListing) -> ListedRef:
    prefix, kind = (HEADS, "branch") if name.startswith(HEADS) else (TAGS, "tag")
    short = name.removeprefix(prefix)
    other = (TAGS if prefix == HEADS else HEADS) + short
    # A name that a branch and a tag have is only clear in full.
    is_clear = other not in listing.ids
    return ListedRef(
        name=short if is_clear else name, kind=kind, commit=listing.find_commit(name) or ""
    )
