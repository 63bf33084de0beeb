"""The pod's sshd: a host key of this boot, and one key that may log in."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from touchstone_agent.pod.home import HOME_VARIABLE, PodHome

SSHD = "/usr/sbin/sshd"
RUN_FOLDER = Path("/run/sshd")
MAX_LOG_BYTES = 4 * 1024**2

_OPTIONS = (
    "AllowUsers root",
    "AuthenticationMethods publickey",
    "AuthorizedKeysCommand none",
    "PasswordAuthentication no",
    "KbdInteractiveAuthentication no",
    "PermitRootLogin prohibit-password",
    "PermitUserEnvironment no",
    "PermitUserRC no",
    "UsePAM no",
    # The folders are root's alone; a mounted volume above them may be anybody's.
    "StrictModes no",
    "AllowTcpForwarding no",
    "DisableForwarding yes",
    "PrintMotd no",
    "UseDNS no",
    # The address is public: strangers knock all the time, and must not keep us out.
    "LoginGraceTime 20",
    "MaxStartups 100:30:200",
    "MaxSessions 50",
    "ClientAliveInterval 30",
    "ClientAliveCountMax 4",
)
_SIMPLE = re.compile(r"[\w./:,@%+=-]+")


class Login:
    """
    Everything that sshd needs.

    :param home: The pod's home.
    """

    def __init__(self, home: PodHome) -> None:
        self._host_key = home.state / "ssh_host_ed25519_key"
        self._authorized = home.state / "authorized_keys"
        self.log_file = home.state / "sshd.log"

    def prepare(self, public_keys: Iterable[str]) -> str:
        """
        Make a new host key, and let some keys in.

        :param public_keys: As in ``authorized_keys``; none lets nobody in.
        :return: The host key's fingerprint, as OpenSSH writes it.
        :raises OSError: If that is not possible here.
        :raises subprocess.SubprocessError: If no key could be made.
        """
        RUN_FOLDER.mkdir(mode=0o755, parents=True, exist_ok=True)
        text = "".join(f"{key}\n" for key in public_keys)
        self._authorized.write_text(text, encoding="utf-8")
        public = self._host_key.with_suffix(".pub")
        for file in (self._host_key, public):
            file.unlink(missing_ok=True)
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(self._host_key)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=True,
        )
        return find_fingerprint(public.read_text(encoding="ascii"))

    def build_command(self, environ: Mapping[str, str], home: PodHome) -> list[str]:
        """
        Return the command of sshd. Pure.

        What is not said here is as in sshd's usual configuration, which may set the port.

        :param environ: The container's environment, of which a login inherits nothing.
        """
        told = {"PATH": environ.get("PATH", ""), HOME_VARIABLE: str(home.root)}
        passed = " ".join(
            f"{name}={value}" for name, value in told.items() if _SIMPLE.fullmatch(value)
        )
        options = (
            *_OPTIONS,
            f"HostKey {self._host_key}",
            f"AuthorizedKeysFile {self._authorized}",
            *([f"SetEnv {passed}"] if passed else []),
        )
        return [SSHD, "-D", "-e", *(part for option in options for part in ("-o", option))]

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """
        Start sshd.

        It has a log of its own: in the container's, the knocks of strangers would soon push out
        the line that tells the host key.

        :raises OSError: If there is no sshd.
        """
        with self.log_file.open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def bound_log(self) -> None:
        """Begin the log anew when it has become long."""
        if self.log_file.exists() and self.log_file.stat().st_size > MAX_LOG_BYTES:
            with self.log_file.open("wb"):
                pass


def find_fingerprint(public_key: str) -> str:
    """Return the fingerprint of a public key, as OpenSSH writes it. Pure."""
    blob = base64.b64decode(public_key.split()[1])
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii")
    return f"SHA256:{digest.rstrip('=')}"
