"""Git URLs: what is in them, what must not be, and which hosts they may lead to. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final
from urllib.parse import urlsplit

from touchstone.core.documents import shorten

MAX_URL: Final = 2000

SOURCE_PATTERN: Final = r"^(?!https?://[^/]*@)(?!ssh://[^/]*:[^/]*@).*$"
"""For forms: what the whole check would refuse anyhow, and had better not be written down."""

_HTTPS, _SSH, _FILE = "https", "ssh", "file"
_DEFAULT_PORTS = {_HTTPS: 443, _SSH: 22}
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]", re.ASCII)
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)
_SCP = re.compile(r"((?P<user>[^@/:]+)@)?(?P<host>\[[^\]/]+\]|[^@/:]+):(?P<path>.+)", re.DOTALL)
_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://")

_NO_SECRETS = (
    "would be on record for everybody; leave it out, the installation has credentials of its own"
)


@dataclass(frozen=True, kw_only=True)
class Remote:
    """
    Where a git repository is.

    :param scheme: ``https``, ``ssh`` or ``file``.
    :param host: The host in lower case; empty for a path of this machine.
    :param port: The port, where it is not the scheme's own.
    """

    scheme: str
    host: str
    port: int | None = None

    @property
    def is_local(self) -> bool:
        """Tell whether it is a path of this machine."""
        return self.scheme == _FILE

    @property
    def address(self) -> str:
        """Return host and port as patterns are compared with it: ``git.example.org:8443``."""
        return self.host if self.port is None else f"{self.host}:{self.port}"


def parse_remote(url: str) -> Remote:
    """
    Check a git URL: ``https://``, ``ssh://``, ``user@host:path``, or a path of this machine.

    Whether its host, or a path, is allowed depends on the installation: see :func:`is_allowed`.

    :raises ValueError: If it is none, or holds what may be a secret; the URL is then not repeated.
    """
    if len(url) > MAX_URL:
        raise ValueError(f"is longer than {MAX_URL} characters; give the URL of a repository")
    if not url or url.startswith("-") or url != url.strip() or not url.isprintable():
        # Not repeated: nobody knows what it is, so it may be a secret.
        raise ValueError("is not a git URL; write it as https://host/owner/repo")
    scheme = _SCHEME.match(url)
    if scheme is None:
        if url.startswith(("/", ".")) or ":" not in url:
            return Remote(scheme=_FILE, host="")
        return _parse_scp(url)
    if url.startswith("file://"):
        return Remote(scheme=_FILE, host="")
    if not url.startswith(("https://", "ssh://")):
        raise ValueError(
            f"{scheme['scheme']}:// is not allowed; use https:// or ssh:// (git@host:repo)"
        )
    return _parse_url(url)


def _parse_url(url: str) -> Remote:
    if "\\" in url:
        raise ValueError("a git URL has no backslash; write / between its parts")
    try:
        parts = urlsplit(url)
        host, port = parts.netloc.rpartition("@")[2], parts.port
    except ValueError as error:
        raise ValueError(
            "is not a URL: its host or port is malformed; write it as https://host:port/owner/repo"
        ) from error
    user, is_user, _ = parts.netloc.rpartition("@")
    if is_user and parts.scheme == _HTTPS:
        raise ValueError(f"a user name, password or token in an https:// URL {_NO_SECRETS}")
    if is_user:
        _check_user(user)
    if "?" in url or "#" in url:
        raise ValueError(f"a git URL has no '?' and no '#': a token in it {_NO_SECRETS}")
    if port == 0 or " " in url:
        raise ValueError(
            "is not a URL: its host or port is malformed; write it as https://host:port/owner/repo"
        )
    name = host.removesuffix(f":{port}") if port is not None else host.removesuffix(":")
    _check_host(name)
    is_default = port == _DEFAULT_PORTS[parts.scheme]
    return Remote(scheme=parts.scheme, host=name.lower(), port=None if is_default else port)


def _parse_scp(url: str) -> Remote:
    # git takes ``helper::address`` for a call of that helper.
    match = _SCP.fullmatch(url)
    if match is None or match["path"].startswith(":"):
        raise ValueError(
            f"{shorten(url.rpartition('@')[2])} is not a git URL; write it as git@host:owner/repo"
        )
    if match["user"] is not None:
        _check_user(match["user"])
    _check_host(match["host"])
    return Remote(scheme=_SSH, host=match["host"].lower())


def _check_user(user: str) -> None:
    if not _USER.fullmatch(user):
        raise ValueError(
            "only a plain user name as in git@host may stand in an ssh URL: anything else "
            f"{_NO_SECRETS}"
        )


def _check_host(host: str) -> None:
    if not _HOST.fullmatch(host):
        raise ValueError(f"{shorten(host)} is not the name of a host; mend it in the URL")


def is_allowed(remote: Remote, patterns: Iterable[str]) -> bool:
    """
    Tell whether a repository's host is one of an installation's.

    :param remote: A repository on another machine.
    :param patterns: As a shell's: ``github.com``, ``*.example.org``, ``git.example.org:8443``.
        One without a port allows the scheme's own only, and ``*`` alone allows everything.
    """
    return any(
        pattern == "*" or fnmatchcase(remote.address, pattern.lower()) for pattern in patterns
    )
