"""A login to a pod: runs the pod's own program with a message, and reads its answer."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from touchstone.core.pods import SshAddress
from touchstone.hooks.pods.keys import PodKey
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.messages import Wire
from touchstone_agent.protocol.pods import POD_PROGRAM

if TYPE_CHECKING:
    import asyncssh

LOGIN_SECONDS = 20.0
CALL_SECONDS = 60.0
KEEPALIVE_SECONDS = 10
"""A connection that says nothing three times as long is given up: it may be half open."""

_EXIT_WRONG = 2
_Answer = TypeVar("_Answer", bound=Wire)


class ShellLost(TransientError):
    """The pod cannot be reached, or the connection broke; says nothing about the training."""


class LoginRefused(TransientError):
    """The pod's sshd answers but does not know the key (yet)."""


class WrongHostKey(TransientError):
    """Somebody else answers at the pod's address, or its container was started again."""


class CallRefused(PermanentError):
    """The pod's program says that what it was asked makes no sense."""


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
        :raises CallRefused: If the program refuses it for good.
        :raises TransientError: If the program says that it may work later.
        """
        import asyncssh

        command = f"{POD_PROGRAM} {verb}"
        try:
            done = await asyncio.wait_for(
                self._connection.run(command, input=message.model_dump_json(), check=False),
                seconds,
            )
        except (OSError, asyncssh.Error, TimeoutError) as error:
            raise ShellLost(f"{command}: {_describe(error)}") from error
        problem = str(done.stderr or "").strip().splitlines()[-1:] or ["no reason given"]
        if done.exit_status == _EXIT_WRONG:
            raise CallRefused(f"{command}: {problem[0][:500]}")
        if done.exit_status is None or done.exit_status < 0:
            raise ShellLost(f"{command}: ended by {done.exit_signal or 'the end of the login'}")
        if done.exit_status != 0:
            raise TransientError(f"{command}: exit {done.exit_status}: {problem[0][:500]}")
        try:
            return answer.model_validate_json(str(done.stdout))
        except ValidationError as error:
            raise TransientError(f"{command}: its answer makes no sense") from error

    async def close(self) -> None:
        """End the connection; what was started in the pod goes on."""
        self._connection.abort()


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
