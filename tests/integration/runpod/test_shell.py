"""A pod that answers as no pod of ours does; over real SSH."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncssh
import pytest

from touchstone.core.pods import SshAddress
from touchstone.services.pods.keys import derive_key
from touchstone.services.pods.shell import (
    MAX_ERROR_BYTES,
    CallRefused,
    PodShell,
    SenselessAnswer,
    ShellLost,
)
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.pods import PodPoll, PodState, compute_answer_limit

pytestmark = pytest.mark.integration

MIB = 1024**2
POLL = PodPoll(lease_seconds=900)
KEY = derive_key(b"0" * 32, "pod")
Answer = Callable[["asyncssh.SSHServerProcess[bytes]"], Awaitable[None]]


class OpenDoor(asyncssh.SSHServer):
    """Lets everybody in."""

    def begin_auth(self, username: str) -> bool:
        return False


@asynccontextmanager
async def open_shell(answer: Answer) -> AsyncIterator[PodShell]:
    """Log in to a host whose every command answers in one way."""
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.create_server(
        OpenDoor,
        "127.0.0.1",
        0,
        server_host_keys=[host_key],
        process_factory=answer,
        encoding=None,
    )
    address = SshAddress(host="127.0.0.1", port=server.get_port(), username="root")
    shell = await PodShell.connect(address, key=KEY, fingerprint=host_key.get_fingerprint())
    try:
        yield shell
    finally:
        await shell.close()
        server.close()


def say(output: bytes, *, code: int = 0, errors: bytes = b"") -> Answer:
    async def answer(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await process.stdin.read()
        process.stdout.write(output)
        process.stderr.write(errors)
        process.exit(code)

    return answer


async def call(answer: Answer, *, seconds: float = 60) -> PodState:
    async with open_shell(answer) as shell:
        return await shell.call("poll", POLL, PodState, seconds=seconds)


async def test_what_a_pod_says_is_read() -> None:
    state = await call(say(PodState(boot_id="b").model_dump_json().encode()))

    assert state == PodState(boot_id="b")


@pytest.mark.parametrize("where", ["stdout", "stderr"])
async def test_an_answer_without_end_is_left_unread(where: str) -> None:
    """300 MB of one answer were read into the triggerer's memory."""
    sent = 0

    async def answer(process: asyncssh.SSHServerProcess[bytes]) -> None:
        nonlocal sent
        stream = getattr(process, where)
        try:
            while True:
                stream.write(b"x" * MIB)
                await stream.drain()
                sent += MIB
        except (OSError, asyncssh.Error):
            process.exit(1)

    tracemalloc.start()
    with pytest.raises(CallRefused, match="without end"):
        await call(answer)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    limit = max(compute_answer_limit(POLL), MAX_ERROR_BYTES)
    assert sent < 8 * limit, "what a window of SSH lets pass before anybody reads"
    assert peak < 16 * MIB


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        (b"", "not JSON"),
        (b"welcome to my pod\n", "not JSON"),
        (b"[" * 1000, "nested"),
        (b'{"boot_id": "b", "phase": "elsewhere"}', "phase"),
        (b'{"boot_id": "b", "exit_code": 1' + b"0" * 50 + b"}", "integer"),
        (b'{"boot_id": "\\ud800"}', "UTF-8"),
        (b'{"boot_id": "b", "files": [{"path": "/x", "sha256": "", "size": 1}]}', "files.0.path"),
        (b'{"boot_id": "b", "console": "?"}', "console"),
        (b'{"boot_id": "b", "running_at": "2026-11-22T10:00:00"}', "running_at"),
    ],
)
async def test_an_answer_that_is_none_is_told_from_a_lost_one(output: bytes, problem: str) -> None:
    with pytest.raises(SenselessAnswer, match=problem):
        await call(say(output))


@pytest.mark.parametrize(
    ("code", "kind", "problem"),
    [
        (2, CallRefused, "no such attempt"),
        (75, TransientError, "exit 75: no such attempt"),
        (1, TransientError, "exit 1: no such attempt"),
    ],
)
async def test_what_the_program_complains_of_is_told_in_one_line(
    code: int, kind: type[Exception], problem: str
) -> None:
    errors = b"a banner\n" + b"no such attempt\x1b[2J" + b"x" * 5000 + b"\n"
    with pytest.raises(kind, match=problem) as caught:
        await call(say(b"", code=code, errors=errors))

    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


async def test_a_command_that_never_ends_is_given_up() -> None:
    async def answer(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stdout.write(b"{}")
        await asyncio.sleep(60)

    with pytest.raises(ShellLost, match="TimeoutError"):
        await call(answer, seconds=0.5)
