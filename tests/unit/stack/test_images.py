from __future__ import annotations

import pytest
from docker.utils.build import exclude_paths

from touchstone.stack import images
from touchstone.stack.images import (
    DOCKERFILE,
    build_arguments,
    choose_runtime,
    hash_sources,
)
from touchstone.stack.layout import REPOSITORY, Runtime
from touchstone_agent.protocol.errors import ConfigurationError

SOURCE = "include/elnigma/src/elnigma/cli.py"


@pytest.fixture
def repository(tmp_path):
    for name in (
        SOURCE,
        "include/elnigma/Dockerfile",
        "include/elnigma/requirements-cuda.txt",
        "agent/requirements-pod.txt",
        "agent/src/touchstone_agent/pod/serve.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        SOURCE,
        "include/elnigma/Dockerfile",
        "include/elnigma/requirements-cuda.txt",
        "agent/requirements-pod.txt",
        "agent/src/touchstone_agent/pod/serve.py",
    ],
)
def test_a_changed_source_is_another_image(repository, name) -> None:
    before = hash_sources(repository)
    (repository / name).write_text("2")
    assert hash_sources(repository) != before


def test_a_renamed_source_is_another_image(repository) -> None:
    before = hash_sources(repository)
    (repository / SOURCE).rename(repository / "include/elnigma/src/elnigma/main.py")
    assert hash_sources(repository) != before


def test_what_is_not_in_the_image_does_not_change_it(repository) -> None:
    before = hash_sources(repository)
    for name in (
        "include/elnigma/tests/test_cli.py",
        "include/elnigma/src/elnigma/__pycache__/cli.pyc",
        "agent/README.md",
        "plugins/touchstone/cli.py",
    ):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("x")
    assert hash_sources(repository) == before


def test_all_that_the_dockerfile_copies_is_let_into_its_context_and_makes_the_hash() -> None:
    lines = (REPOSITORY / DOCKERFILE).read_text().splitlines()
    copied = {
        name
        for line in lines
        if line.startswith("COPY ") and "--from=" not in line
        for name in line.split()[1:-1]
    }
    assert copied
    assert copied <= set(images._SOURCES)
    patterns = (REPOSITORY / ".dockerignore").read_text().splitlines()
    excluded = [line for line in patterns if line and not line.startswith("#")]
    sent = exclude_paths(str(REPOSITORY), excluded)
    assert {name for name in copied if name not in sent} == set()


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
