"""Loopback ports: chosen once, remembered, and never taken from somebody who listens there."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Mapping

from touchstone.stack.layout import Ports
from touchstone_agent.protocol.errors import ConfigurationError

PORT_NAMES = tuple(Ports.model_fields)
_PORTS = range(1, 65_536)
_RANGE = range(20_000, 30_000)
"""Below what systems hand out to outgoing connections, so that a remembered port stays free."""


def is_free(port: int) -> bool:
    """Return whether a server could listen on a loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do: a port whose last connections are still winding down is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def parse_ports(text: str | None) -> dict[str, int]:
    """
    Read ports as the command line gives them.

    :param text: For example ``airflow=8080,mlflow=5000``; ``None`` or empty for none.
    :raises ConfigurationError: If a name is unknown, or a number is no port.
    """
    ports: dict[str, int] = {}
    for item in filter(None, (text or "").replace(" ", "").split(",")):
        name, _, number = item.partition("=")
        if name not in PORT_NAMES:
            raise ConfigurationError(
                f"unknown port {name!r}: the parts with a port are {', '.join(PORT_NAMES)}"
            )
        if not number.isdecimal() or int(number) not in _PORTS:
            raise ConfigurationError(f"port {item!r}: write NAME=NUMBER, 1 to 65535")
        ports[name] = int(number)
    if len(set(ports.values())) < len(ports):
        raise ConfigurationError(f"ports {text!r}: two parts cannot share a port")
    return ports


def choose_ports(
    configured: Mapping[str, int],
    remembered: Mapping[str, int],
    *,
    free: Callable[[int], bool] = is_free,
    draw: Callable[[range], int] = random.choice,
) -> Ports:
    """
    Decide the ports of a stack.

    :param configured: Ports that were asked for, by name; exactly these or none.
    :param remembered: Ports of the last start, by name; kept when free.
    :param free: Tells whether a port is free, or held by this very stack.
    :param draw: Picks one of a range.
    :raises ConfigurationError: If a configured port is in use.
    """
    chosen: dict[str, int] = {}
    for name, port in configured.items():
        if not free(port):
            raise ConfigurationError(
                f"port {port} (configured for {name}) is in use: end what listens there, or "
                f"configure another with --ports {name}=NUMBER"
            )
        chosen[name] = port
    for name in PORT_NAMES:
        if name in chosen:
            continue
        port = remembered.get(name) or draw(_RANGE)
        while port in chosen.values() or not free(port):
            port = draw(_RANGE)
        chosen[name] = port
    return Ports(**chosen)
