from __future__ import annotations

import pytest

from touchstone.stack import images
from touchstone.stack.images import build_arguments, choose_runtime, hash_sources
from touchstone.stack.layout import Runtime
from touchstone_agent.protocol.errors import ConfigurationError


@pytest.fixture
def trainer(tmp_path):
    (tmp_path / "src/elnigma").mkdir(parents=True)
    (tmp_path / "src/elnigma/cli.py").write_text("print(1)")
    (tmp_path / "Dockerfile").write_text("FROM scratch")
    return tmp_path


def test_a_changed_source_is_another_image(trainer) -> None:
    before = hash_sources(trainer)
    (trainer / "src/elnigma/cli.py").write_text("print(2)")
    assert hash_sources(trainer) != before


def test_a_renamed_source_is_another_image(trainer) -> None:
    before = hash_sources(trainer)
    (trainer / "src/elnigma/cli.py").rename(trainer / "src/elnigma/main.py")
    assert hash_sources(trainer) != before


def test_what_is_not_in_the_image_does_not_change_it(trainer) -> None:
    before = hash_sources(trainer)
    (trainer / "tests").mkdir()
    (trainer / "tests/test_cli.py").write_text("")
    (trainer / "src/elnigma/__pycache__").mkdir()
    (trainer / "src/elnigma/__pycache__/cli.pyc").write_bytes(b"x")
    assert hash_sources(trainer) == before


def test_a_machine_with_its_own_certificates_builds_with_them() -> None:
    assert build_arguments({"SSL_CERT_FILE": "/x/ca.pem", "HTTPS_PROXY": "http://p"}) == {
        "HTTPS_PROXY": "http://p",
        "PIP_CERT": "/etc/ssl/certs/ca-certificates.crt",
    }
    assert build_arguments({}) == {}


@pytest.fixture
def no_engine(monkeypatch, tmp_path):
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").touch()
    monkeypatch.setattr(images, "_find_engine", lambda: None)
    monkeypatch.setattr(images, "TRAINER", tmp_path)


@pytest.mark.usefixtures("no_engine")
def test_without_an_engine_auto_says_that_nothing_isolates() -> None:
    lines = []
    runtime = choose_runtime("auto", lambda part, line: lines.append(line))
    assert runtime is Runtime.PROCESS
    assert any("WITHOUT ISOLATION" in line for line in lines)


@pytest.mark.usefixtures("no_engine")
def test_asking_for_docker_without_an_engine_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no container engine answers"):
        choose_runtime("docker", lambda part, line: None)


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="podman"):
        choose_runtime("podman", lambda part, line: None)
