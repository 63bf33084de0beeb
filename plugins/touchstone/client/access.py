"""Where the installation is, and as whom to log in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from touchstone.client.errors import LoginRefused, NotInstalled
from touchstone_agent.protocol.errors import ConfigurationError

DEFAULT_USER = "engineer"
REPOSITORY = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, kw_only=True)
class Access:
    """
    How to reach an installation.

    :param url: Airflow's address, without a slash at the end.
    :param user: Who to log in as.
    :param password: Their password; ``None`` if there is a token.
    :param token: A bearer token; ``None`` to log in for one.
    """

    url: str
    user: str
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


def find_state_dir(environ: Mapping[str, str]) -> Path:
    """Return where a one-machine installation keeps everything, as ``touchstone up`` does."""
    return Path(environ.get("TOUCHSTONE_STATE_DIR") or REPOSITORY / ".touchstone").expanduser()


def get_access(environ: Mapping[str, str], *, user: str | None = None) -> Access:
    """
    Put together what the environment says and what ``touchstone up`` has left.

    Passwords come from the environment or from the owner's file, never from the command line,
    where every user of the machine can read them. The file's passwords are only ever sent to
    the stack that wrote it.

    :param environ: The environment: ``TOUCHSTONE_URL``, ``TOUCHSTONE_TOKEN``,
        ``TOUCHSTONE_USER``, ``TOUCHSTONE_PASSWORD``, ``TOUCHSTONE_STATE_DIR``.
    :param user: Who to log in as; ``None`` for ``TOUCHSTONE_USER``, or ``engineer``.
    :raises NotInstalled: If nothing says where the installation is.
    :raises LoginRefused: If nothing says how to log in.
    :raises ConfigurationError: If a file of the state directory is damaged.
    """
    state_dir = find_state_dir(environ)
    local = _find_local_url(state_dir)
    url = (environ.get("TOUCHSTONE_URL") or local or "").rstrip("/")
    if not url:
        raise NotInstalled(
            "no Touchstone found: start one with `touchstone up`, "
            "or set TOUCHSTONE_URL to Airflow's address"
        )
    if not url.startswith(("http://", "https://")):
        raise ConfigurationError(f"TOUCHSTONE_URL: {url!r} does not begin with http:// or https://")
    named = environ.get("TOUCHSTONE_USER") or None
    who = user or named or DEFAULT_USER
    # What the environment holds belongs to the user it names, not to another one asked for.
    if user is None or user == (named or DEFAULT_USER):
        if token := environ.get("TOUCHSTONE_TOKEN"):
            return Access(url=url, user=who, token=token)
        if password := environ.get("TOUCHSTONE_PASSWORD"):
            return Access(url=url, user=who, password=password)
    if url == local and (password := _find_local_password(state_dir, who)):
        return Access(url=url, user=who, password=password)
    raise LoginRefused(
        f"no password for {who!r} at {url}: set TOUCHSTONE_USER and TOUCHSTONE_PASSWORD, "
        "or TOUCHSTONE_TOKEN"
    )


def _find_local_url(state_dir: Path) -> str | None:
    urls = _read(state_dir / "stack.json").get("urls")
    url = urls.get("airflow") if isinstance(urls, dict) else None
    return url.rstrip("/") if isinstance(url, str) else None


def _find_local_password(state_dir: Path, user: str) -> str | None:
    passwords = _read(state_dir / "credentials.json").get("passwords")
    password = passwords.get(user) if isinstance(passwords, dict) else None
    return password if isinstance(password, str) else None


def _read(path: Path) -> dict[str, object]:
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error
    return data if isinstance(data, dict) else {}
