"""What a server needs of us, in one folder: wheels with their digests, installer, service."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from touchstone.settings import Settings
from touchstone_agent.protocol.errors import ConfigurationError

REPOSITORY = Path(__file__).resolve().parents[3]
FACTS = "bundle.json"
PYTHONS = ("3.11", "3.12")
PIP = "pip==26.3"
_PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
_BUILD_SECONDS = 900
_QUIET = ("--quiet", "--disable-pip-version-check")
_SOURCES = ("src", "packaging", "pyproject.toml", "README.md", "requirements-server.txt")


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """
    A bundle.

    :param folder: Where it is.
    :param version: Version of the agent in it, with the commit that it was made of.
    :param files: Digest by path in it.
    """

    folder: Path
    version: str
    files: Mapping[str, str]

    def read_all(self) -> Iterator[tuple[str, bytes]]:
        """Yield each file with what is in it."""
        for name in self.files:
            yield name, (self.folder / name).read_bytes()
        yield FACTS, (self.folder / FACTS).read_bytes()


def find_bundle(settings: Settings) -> Bundle:
    """
    Return the bundle of this installation; a checkout makes it when its agent has changed.

    :raises ConfigurationError: If there is none, and none can be made here.
    """
    if settings.agent_bundle is not None:
        return read_bundle(settings.agent_bundle)
    if not (REPOSITORY / "agent" / "pyproject.toml").is_file():
        raise ConfigurationError(
            "there are no wheels of the agent here: set TOUCHSTONE_AGENT_BUNDLE to a folder that "
            "`touchstone agent bundle` has made in a checkout"
        )
    version = find_version()
    folder = settings.state_dir.absolute() / "bundles" / version
    with _held(folder.parent):
        if not (folder / FACTS).is_file():
            build_bundle(folder, version)
    return read_bundle(folder)


def read_bundle(folder: Path) -> Bundle:
    """
    Read what a bundle is.

    :raises ConfigurationError: If it is none.
    """
    try:
        facts = json.loads((folder / FACTS).read_text())
        return Bundle(folder=folder, version=str(facts["version"]), files=dict(facts["files"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{folder} holds no bundle of the agent ({type(error).__name__}); "
            "`touchstone agent bundle` makes one"
        ) from error


def find_version() -> str:
    """Return the version of the agent of this checkout: its number, commit, and changes since."""
    agent = REPOSITORY / "agent"
    number = _find_number((agent / "pyproject.toml").read_text())
    digest = hashlib.sha256()
    for path in sorted(path for name in _SOURCES for path in _list_files(agent / name)):
        digest.update(str(path.relative_to(agent)).encode() + b"\0" + path.read_bytes())
    sources = digest.hexdigest()[:8]
    commit = _ask_git("rev-parse", "--short=10", "HEAD")
    if commit is None:
        return f"{number}+s{sources}"
    is_changed = _ask_git("status", "--porcelain", "--", "agent")
    return f"{number}+g{commit}" + (f".s{sources}" if is_changed else "")


def build_bundle(folder: Path, version: str) -> None:
    """
    Make a bundle: the agent's wheel, and the wheels that it is locked to, for each Python.

    :param folder: Where; it is there whole or not at all.
    :param version: What the agent's wheel will say.
    :raises ConfigurationError: If it cannot be made.
    """
    machine = platform.machine()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as name:
        part = Path(name) / "bundle"
        wheels = part / "wheels"
        wheels.mkdir(parents=True)
        agent, pip = REPOSITORY / "agent", find_pip()
        source = Path(name) / "agent"
        shutil.copytree(agent, source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        project = source / "pyproject.toml"
        number = _find_number(project.read_text())
        line = f'version = "{number}"'
        project.write_text(project.read_text().replace(line, f'version = "{version}"', 1))
        _run(*pip, "wheel", *_QUIET, "--no-deps", "--wheel-dir", str(wheels), str(source))
        requirements = agent / "requirements-server.txt"
        for python in PYTHONS:
            _download(pip, wheels, python, machine, "--require-hashes", "-r", str(requirements))
        _download(pip, wheels, PYTHONS[0], machine, PIP)
        shutil.copyfile(requirements, part / "requirements.txt")
        for file in ("install.py", "touchstone-agent.service"):
            shutil.copyfile(agent / "packaging" / file, part / file)
        files = {
            str(path.relative_to(part)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(part.rglob("*"))
            if path.is_file() and path.name != ".gitignore"
        }
        facts = {"version": version, "machine": machine, "files": files}
        (part / FACTS).write_text(json.dumps(facts, indent=2))
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)


def find_pip() -> tuple[str, ...]:
    """
    Return the command of a pip: this Python's own, as in an image, or one that uv brings.

    :raises ConfigurationError: If there is neither.
    """
    if importlib.util.find_spec("pip") is not None:
        return (sys.executable, "-m", "pip")
    for candidate in (REPOSITORY / ".tools/bin/uv", shutil.which("uv")):
        if candidate and Path(candidate).is_file():
            return (str(candidate), "tool", "run", "--quiet", "--from", PIP, "pip")
    raise ConfigurationError("there is neither pip nor uv here: run `make setup`")


def _download(pip: tuple[str, ...], wheels: Path, python: str, machine: str, *what: str) -> None:
    platforms = [part for name in _PLATFORMS for part in ("--platform", f"{name}_{machine}")]
    _run(
        *(*pip, "download", *_QUIET, "--no-deps", "--only-binary", ":all:"),
        *("--python-version", python, *platforms, "--dest", str(wheels), *what),
    )


def _run(*argv: str) -> None:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
            check=False,
            env={**os.environ, "UV_PYTHON_PREFERENCE": "system"},
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigurationError(f"{Path(argv[0]).name} does not end") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise ConfigurationError(
            f"the agent's bundle cannot be made: {Path(argv[0]).name} says: {said[:300]}"
        )


def _ask_git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(REPOSITORY), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _find_number(project: str) -> str:
    found = re.search(r'^version = "([0-9][0-9.a-z]*)"$', project, re.MULTILINE)
    if found is None:
        raise ConfigurationError("agent/pyproject.toml has no version")
    return found[1]


def _list_files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        yield from (p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Let nobody else make the same bundle meanwhile."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    build_bundle(Path(sys.argv[1]), find_version())
