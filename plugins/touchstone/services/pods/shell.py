"""A login to a pod: runs the pod's own program with a message, and reads its answer."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from touchstone.core.pods import SshAddress
from touchstone.services.pods.keys import PodKey
from touchstone_agent.protocol.documents import DocumentRefused, parse_json
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.facts import Wire
from touchstone_agent.protocol.pods import POD_PROGRAM, compute_answer_limit
from touchstone_agent.protocol.words import build_line, describe_refusal

if TYPE_CHECKING:
    import asyncssh

LOGIN_SECONDS = 20.0
CALL_SECONDS = 60.0
"""Both take seconds; what takes longer is given up, and the pod is logged in to anew."""
KEEPALIVE_SECONDS = 10
"""A connection that says nothing three times as long is given up: it may be half open."""

MAX_ERROR_BYTES = 64 * 1024
"""The program complains in one line; a login may say something of its own before."""

_BLOCK_BYTES = 64 * 1024
_EXIT_WRONG = 2
"""How ``touchstone-pod`` ends when it refuses what it is asked."""
_Answer = TypeVar("_Answer", bound=Wire)


class ShellLost(TransientError):
    """The pod cannot be reached, or the connection broke; says nothing about the training."""


class LoginRefused(TransientError):
    """The pod's sshd answers but does not know the key (yet)."""


class WrongHostKey(TransientError):
    """Another machine answers at the pod's address, or its container was started again."""


class CallRefused(PermanentError):
    """The pod's program says that what it was asked makes no sense, or answers without end."""


class SenselessAnswer(TransientError):
    """The pod's program answers something else than its protocol has."""


@dataclass(frozen=True, kw_only=True)
class _Done:
    """
    How a command ended.

    :param exit_status: Its exit code; ``None`` if it was not told.
    :param exit_signal: What ended it, if it was ended.
    :param output: Its standard output.
    :param problem: The last line of its standard error.
    """

    exit_status: int | None
    exit_signal: str | None
    output: bytes
    problem: str


class PodShell:
    """
    One connection to one pod.

    :param connection: The open connection.
    """

    def __init__(self, connection: asyncssh.SSHClientConnection) -> None:
        self._connection = connection

    @classmethod
    async def connect(cls, address: SshAddress, *, key: PodKey, fingerprint: str) -> PodShell:
        """
        Log in.

        :param address: Where the pod's sshd is.
        :param key: The pod's key.
        :param fingerprint: Of the host key (``SHA256:...``), as the pod's log told it.
        :raises WrongHostKey: If another host key is shown there.
        :raises LoginRefused: If the key is not accepted.
        :raises ShellLost: If nothing answers in time.
        """
        import asyncssh

        class Pinned(asyncssh.SSHClient):
            def validate_host_public_key(
                self,
                host: str,  # noqa: ARG002 - asyncssh's signature, up to the key
                addr: str,  # noqa: ARG002
                port: int,  # noqa: ARG002
                key: asyncssh.SSHKey,
            ) -> bool:
                return bool(key.get_fingerprint() == fingerprint)

        # It tells of each command of each poll of each pod.
        asyncssh.set_log_level(logging.WARNING)
        where = f"{address.host}:{address.port}"
        try:
            connection, _ = await asyncio.wait_for(
                asyncssh.create_connection(
                    Pinned,
                    address.host,
                    address.port,
                    username=address.username,
                    client_keys=[asyncssh.import_private_key(key.private)],
                    # Nothing is known but the fingerprint, which the client above compares.
                    known_hosts=([], [], []),
                    server_host_key_algs=["ssh-ed25519"],
                    preferred_auth="publickey",
                    agent_path=None,
                    config=None,
                    keepalive_interval=KEEPALIVE_SECONDS,
                ),
                LOGIN_SECONDS,
            )
        except asyncssh.HostKeyNotVerifiable as error:
            raise WrongHostKey(f"{where} does not have the host key {fingerprint}") from error
        except asyncssh.PermissionDenied as error:
            raise LoginRefused(f"{where} does not accept the pod's key") from error
        except (OSError, asyncssh.Error, TimeoutError) as error:
            raise ShellLost(f"{where}: {_describe(error)}") from error
        return cls(connection)

    async def call(
        self, verb: str, message: Wire, answer: type[_Answer], *, seconds: float = CALL_SECONDS
    ) -> _Answer:
        """
        Run one of the program's commands.

        :param verb: The command.
        :param message: Its standard input.
        :param answer: What its standard output is.
        :param seconds: Longest wait; afterwards the connection is of no use any more.
        :raises ShellLost: If no answer comes; the command may have been run.
        :raises CallRefused: If the program refuses it for good, or answers without end.
        :raises SenselessAnswer: If what it answers is no such answer.
        :raises TransientError: If the program says that it may work later.
        """
        import asyncssh

        command = f"{POD_PROGRAM} {verb}"
        limit = compute_answer_limit(message)
        try:
            done = await asyncio.wait_for(
                self._run(command, message.model_dump_json().encode(), limit), seconds
            )
        except (OSError, asyncssh.Error, TimeoutError) as error:
            raise ShellLost(f"{command}: {_describe(error)}") from error
        if done.exit_status == _EXIT_WRONG:
            raise CallRefused(f"{command}: {done.problem}")
        if done.exit_status is None or done.exit_status < 0:
            raise ShellLost(f"{command}: ended by {done.exit_signal or 'the end of the login'}")
        if done.exit_status != 0:
            raise TransientError(f"{command}: exit {done.exit_status}: {done.problem}")
        try:
            return answer.model_validate(parse_json(done.output, max_bytes=limit))
        except ValidationError as error:
            told = describe_refusal(error)
            raise SenselessAnswer(f"{command}: its answer makes no sense: {told}") from error
        except DocumentRefused as error:
            raise SenselessAnswer(f"{command}: its answer makes no sense: {error}") from error

    async def _run(self, command: str, given: bytes, limit: int) -> _Done:
        """Run a command, and read no more of it than an answer may have."""
        process = await self._connection.create_process(command, encoding=None)
        try:
            process.stdin.write(given)
            process.stdin.write_eof()
            # Both at once: a program that fills the one waits until somebody reads it.
            output, errors = await asyncio.gather(
                _read(process.stdout, limit), _read(process.stderr, MAX_ERROR_BYTES)
            )
            await process.wait_closed()
            signal = process.exit_signal
            lines = errors.decode(errors="replace").strip().splitlines()
            return _Done(
                exit_status=process.exit_status,
                exit_signal=build_line(str(signal[0]), 40) if signal else None,
                output=output,
                problem=build_line(lines[-1]) if lines else "no reason given",
            )
        finally:
            # What still comes is not read by anybody.
            process.close()

    async def close(self) -> None:
        """End the connection; programs in the pod go on."""
        self._connection.abort()


async def _read(stream: asyncssh.SSHReader[bytes], limit: int) -> bytes:
    """
    Read a stream to its end.

    :raises CallRefused: If that has not come within so many bytes: all the rest is left unread.
    """
    pieces, left = [], limit
    while piece := await stream.read(_BLOCK_BYTES):
        left -= len(piece)
        if left < 0:
            raise CallRefused(f"the pod's program answers without end: more than {limit} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _describe(error: Exception) -> str:
    name = type(error).__name__
    # Much of it is what the other side has sent.
    return build_line(f"{name}: {error}" if str(error) else name)
