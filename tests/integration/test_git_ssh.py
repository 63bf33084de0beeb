"""Git over a real sshd: what is fetched, and what is told of everything that goes wrong there."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fakes.ports import find_free_port
from fakes.runpod.process import SSHD
from touchstone.hooks.git import GitSource
from touchstone.hooks.repository import GitCredentials
from touchstone_agent.protocol.errors import ConfigurationError
from waiting import wait_for

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Host:
    """A host with one repository, and what it takes to read it."""

    address: str
    repository: Path
    private_key: str
    known_hosts: str

    @property
    def url(self) -> str:
        return f"ssh://{getpass.getuser()}@{self.address}{self.repository}"


def make_key(path: Path) -> str:
    """Make a key pair, and return its public half."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True)
    return path.with_suffix(".pub").read_text().strip()


def make_repository(path: Path) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", "init", "--quiet", str(path)], check=True)
    (path / "features.py").write_text("X = 1\n")
    subprocess.run(["git", "-C", str(path), "add", "--all"], check=True)
    subprocess.run(
        ["git", "-C", str(path), *identity, "commit", "--quiet", "-m", "one"], check=True
    )


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    if not Path(SSHD).exists() or shutil.which("ssh") is None:
        pytest.skip("NO SSH (apt install openssh-server openssh-client): git@ was NOT tested")
    folder = tmp_path_factory.mktemp("host")
    make_repository(folder / "sets")
    host_key, user_key = make_key(folder / "host_key"), make_key(folder / "user_key")
    (folder / "authorized_keys").write_text(f"{user_key}\n")
    if os.geteuid() == 0:
        # Where sshd goes when it gives its rights away; Debian's service makes it.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    port = find_free_port()
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host_key",
        "AuthorizedKeysFile": folder / "authorized_keys",
        "PidFile": "none",
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "UsePAM": "no",
        "StrictModes": "no",
        "PermitRootLogin": "prohibit-password",
    }
    (folder / "sshd_config").write_text(
        "".join(f"{name} {value}\n" for name, value in settings.items())
    )
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")])

    def listens() -> bool:
        assert server.poll() is None, "sshd has ended"
        with socket.socket() as caller:
            return caller.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for("sshd listens", listens, every=0.1)
        yield Host(
            address=f"127.0.0.1:{port}",
            repository=folder / "sets",
            private_key=(folder / "user_key").read_text(),
            known_hosts=f"[127.0.0.1]:{port} {host_key}\n",
        )
    finally:
        server.terminate()
        server.wait()


def make_source(host: Host, **credentials: str) -> GitSource:
    shown = {"private_key": host.private_key, "known_hosts": host.known_hosts} | credentials
    return GitSource(
        hosts=[host.address, "touchstone.invalid"],
        allow_local=False,
        max_bytes=1024,
        credentials=GitCredentials(address=host.address, **shown),
    )


def test_a_repository_is_read_with_the_connections_key(host: Host) -> None:
    content = make_source(host).fetch(host.url, None, ".")

    assert len(content.commit or "") == 40


def test_a_host_that_is_not_known_is_told_as_one(host: Host) -> None:
    with pytest.raises(ConfigurationError) as refused:
        make_source(host, known_hosts="").fetch(host.url, None, ".")

    assert str(refused.value) == (
        "source: its host shows a key that is not known here; ask an admin to add it to "
        "known_hosts of the installation's git connection"
    )


def test_a_host_with_another_key_is_told_as_one(host: Host, tmp_path: Path) -> None:
    other = f"[127.0.0.1]:{host.address.split(':')[1]} {make_key(tmp_path / 'other')}\n"

    with pytest.raises(
        ConfigurationError, match=r"^source: its host shows a key that is not known"
    ):
        make_source(host, known_hosts=other).fetch(host.url, None, ".")


def test_a_key_that_is_refused_is_told_as_one(host: Host, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    source = make_source(host, private_key=(tmp_path / "other").read_text())

    with pytest.raises(ConfigurationError) as refused:
        source.fetch(host.url, None, ".")

    assert str(refused.value) == (
        "source: its host refuses this installation's key; ask an admin to give it access, or to "
        "set TOUCHSTONE_GIT_CONN_ID"
    )


def test_a_repository_that_is_not_there_is_told_as_one(host: Host) -> None:
    with pytest.raises(ConfigurationError, match=r"^source: there is no git repository; mend the"):
        make_source(host).fetch(f"{host.url}-of-others", None, ".")


@pytest.mark.parametrize(
    "url", ["ssh://git@touchstone.invalid/x.git", "https://touchstone.invalid/x.git"]
)
def test_a_host_without_an_address_is_told_as_one(host: Host, url: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^source: its host has no address; mend the name"
    ):
        make_source(host).fetch(url, None, ".")


def test_https_where_nobody_listens_is_told_as_that(host: Host) -> None:
    source = GitSource(hosts=["127.0.0.1:9"], allow_local=False, max_bytes=1024)

    with pytest.raises(ConfigurationError, match=r"^source: its host cannot be connected to; mend"):
        source.fetch("https://127.0.0.1:9/x.git", None, ".")
