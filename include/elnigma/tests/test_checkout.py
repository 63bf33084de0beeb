"""A commit of el-nigma from a git repository, in the runner's cache."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import EXAMPLES, Run, build_environment

PROJECT = Path(__file__).resolve().parents[1]
RunAttempt = Callable[..., Run]


def _git(repository: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(
        ["git", "-C", str(repository), *identity, *arguments],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with el-nigma in it, changed so that it can be told from the installed one."""
    folder = tmp_path / "repository"
    ignore = shutil.ignore_patterns("__pycache__", ".venv", "tests", "uv.lock")
    shutil.copytree(PROJECT, folder, ignore=ignore)
    run_module = folder / "src" / "elnigma" / "validation" / "run.py"
    run_module.write_text(run_module.read_text() + "\nprint('checked out')\n")
    _git(folder, "init", "-q", "-b", "main")
    _git(folder, "add", "-A")
    _git(folder, "commit", "-q", "-m", "branch")
    return folder


def _commit(repository: Path) -> str:
    return _git(repository, "rev-parse", "HEAD")


VALIDATE = ("validate", "--system", "feature_set", "--module", str(EXAMPLES / "momentum"))


def test_a_commit_is_fetched_run_and_kept(
    run_attempt: RunAttempt, repository: Path, tmp_path: Path
) -> None:
    variables = {
        "ELNIGMA_GIT": repository.as_uri(),
        "ELNIGMA_COMMIT": _commit(repository),
        "CACHE": str(tmp_path / "cache"),
    }
    first = run_attempt(*VALIDATE, name="first", **variables)
    assert first.exit_code == 0
    assert "checked out" in first.console
    assert f"el-nigma commit {_commit(repository)}" in first.console
    assert "requirements: the image's own" in first.console
    shutil.rmtree(repository)
    second = run_attempt(*VALIDATE, name="second", **variables)
    assert second.exit_code == 0
    assert "fetching" not in second.console


def test_two_runners_at_once_fetch_once(repository: Path, tmp_path: Path) -> None:
    runners = []
    for name in ("a", "b"):
        out = tmp_path / name
        out.mkdir()
        environment = build_environment(
            out, ELNIGMA_GIT=repository.as_uri(), ELNIGMA_COMMIT=_commit(repository),
            CACHE=str(tmp_path / "cache"),
        )  # fmt: skip
        command = [sys.executable, "-P", "-m", "elnigma_runner", *VALIDATE, "--out", str(out)]
        runners.append((out, subprocess.Popen(command, env=environment)))
    assert [runner.wait(timeout=100) for _, runner in runners] == [0, 0]
    consoles = [(out / "console.log").read_text() for out, _ in runners]
    assert sum("fetching" in console for console in consoles) == 1


def test_only_what_the_image_lacks_is_installed_once(
    run_attempt: RunAttempt, repository: Path, tmp_path: Path
) -> None:
    wheel = _make_wheel(tmp_path)
    (repository / "requirements.txt").write_text(f"tiny @ {wheel.as_uri()}\nnumpy\n")
    run_module = repository / "src" / "elnigma" / "validation" / "run.py"
    run_module.write_text("import tiny\nprint('tiny says', tiny.WORD)\n" + run_module.read_text())
    text = run_module.read_text()
    # The future import must stay the first statement.
    future = "from __future__ import annotations\n"
    run_module.write_text(future + text.replace(future, ""))
    _git(repository, "commit", "-q", "-a", "-m", "needs tiny")
    variables = {
        "ELNIGMA_GIT": str(repository),
        "ELNIGMA_COMMIT": _commit(repository),
        "CACHE": str(tmp_path / "cache"),
    }
    first = run_attempt(*VALIDATE, name="first", **variables)
    assert first.verdict["reason"] is None
    assert "tiny says hello" in first.console
    second = run_attempt(*VALIDATE, name="second", **variables)
    assert second.exit_code == 0
    assert "installing" in first.console
    assert "installing" not in second.console


@pytest.mark.parametrize(
    ("git", "commit", "part"),
    [
        ("--upload-pack=touch /tmp/x", "0" * 40, "is not a git URL"),
        ("ext::sh -c x", "0" * 40, "is not a git URL"),
        (None, "main", "is not a full commit id"),
        (None, "0" * 40, "no commit 000"),
        ("/nowhere/repository", "0" * 40, "cannot be fetched"),
    ],
)
def test_a_wrong_commit_or_repository_is_a_config_error(
    run_attempt: RunAttempt, repository: Path, tmp_path: Path,
    git: str | None, commit: str, part: str,
) -> None:  # fmt: skip
    run = run_attempt(
        *VALIDATE, ELNIGMA_GIT=git or str(repository), ELNIGMA_COMMIT=commit,
        CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    assert (run.exit_code, run.verdict["class"]) == (2, "config")
    assert part in run.verdict["reason"]
    assert not list((tmp_path / "cache").glob("trainers/[0-9a-f]*"))


def test_an_unreachable_server_may_be_tried_again(run_attempt: RunAttempt, tmp_path: Path) -> None:
    run = run_attempt(
        *VALIDATE, ELNIGMA_GIT="http://127.0.0.1:9/x.git", ELNIGMA_COMMIT="0" * 40,
        CACHE=str(tmp_path / "cache"),
    )  # fmt: skip
    assert (run.exit_code, run.verdict["class"]) == (75, "temporary")


def _make_wheel(folder: Path) -> Path:
    path = folder / "tiny-1.0-py3-none-any.whl"
    info = "tiny-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny.py", "WORD = 'hello'\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(
            f"{info}/RECORD", f"tiny.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    return path


def test_the_versions_are_told(run_attempt: RunAttempt) -> None:
    run = run_attempt(*VALIDATE)
    assert "keras 3." in run.console
    assert "jax 0." in run.console
    assert json.loads((run.out / "verdict.json").read_text())["contract"] == 1
