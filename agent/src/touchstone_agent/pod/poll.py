"""Renews the lease and tells how the attempt is; standard library only."""

from __future__ import annotations

from touchstone_agent.pod.gpus import find_gpus
from touchstone_agent.pod.home import PodHome, Record
from touchstone_agent.pod.lease import read_uptime, renew_lease
from touchstone_agent.pod.state import IDLE, build_state
from touchstone_agent.protocol.documents import DocumentRefused, parse_json
from touchstone_agent.protocol.errors import ConfigurationError, TransientError

MAX_POLL_BYTES = 64 * 1024

_DEFAULTS = {"console_offset": 0, "console_bytes": 262_144}
_LEAST = {"lease_seconds": 1, "console_offset": 0, "console_bytes": 0}
_MOST = 2**53


def poll(home: PodHome, text: bytes) -> Record:
    """
    Renew the lease, and return the state.

    :param text: A ``PodPoll``.
    :raises ConfigurationError: If it is not one.
    :raises TransientError: If the pod is not ready yet.
    """
    order = parse_poll(text)
    uptime = read_uptime()
    try:
        renew_lease(home, until=uptime + order["lease_seconds"])
    except FileNotFoundError as error:
        raise TransientError("the pod's container is still starting") from error
    state = build_state(
        home, console_offset=order["console_offset"], console_bytes=order["console_bytes"]
    )
    state["gpus"] = find_gpus(home, is_idle=state["phase"] == IDLE, uptime=uptime)
    return state


def parse_poll(text: bytes) -> dict[str, int]:
    """
    Read a ``PodPoll`` by hand: what would do it takes longer to import than all of a poll.

    :raises ConfigurationError: If it is not one.
    """
    try:
        given = parse_json(text, max_bytes=MAX_POLL_BYTES)
    except DocumentRefused as error:
        raise ConfigurationError(f"the standard input is no usable JSON: {error}") from error
    if not isinstance(given, dict):
        raise ConfigurationError("the standard input is not a JSON object")
    values = {name: given.get(name, _DEFAULTS.get(name)) for name in _LEAST}
    for name, value in values.items():
        if type(value) is not int or not _LEAST[name] <= value <= _MOST:
            raise ConfigurationError(f"{name} must be a whole number from {_LEAST[name]}")
    return {name: int(value) for name, value in values.items() if value is not None}
