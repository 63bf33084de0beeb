"""The secrets of a one-machine installation: made once, kept in files of their owner only."""

from __future__ import annotations

import base64
import json
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from touchstone.stack.layout import StatePaths, write_private
from touchstone_agent.protocol.envelope import generate_key
from touchstone_agent.protocol.errors import ConfigurationError

USERS = {"admin": "admin", "engineer": "user"}
"""The users of a one-machine installation and their roles in Airflow's simple auth manager."""


class Credentials(BaseModel):
    """
    Every secret of a stack.

    :param fernet_key: Encrypts connections and variables in Airflow's database.
    :param jwt_secret: Signs the tokens of users and of running tasks.
    :param api_secret_key: Signs the API server's cookies and log links.
    :param control_private_key: Signs commands to agents.
    :param control_public_key: By which agents know the control plane.
    :param agents: By server: the key that signs its events, and the one it is known by.
    :param passwords: Password by user name.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    fernet_key: str
    jwt_secret: str
    api_secret_key: str
    control_private_key: str
    control_public_key: str
    agents: dict[str, tuple[str, str]] = {}
    passwords: dict[str, str]


def generate_credentials() -> Credentials:
    """Return a fresh set of secrets."""
    control = generate_key()
    return Credentials(
        fernet_key=base64.urlsafe_b64encode(os.urandom(32)).decode(),
        jwt_secret=secrets.token_urlsafe(48),
        api_secret_key=secrets.token_urlsafe(32),
        control_private_key=control[0],
        control_public_key=control[1],
        passwords={user: secrets.token_urlsafe(12) for user in USERS},
    )


def ensure_credentials(paths: StatePaths, servers: Iterable[str]) -> Credentials:
    """
    Return the stack's secrets, made if there are none, and write the files its parts read.

    :param servers: The servers that need a key of their own.
    :raises ConfigurationError: If the file is damaged. It is not replaced: what the old key
        encrypted would be lost.
    """
    is_first = not paths.credentials.exists()
    credentials = generate_credentials() if is_first else read_credentials(paths)
    new = {name: generate_key() for name in servers if name not in credentials.agents}
    credentials = credentials.model_copy(update={"agents": {**credentials.agents, **new}})
    if new or is_first:
        write_private(paths.credentials, credentials.model_dump_json(indent=2) + "\n")
    for name, (private, _) in credentials.agents.items():
        _write_if_changed(paths.agent_key(name), private + "\n")
    _write_if_changed(paths.control_public_key, credentials.control_public_key + "\n")
    _write_if_changed(paths.airflow_passwords, json.dumps(credentials.passwords) + "\n")
    return credentials


def read_credentials(paths: StatePaths) -> Credentials:
    """
    Return the stack's secrets.

    :raises ConfigurationError: If the file is missing or damaged.
    """
    try:
        return Credentials.model_validate_json(paths.credentials.read_text())
    except (OSError, ValidationError, ValueError) as error:
        raise ConfigurationError(
            f"{paths.credentials} cannot be read: restore it, or start anew with "
            "`touchstone down --delete-data`"
        ) from error


def _write_if_changed(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        write_private(path, text)
    else:
        path.chmod(0o600)
