"""
A commit of el-nigma among the inputs, and what it requires beyond the image.

That is installed once and kept in the cache: built under another name and renamed when complete,
under a lock of its own. A second runner waits for the first and finds the work done; one that dies
leaves nothing that could be taken for a whole. Where the cache is read-only, what is in it is all
there is: it was filled by ``elnigma-run prepare``, beside which no submitted code runs.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elnigma_runner.console import Console
from elnigma_runner.settings import Settings
from elnigma_runner.trainer import PrepareError, PrepareStopped, Run, Trainer

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# Where the commit lies among the inputs, and where the trainer's project may lie in it.
_FOLDER = "elnigma"
_PROJECT_FOLDERS = (".", "include/elnigma")
_REQUIREMENTS = "requirements.txt"
# What pip says when asking again is of no use,
_FINAL_ERRORS = re.compile(
    r"do not match the hashes|hashes are required|no matching distribution|invalid requirement|"
    r"conflicting dependencies|requires a different python|not a supported wheel|"
    r"http error 404|subprocess-exited-with-error|failed building wheel|failed to build",
    re.IGNORECASE,
)
# unless it says this before: an index that cannot be reached has "no matching distribution", too.
_NETWORK_ERRORS = re.compile(
    r"retrying \(|max retries exceeded|connection (broken|refused|reset)|timed out|"
    r"name resolution|name or service not known|could not resolve host|unable to access|"
    r"http error 5\d\d|could not fetch url",
    re.IGNORECASE,
)
_LINES_READ = 50


class Checkout:
    """
    Makes the trainer of one commit ready.

    :param settings: Names inputs, commit and cache.
    :param console: Where the work is described.
    :param work: Folder for temporary files of this attempt.
    :param run: Runs a command under the attempt's limits.
    """

    def __init__(self, settings: Settings, console: Console, work: Path, run: Run) -> None:
        self._settings = settings
        self._console = console
        self._work = work
        self._run = run
        self._user = settings.user
        # These commands are the runner's own: they may need its proxy, index and CA settings.
        self._environment = {
            **os.environ,
            "HOME": str(work),
            "PIP_NO_INPUT": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def prepare(self) -> Trainer:
        """
        Return the commit's trainer.

        :raises PrepareError: If it cannot be had.
        :raises PrepareStopped: If a limit or an abort came first.
        """
        commit = self._settings.commit
        if not commit or not _COMMIT.fullmatch(commit):
            raise PrepareError(f"{commit!r} is not a full commit id", temporary=False)
        project = self._find_project(self._settings.inputs / _FOLDER)
        python, sites = self._find_python(project)
        source = project / "src" if (project / "src").is_dir() else project
        return Trainer(
            command=[python, "-P", "-m", "elnigma"],
            source=f"el-nigma commit {commit}",
            environment={"PYTHONPATH": str(source), "ELNIGMA_ROOT": str(project)},
            sites=sites,
        )

    def _find_project(self, checkout: Path) -> Path:
        for name in _PROJECT_FOLDERS:
            file = checkout / name / "pyproject.toml"
            try:
                project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
            except (OSError, ValueError):
                continue
            if project.get("name") in ("elnigma", "el-nigma"):
                return (checkout / name).resolve()
        raise PrepareError("the commit holds no el-nigma project", temporary=False)

    def _find_python(self, project: Path) -> tuple[str, tuple[str, ...]]:
        own = _read_requirements(Path(__file__).resolve().parents[2] / _REQUIREMENTS)
        wanted = _read_requirements(project / _REQUIREMENTS)
        if not wanted or wanted == own:
            self._console.say("requirements: the image's own")
            return sys.executable, tuple(sys.path)
        # What is missing depends on what the image has and on the interpreter.
        lock = "\n".join([sys.version, sys.prefix, *sorted(own), "--", *sorted(wanted)])
        key = hashlib.sha256(lock.encode()).hexdigest()
        with self._made_once("environments", key) as partial:
            if partial is not None:
                self._install(project / _REQUIREMENTS, partial)
        folder = self._settings.cache / "environments" / key
        sites = tuple(str(site) for site in folder.glob("lib/python*/site-packages"))
        return str(folder / "bin" / "python"), (*sites, *sys.path)

    def _install(self, requirements: Path, folder: Path) -> None:
        self._console.say("installing the requirements that the image lacks")
        self._check([sys.executable, "-m", "venv", str(folder)], "python -m venv failed")
        (site,) = folder.glob("lib/python*/site-packages")
        # Behind the environment's own packages stand the image's: only what differs is installed.
        images = [path for path in sys.path if path.endswith("site-packages")]
        with self._user.acting():
            (site / "image.pth").write_text("\n".join(images) + "\n")
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--no-cache-dir"]
        self._check([*pip, "-r", str(requirements)], "the requirements cannot be installed")

    @contextmanager
    def _made_once(self, kind: str, key: str) -> Iterator[Path | None]:
        """
        Yield a folder to fill, or ``None`` if somebody has filled it already.

        The folder takes its name when the block ends well.

        :raises PrepareError: If it is not there, and nothing can be added to the cache.
        """
        parent = self._settings.cache / kind
        target, partial = parent / key, parent / f".{key}.partial"
        if target.is_dir():
            yield None
            return
        try:
            with self._user.acting():
                parent.mkdir(parents=True, exist_ok=True)
                lock = (parent / f".{key}.lock").open("w")
        except OSError as error:
            raise PrepareError(
                "what the commit requires is not in the cache, which is read-only: it was not "
                "prepared where this runs",
                temporary=True,
            ) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if target.is_dir():
                yield None
                return
            with self._user.acting():
                # Left by a runner that died: nobody else holds the lock.
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
            yield partial
            with self._user.acting():
                partial.rename(target)

    def _call(self, argv: list[str]) -> int:
        ending = self._run(argv, self._environment, self._work)
        if ending.stop is not None:
            raise PrepareStopped(ending)
        return ending.exit_code

    def _check(self, argv: list[str], problem: str) -> None:
        if self._call(argv) != 0:
            # pip's advice comes after the error itself.
            lines = self._console.last_lines(_LINES_READ)
            line = next((line for line in lines if line.startswith("ERROR")), "")
            temporary = is_worth_another_try("\n".join(lines))
            raise PrepareError(f"{problem}: {line or lines[-1]}", temporary=temporary)


def is_worth_another_try(text: str) -> bool:
    """Tell by what pip has printed whether the same requirements may be installed later."""
    return not _FINAL_ERRORS.search(text) or bool(_NETWORK_ERRORS.search(text))


def _read_requirements(path: Path) -> set[str]:
    """Return the requirements without comments and hashes; empty if there is no such file."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return set()
    text = re.sub(r"\\\n", " ", text)
    lines = (re.sub(r"\s--hash=\S+", "", line.split("#")[0]) for line in text.splitlines())
    return {" ".join(line.split()) for line in lines if line.strip()}
