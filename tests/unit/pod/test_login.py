from __future__ import annotations

from touchstone_agent.pod.home import PodHome
from touchstone_agent.pod.login import MAX_LOG_BYTES, Login, find_fingerprint


def test_a_fingerprint_is_as_openssh_writes_it() -> None:
    key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl x"
    # GitHub's, whose fingerprint is published.
    assert find_fingerprint(key) == "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"


def build(home: PodHome, **environ: str) -> list[str]:
    command = Login(home).build_command(environ, home)
    assert command[:3] == ["/usr/sbin/sshd", "-D", "-e"]
    assert set(command[3::2]) == {"-o"}
    return command[4::2]


def test_only_a_key_logs_in_and_nothing_is_forwarded(home: PodHome) -> None:
    options = build(home)
    for option in (
        "AuthenticationMethods publickey",
        "PasswordAuthentication no",
        "PermitRootLogin prohibit-password",
        "UsePAM no",
        "DisableForwarding yes",
        f"AuthorizedKeysFile {home.state}/authorized_keys",
    ):
        assert option in options


def test_the_port_is_left_to_sshds_usual_configuration(home: PodHome) -> None:
    names = {option.split()[0] for option in build(home)}
    assert not names & {"Port", "ListenAddress", "Subsystem"}


def test_a_login_finds_the_program_and_its_home(home: PodHome) -> None:
    options = build(home, PATH="/opt/x:/bin", RUNPOD_API_KEY="sesame")
    assert f"SetEnv PATH=/opt/x:/bin TOUCHSTONE_POD_HOME={home.root}" in options
    assert "sesame" not in " ".join(options)


def test_a_path_that_sshd_would_not_understand_is_left_out(home: PodHome) -> None:
    options = build(home, PATH='/opt/a b:"/bin')
    assert f"SetEnv TOUCHSTONE_POD_HOME={home.root}" in options


def test_the_knocks_of_strangers_do_not_fill_the_disk(home: PodHome) -> None:
    login = Login(home)
    login.bound_log()
    login.log_file.write_bytes(b"x" * (MAX_LOG_BYTES + 1))
    login.bound_log()
    assert login.log_file.stat().st_size == 0
