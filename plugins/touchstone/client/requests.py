"""Requests to Touchstone, built from the command's arguments, and checked before they are sent."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from touchstone.client.packing import is_remote
from touchstone_agent.protocol.errors import ConfigurationError


def build_schedule(
    passthrough: Sequence[str], *, needs: Sequence[str] | None, given: Mapping[str, object]
) -> dict[str, object]:
    """
    Return how to train, as a run's conf says it.

    :param passthrough: Arguments for el-nigma, as they are.
    :param needs: ``KEY=VALUE`` each, see :func:`parse_needs`.
    :param given: Fields by their names in the conf; ``None`` or empty if not given.
    :raises ConfigurationError: If something is said of how to train, but not over which intervals.
    """
    fields = {
        **{key: value for key, value in given.items() if value not in (None, [])},
        **parse_needs(needs or ()),
    }
    if passthrough:
        fields["passthrough_args"] = [shlex.quote(word) for word in passthrough]
    if fields and "intervals" not in fields:
        raise ConfigurationError(
            f"intervals: {next(iter(fields))} says how to train, and without --intervals "
            "nothing is trained"
        )
    return fields


def parse_needs(needs: Sequence[str]) -> dict[str, object]:
    """
    Read what a schedule needs of a server, as the command line gives it.

    :raises ConfigurationError: If a field is not one of those; its value is checked with the rest.
    """
    from touchstone.core.schedule import NEEDS

    found: dict[str, object] = {}
    for item in needs:
        key, equals, value = item.partition("=")
        if key not in NEEDS or not equals:
            raise ConfigurationError(
                f"needs: {item!r} is not KEY=VALUE with a key of {', '.join(NEEDS)}"
            )
        found[key] = _parse_need(key, value)
    return found


def _parse_need(key: str, value: str) -> object:
    if key == "allowed_hosts":
        return value.split(",")
    if key == "job":
        return value
    try:
        found: object = json.loads(value)
    except ValueError:
        return value  # refused with the field's name
    return found


def check_conf(conf: Mapping[str, object]) -> None:
    """
    Refuse what the DAG would refuse, before anything is sent.

    :raises ConfigurationError: If a field makes no sense; the message begins with its name.
    """
    from touchstone.core.conf import parse_conf

    parse_conf(conf)


def build_source(
    source: str, *, system: str | None, ref: str | None, path: str | None
) -> dict[str, object]:
    """
    Return what is submitted, as a run's conf says it.

    :param source: Git URL, or a folder or archive of this machine.
    :raises ConfigurationError: If a ref is named of what has none.
    """
    if ref is not None and not is_remote(source):
        raise ConfigurationError(f"ref: {source} is not a git URL, so it has no branches")
    return drop_none({"source": source, "system": system, "ref": ref, "path": path})


def check_id(submission_id: str) -> str:
    """
    Return a submission's id, checked.

    :raises ConfigurationError: If it cannot be one.
    """
    # Also keeps what was typed from becoming another path of the API.
    if not re.fullmatch(r"[a-z0-9](-?[a-z0-9])+", submission_id) or not (
        3 <= len(submission_id) <= 48
    ):
        raise ConfigurationError(
            f"id: {submission_id!r} is not a submission's id: 3 to 48 of a-z, 0-9 and single dashes"
        )
    return submission_id


def drop_none(fields: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of which something is said."""
    return {key: value for key, value in fields.items() if value is not None}


def pack_if_here(conf: Mapping[str, object]) -> bytes | None:
    """
    Return the folder or archive of this machine that a conf names, packed; ``None`` for a git URL.

    :raises ConfigurationError: If it cannot be packed, or a field makes no sense: before anything
        is sent, so that nothing is uploaded for a wrong option.
    """
    source = str(conf["source"])
    archive = None if is_remote(source) else pack_source(source)
    check_conf({**conf, "source": "upload:" + "0" * 64} if archive is not None else conf)
    return archive


def pack_source(source: str) -> bytes:
    """
    Return a folder or archive of this machine, packed for the upload.

    :raises ConfigurationError: If there is none, or it cannot be submitted.
    """
    from touchstone.client.packing import pack
    from touchstone.settings import get_settings

    path = Path(source).expanduser()
    if not path.exists():
        raise ConfigurationError(
            f"source: there is no {source!r} here; a git source is a URL, "
            "for example https://host/owner/repo"
        )
    return pack(path, get_settings().content_bytes)
