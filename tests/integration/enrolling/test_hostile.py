"""A server that is somebody else's by now: it may say anything, and ends nobody's patience."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import paramiko
import pytest

from fakes.ports import find_free_port
from touchstone.hooks import servers
from touchstone.hooks.servers import MOST_BYTES, ServerShell
from touchstone_agent.protocol.errors import TransientError

pytestmark = pytest.mark.integration


class Evil(paramiko.ServerInterface):
    """Lets everybody in, and does with a command what a test says."""

    def __init__(self, act: Callable[[Any], None]) -> None:
        self._act = act

    def check_auth_password(self, username: str, password: str) -> int:
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: Any, command: bytes) -> bool:
        def act() -> None:
            # Not before it is told that its command is run.
            time.sleep(0.2)
            self._act(channel)

        threading.Thread(target=act, daemon=True).start()
        return True


@pytest.fixture
def meet(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ServerShell]]:
    """Return a function that logs in to a server that does as told."""
    opened: list[Any] = []

    def meet(act: Callable[[Any], None]) -> ServerShell:
        key, port = paramiko.ECDSAKey.generate(), find_free_port()
        listener = socket.create_server(("127.0.0.1", port))

        def serve() -> None:
            near, _ = listener.accept()
            transport = paramiko.Transport(near)
            transport.add_server_key(key)
            opened.append(transport)
            transport.start_server(server=Evil(act))

        threading.Thread(target=serve, daemon=True).start()
        connection = {
            "conn_type": "ssh",
            "host": "127.0.0.1",
            "port": port,
            "login": "root",
            "password": "any",
            "extra": {"host_key": f"{key.get_name()} {key.get_base64()}", "look_for_keys": False},
        }
        monkeypatch.setenv("AIRFLOW_CONN_EVIL", json.dumps(connection))
        monkeypatch.setattr(servers, "CONNECT_SECONDS", 120)
        shell = ServerShell("evil")
        shell.open()
        opened.extend((shell, listener))
        return shell

    yield meet
    for thing in opened:
        thing.close()


def flood(send: Callable[[bytes], int]) -> None:
    """Talk on for ever."""
    block = os.urandom(16 * 1024)
    try:
        while True:
            send(block)
    except (OSError, EOFError):
        pass


@pytest.mark.parametrize("stream", ["send", "send_stderr"])
def test_one_that_never_stops_talking_is_left(meet, stream: str) -> None:
    shell = meet(lambda channel: flood(getattr(channel, stream)))
    with pytest.raises(TransientError, match="any does not end on the server"):
        shell.run(("any",), seconds=1)


def test_one_that_talks_on_after_the_end_is_left(meet) -> None:
    def act(channel: Any) -> None:
        channel.send_exit_status(0)
        flood(channel.send)

    # Either is right, whichever moment it is seen at; only going on for ever is not.
    with contextlib.suppress(TransientError):
        assert meet(act).run(("any",), seconds=1).code == 0


def test_one_that_reads_nothing_is_left(meet) -> None:
    shell = meet(lambda _: time.sleep(600))
    # More than what is under way without an answer.
    with pytest.raises(TransientError, match=r"connection broke|does not read"):
        shell.run(("any",), stdin=bytes(8 * 1024**2), seconds=1)


def test_what_a_command_says_that_reads_nothing_of_what_it_is_sent_is_taken(meet) -> None:
    def act(channel: Any) -> None:
        channel.sendall(b"there is no such command")
        channel.send_exit_status(127)
        channel.close()

    done = meet(act).run(("any",), stdin=bytes(8 * 1024**2), seconds=120)
    assert (done.code, done.output) == (127, "there is no such command")


def test_what_comes_behind_the_exit_code_is_part_of_the_answer(meet) -> None:
    def act(channel: Any) -> None:
        channel.send_exit_status(0)
        time.sleep(0.5)
        channel.sendall(b"/var/tmp/x")
        channel.sendall_stderr(b"and more")
        channel.close()

    done = meet(act).run(("any",), seconds=120)
    assert (done.code, done.output, done.errors) == (0, "/var/tmp/x", "and more")


def test_one_whose_child_holds_its_output_open_has_ended(meet) -> None:
    def act(channel: Any) -> None:
        channel.sendall(b"started")
        channel.send_exit_status(0)

    done = meet(act).run(("any",), seconds=120)
    assert (done.code, done.output) == (0, "started")


def test_of_one_that_says_much_the_beginning_is_kept(meet) -> None:
    def act(channel: Any) -> None:
        channel.sendall(b"x" * (MOST_BYTES + 100_000))
        channel.send_exit_status(3)
        channel.close()

    done = meet(act).run(("any",), seconds=120)
    assert done.code == 3
    assert done.output == "x" * MOST_BYTES


def test_one_that_goes_away_has_said_nothing(meet) -> None:
    shell = meet(lambda channel: channel.get_transport().close())
    with pytest.raises(TransientError, match=r"the connection broke.*; run it again"):
        shell.run(("any",), seconds=120)


def test_a_command_that_a_signal_has_ended_is_not_a_connection_that_broke(meet) -> None:
    done = meet(lambda channel: channel.close()).run(("any",), seconds=120)
    assert (done.code, done.output) == (-1, "")
