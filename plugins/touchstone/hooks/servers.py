"""A shell on a server, by an Airflow connection of type ``ssh`` whose host key is checked."""

from __future__ import annotations

import logging
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from touchstone_agent.protocol.errors import ConfigurationError, PermanentError, TransientError
from touchstone_agent.protocol.words import build_line

CONNECT_SECONDS = 15
COMMAND_SECONDS = 300.0
SEND_SECONDS = 600.0
"""For one file, however slowly a server takes it."""
MOST_BYTES = 256 * 1024
"""What is read of a command's output; ours say less."""
_BLOCK = 32 * 1024
_PAUSE_SECONDS = 0.05
_LAST_SECONDS = 2.0
_NO_CODE = -1
BROKEN = "the connection broke; run it again, it goes on where it was"


class CannotLogIn(PermanentError):
    """The server does not let us in, or is not the one it should be."""


@dataclass(frozen=True, kw_only=True)
class Completed:
    """
    A command that has ended.

    :param code: Its exit code; -1 if a signal has ended it.
    :param output: The beginning of what it printed.
    :param errors: The beginning of what it said beside that.
    """

    code: int
    output: str
    errors: str


class ServerShell:
    """
    Runs commands and writes files on a server, over one connection of Airflow's own SSH hook.

    :param conn_id: Airflow connection of type ``ssh``: password or key, port and ``host_key``. A
        jump host is where its provider looks for one: ``ProxyCommand`` in ``~/.ssh/config``.
    """

    def __init__(self, conn_id: str) -> None:
        self._conn_id = conn_id
        self._client: Any = None
        self._sftp: Any = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """
        Log in.

        :raises ConfigurationError: If the connection is missing, wrong, or skips the host key.
        :raises CannotLogIn: If the server refuses, or has another host key.
        :raises TransientError: If it cannot be reached.
        """
        # Importing the provider takes a second; only who logs in pays for it.
        import paramiko
        from airflow.providers.ssh.hooks.ssh import SSHHook
        from airflow.sdk.exceptions import AirflowException

        # Its tracebacks of a lost connection tell no more than the line that we raise.
        logging.getLogger("paramiko").setLevel(logging.CRITICAL)
        try:
            hook: Any = SSHHook(
                ssh_conn_id=self._conn_id,
                conn_timeout=CONNECT_SECONDS,
                banner_timeout=CONNECT_SECONDS,
                auth_timeout=CONNECT_SECONDS,
                conn_retry_attempts=1,
            )
        except (AirflowException, ValueError, TypeError, paramiko.SSHException) as error:
            raise ConfigurationError(
                f"connection {self._conn_id!r}: {build_line(str(error), 200)}"
            ) from None
        self._check_caution(hook)
        where = f"{hook.username}@{hook.remote_host}:{hook.port}"
        try:
            self._client = hook.get_conn()
        except paramiko.BadHostKeyException as error:
            raise CannotLogIn(
                f"host key: {hook.remote_host} shows {error.key.get_name()} "
                f"{error.key.fingerprint}, and connection {self._conn_id!r} expects "
                f"{error.expected_key.fingerprint}: compare it with `ssh-keygen -lf "
                "/etc/ssh/ssh_host_ed25519_key.pub` on the server, then correct host_key there"
            ) from None
        except paramiko.AuthenticationException as error:
            # By its words alone: a connection that ends before the answer is no answer.
            if any(word in str(error) for word in ("EOF", "timeout")):
                raise TransientError(f"{where}: {BROKEN}") from None
            raise CannotLogIn(
                f"login: {where} refuses the key or password of connection {self._conn_id!r}: put "
                "its public key into the user's authorized_keys there"
            ) from None
        except paramiko.SSHException as error:
            text = build_line(str(error), 200)
            if "known_hosts" in text:
                raise ConfigurationError(
                    f"connection {self._conn_id!r} has no host_key: put the server's there, as "
                    f"`ssh-keyscan {hook.remote_host}` prints it, once you have checked it"
                ) from None
            raise TransientError(f"{where}: {text}") from None
        except (OSError, EOFError) as error:
            text = build_line(str(error), 200) or type(error).__name__
            raise TransientError(
                f"{where} cannot be reached: {text}; is it on, and is its sshd on that port?"
            ) from None

    def _check_caution(self, hook: Any) -> None:
        """Refuse a connection that does not check the server's host key."""
        if hook.no_host_key_check or hook.allow_host_key_change:
            raise ConfigurationError(
                f"connection {self._conn_id!r} does not check the host key (no_host_key_check or "
                "allow_host_key_change): take that out, and put the server's into host_key"
            )

    def close(self) -> None:
        """Log out."""
        client, self._client, self._sftp = self._client, None, None
        if client is not None:
            client.close()

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", seconds: float = COMMAND_SECONDS
    ) -> Completed:
        """
        Run a command: arguments, each quoted; nothing of them is the shell's to read.

        :param stdin: What it gets to read.
        :param seconds: How long it may take.
        :raises TransientError: If the connection breaks, or it takes too long.
        """
        import paramiko

        deadline = time.monotonic() + seconds
        try:
            channel = self._client.get_transport().open_session(timeout=CONNECT_SECONDS)
            with channel:
                channel.settimeout(seconds)
                channel.exec_command(shlex.join(argv))
                _send(channel, stdin, deadline)
                channel.shutdown_write()
                done = self._follow(channel, deadline, argv[0])
            if done.code == _NO_CODE and self._is_broken():
                raise TransientError(BROKEN)
            return done
        except (paramiko.SSHException, OSError, EOFError, AttributeError) as error:
            text = build_line(str(error), 200) or type(error).__name__
            raise TransientError(
                f"the connection broke: {text}; run it again, it goes on where it was"
            ) from error

    def _is_broken(self) -> bool:
        """Tell whether it was the connection that ended a command, and not a signal."""
        transport = self._client.get_transport()
        # It closes its channels first, and a moment later says that it is no more.
        transport.join(_LAST_SECONDS)
        return not transport.is_active()

    @staticmethod
    def _follow(channel: Any, deadline: float, name: str) -> Completed:
        output, errors = bytearray(), bytearray()
        ways = (
            (channel.recv_ready, channel.recv, output),
            (channel.recv_stderr_ready, channel.recv_stderr, errors),
        )

        def read_block() -> bool:
            """Read a block of each, and no more: a server may never stop."""
            is_any = False
            for is_ready, read, kept in ways:
                if is_ready():
                    is_any = True
                    kept += read(_BLOCK)[: MOST_BYTES - len(kept)]
            return is_any

        ended_at: float | None = None
        while True:
            # Looked at before the last block is read: what comes between the two is not lost. sshd
            # tells the exit code as soon as a command has ended, perhaps before all of its output.
            has_ended = channel.exit_status_ready()
            is_all_sent = channel.eof_received or channel.closed
            is_any = read_block()
            now = time.monotonic()
            if has_ended and not is_any:
                ended_at = ended_at or now
                # What it has left running may hold its output open for ever.
                if is_all_sent or now - ended_at > _LAST_SECONDS:
                    break
            if now > deadline:
                raise TransientError(f"{name} does not end on the server; look there, run it again")
            if not is_any:
                # Once it has ended, the event is set: only a pause waits.
                (time.sleep if has_ended else channel.status_event.wait)(_PAUSE_SECONDS)
        return Completed(
            code=channel.recv_exit_status(),
            output=output.decode(errors="replace"),
            errors=errors.decode(errors="replace"),
        )

    def _open_sftp(self) -> Any:
        import paramiko

        try:
            channel = self._client.get_transport().open_session(timeout=CONNECT_SECONDS)
            # A server that does not answer is not waited for without an end.
            channel.settimeout(COMMAND_SECONDS)
            channel.invoke_subsystem("sftp")
            return paramiko.SFTPClient(channel)
        except (paramiko.SFTPError, paramiko.SSHException, OSError, EOFError) as error:
            if self._is_broken():
                raise TransientError(BROKEN) from error
            text = build_line(str(error), 200) or type(error).__name__
            raise CannotLogIn(
                f"SFTP: the server takes no files ({text}): its sshd_config needs `Subsystem sftp "
                "internal-sftp`, or its shell prints something of its own (~/.bashrc)"
            ) from None

    def put(self, data: bytes, path: str) -> None:
        """
        Write a file that its owner alone may read.

        :raises CannotLogIn: If the server takes no files.
        :raises TransientError: If the connection breaks.
        """
        import paramiko

        if self._sftp is None:
            self._sftp = self._open_sftp()
        try:
            deadline = time.monotonic() + SEND_SECONDS
            with self._sftp.open(path, "wb") as file:
                file.chmod(0o600)
                file.set_pipelined(True)
                for start in range(0, len(data), _BLOCK):
                    if time.monotonic() > deadline:
                        raise OSError(f"it took more than {SEND_SECONDS:.0f} s")
                    file.write(data[start : start + _BLOCK])
        except (paramiko.SFTPError, paramiko.SSHException, OSError, EOFError) as error:
            text = build_line(str(error), 200) or type(error).__name__
            raise TransientError(
                f"sending {path.rpartition('/')[2]}: {text}; run it again"
            ) from error


def _send(channel: Any, data: bytes, deadline: float) -> None:
    """Send all of it, however little of it a server takes at a time, or give up."""
    left = memoryview(data)
    while left:
        if time.monotonic() > deadline:
            raise TransientError("the server does not read what it is sent; run it again")
        try:
            left = left[channel.send(left[:_BLOCK]) :]
        except OSError:
            if not channel.closed:
                raise
            return  # a command that has ended wants no more; it has said why
