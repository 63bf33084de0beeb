"""Unit tests talk to nobody."""

from __future__ import annotations

from pathlib import Path

from pytest_socket import disable_socket

HERE = Path(__file__).parent


def pytest_runtest_setup(item):
    if item.path.is_relative_to(HERE):
        # asyncio's own wake-up pair is a Unix socket.
        disable_socket(allow_unix_socket=True)
