"""Which runtime attempts get, and the trainer image that belongs to this checkout."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from touchstone.settings import Settings
from touchstone.stack.layout import REPOSITORY, Runtime
from touchstone_agent.protocol.errors import ConfigurationError, PermanentError

if TYPE_CHECKING:
    from docker import DockerClient

TRAINER = REPOSITORY / "include/elnigma"
DOCKERFILE = "include/elnigma/Dockerfile"
_SOURCES = (
    ".dockerignore",
    DOCKERFILE,
    "include/elnigma/CONTRACT.md",
    "include/elnigma/pyproject.toml",
    "include/elnigma/requirements.txt",
    "include/elnigma/requirements-cuda.txt",
    "include/elnigma/src",
    # The program inside a rented pod.
    "agent/requirements-pod.txt",
    "agent/src",
)
LOCAL_TARGET = "cpu"
"""What a machine builds for itself."""
_SOURCES_LABEL = "touchstone.sources"
_BASE_IMAGE = "debian:bookworm-slim"
_INSIDE_CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_PING_SECONDS = 30
_BUILD_SECONDS = 1800
_BUILD_LINES = 15

Report = Callable[[str, str], None]


class ImageFailed(PermanentError):
    """The trainer image cannot be built; the message says what to do instead."""


def choose_runtime(wanted: str, report: Report) -> Runtime:
    """
    Decide what attempts run in, and have the trainer ready for it.

    :param wanted: ``docker``, ``process``, or ``auto`` for Docker when an engine answers.
    :param report: Takes progress.
    :raises ConfigurationError: If ``wanted`` is none of these, or Docker was asked for and no
        engine answers.
    :raises ImageFailed: If the trainer image cannot be built.
    """
    if wanted not in ("auto", *Runtime):
        raise ConfigurationError(f"runtime {wanted!r}: use auto, docker or process")
    client = _find_engine() if wanted != Runtime.PROCESS else None
    if client is not None:
        _ensure_image(client, report)
        return Runtime.DOCKER
    if wanted == Runtime.DOCKER:
        raise ConfigurationError(
            "no container engine answers (DOCKER_HOST, or /var/run/docker.sock): start one, or "
            "use --runtime process"
        )
    if not (TRAINER / ".venv/bin/python").exists():
        raise ConfigurationError("the trainer's own environment is missing: run `make setup`")
    report("runtime", "PROCESS: submitted code runs WITHOUT ISOLATION, as you, on this machine.")
    if wanted == "auto":
        report("runtime", "No container engine answers; start one for isolated trainings.")
    return Runtime.PROCESS


def hash_sources(folder: Path) -> str:
    """
    Identify what a trainer image is built from. Pure but for reading.

    :param folder: The build context: the repository.
    :return: SHA-256 over the name and content of everything the Dockerfile copies, and itself.
    """
    digest = hashlib.sha256()
    for path in _list_sources(folder):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def build_arguments(environ: Mapping[str, str]) -> dict[str, str]:
    """
    Return the build arguments this machine's network needs. Pure.

    :param environ: The shell's environment.
    """
    names = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
    arguments = {name: environ[name] for name in (*names, "PIP_INDEX_URL") if environ.get(name)}
    if environ.get("SSL_CERT_FILE") or environ.get("PIP_CERT"):
        # Where Debian keeps it; a base image brings a bundle of its own where one is needed.
        arguments["PIP_CERT"] = _INSIDE_CA_BUNDLE
    return arguments


def _list_sources(folder: Path) -> Iterator[Path]:
    for name in _SOURCES:
        source = folder / name
        for path in [source] if source.is_file() else sorted(source.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def _find_engine() -> DockerClient | None:
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=_PING_SECONDS)
        client.ping()
    except (DockerException, OSError):
        return None
    return client


def _ensure_image(client: DockerClient, report: Report) -> None:
    from docker.errors import ImageNotFound

    settings = Settings()
    name = settings.trainer_image
    if name != Settings.model_fields["trainer_image"].default:
        report("image", f"{name} (configured; not built here)")
        return
    wanted = hash_sources(REPOSITORY)
    try:
        labels = client.images.get(name).labels
    except ImageNotFound:
        labels = {}
    if labels.get(_SOURCES_LABEL) == wanted:
        report("image", f"{name} is that of this checkout")
        return
    report("image", f"building {name}; the first time takes some minutes")
    _build(client, name, LOCAL_TARGET, {_SOURCES_LABEL: wanted})
    report("image", f"{name} built")


def build_image(target: str, name: str) -> None:
    """
    Build an image of the trainer from this checkout.

    :param target: Of the Dockerfile: ``cpu``, ``cuda``, ``pod-cpu`` or ``pod-cuda``.
    :param name: With tag.
    :raises ConfigurationError: If no container engine answers.
    :raises ImageFailed: If it cannot be built.
    """
    client = _find_engine()
    if client is None:
        raise ConfigurationError("no container engine answers (DOCKER_HOST): start one")
    _build(client, name, target, {_SOURCES_LABEL: hash_sources(REPOSITORY)})


def _build(client: DockerClient, name: str, target: str, labels: Mapping[str, str]) -> None:
    from docker.errors import DockerException

    client.api.timeout = _BUILD_SECONDS
    output: list[str] = []
    error = ""
    try:
        for item in client.api.build(
            path=str(REPOSITORY),
            dockerfile=DOCKERFILE,
            target=target,
            tag=name,
            labels=dict(labels),
            buildargs=build_arguments(os.environ),
            # The machine's own resolver, proxy and routes: what works here works in the build.
            network_mode="host",
            rm=True,
            forcerm=True,
            decode=True,
        ):
            step: Mapping[str, object] = item
            output += str(step.get("stream", "")).splitlines()
            error = error or str(step.get("error", ""))
    except DockerException as failure:
        error = str(failure)
    if error:
        tail = "\n".join(f"  {line}" for line in output[-_BUILD_LINES:] if line.strip())
        raise ImageFailed(
            f"the trainer image {name} cannot be built: {error}\n{tail}\n"
            f"If the base image cannot be pulled, scripts/make-base-image.sh makes {_BASE_IMAGE} "
            "from Debian packages; `touchstone up --runtime process` does without containers."
        )
