"""Ways to log in to a server, each to a real sshd."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.enrolling.conftest import Plane, Server, connect

from touchstone.core.records.servers import EnrolmentState
from touchstone.hooks import servers
from touchstone.hooks.servers import CannotLogIn
from touchstone_agent.protocol.errors import PermanentError, TransientError

pytestmark = [
    pytest.mark.integration,
    pytest.mark.docker,
    pytest.mark.xdist_group("enrolment"),
    pytest.mark.campaign(sample=16),
]

PASSWORD = "correct horse"


@pytest.fixture
def join_and_leave(plane: Plane, requested):
    """Return a function that enrols a server, and removes it again without a trace."""

    def join_and_leave(server: Server) -> None:
        assert plane.enrolling().enroll(requested(server)).is_changed
        assert plane.records.find_server(server.name).state is EnrolmentState.ENROLLED
        assert not plane.enrolling().enroll(requested(server)).is_changed
        plane.enrolling().remove(server.name)
        assert server.list_traces() == []
        assert plane.list_traces(server.name) == []

    return join_and_leave


def test_by_password(make_server, join_and_leave, refuse, monkeypatch) -> None:
    server = make_server()
    server.set_password("root", PASSWORD)
    without_key = {"extra": {"private_key": None}}
    connect(monkeypatch, server, password="wrong", **without_key)
    assert "refuses the key or password" in refuse(server, CannotLogIn)
    connect(monkeypatch, server, password=PASSWORD, **without_key)
    join_and_leave(server)


def test_as_a_user_who_may_become_root(
    make_server, join_and_leave, refuse, more_image: str, monkeypatch
) -> None:
    server = make_server(image=more_image)
    server.add_user("ann", password=PASSWORD)
    connect(monkeypatch, server, login="ann")
    server.run("usermod", "--append", "--groups", "sudo", "ann")
    assert "sudo asks it for a password" in refuse(server, PermanentError)
    server.write("/etc/sudoers.d/ann", "ann ALL=(ALL) NOPASSWD: ALL\n")
    join_and_leave(server)


def test_through_another_machine(
    make_server, join_and_leave, refuse, tmp_path: Path, monkeypatch
) -> None:
    between = make_server("between", has_engine=False)
    server = make_server()
    # A name that is known there alone: who reaches it was there.
    between.run("sh", "-c", "echo 127.0.0.1 inner >> /etc/hosts")
    connect(monkeypatch, server, host="inner")
    assert "inner" in refuse(server, TransientError)
    folder = tmp_path / "home" / ".ssh"
    folder.mkdir(parents=True)
    (folder / "key").write_text(between.private_key)
    (folder / "key").chmod(0o600)
    (folder / "known").write_text(f"[127.0.0.1]:{between.port} {between.host_key}\n")
    way = f"ssh -F none -i {folder}/key -o UserKnownHostsFile={folder}/known -p {between.port}"
    (folder / "config").write_text(
        f"Host inner\n  ProxyCommand {way} root@127.0.0.1 -W inner:{server.port}\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    join_and_leave(server)
    between.run("rm", "/root/.ssh/authorized_keys")
    # So long it is waited for a word of it: the machine between has none.
    monkeypatch.setattr(servers, "CONNECT_SECONDS", 5)
    line = refuse(server, TransientError)
    assert f"root@inner:{server.port}" in line, line
    print(line)
