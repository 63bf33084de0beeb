"""A commit of el-nigma among the inputs, run instead of the image's own."""

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
from elnigma_runner.checkout import is_worth_another_try

PROJECT = Path(__file__).resolve().parents[1]
RunAttempt = Callable[..., Run]


COMMIT = "c0ffee" + 34 * "0"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """El-nigma among the inputs, changed so that it can be told from the installed one."""
    folder = tmp_path / "in" / "elnigma"
    ignore = shutil.ignore_patterns("__pycache__", ".venv", "tests", "uv.lock")
    shutil.copytree(PROJECT, folder, ignore=ignore)
    run_module = folder / "src" / "elnigma" / "validation" / "run.py"
    run_module.write_text(run_module.read_text() + "\nprint('checked out')\n")
    return folder


def _point_to(checkout: Path) -> dict[str, str]:
    """Return the variables by which the runner finds a checkout, and a cache beside it."""
    inputs = checkout.parent
    return {
        "IN": str(inputs),
        "ELNIGMA_COMMIT": COMMIT,
        "CACHE": str(inputs.with_name("cache")),
    }


VALIDATE = ("validate", "--system", "feature_set", "--module", str(EXAMPLES / "momentum"))


@pytest.mark.parametrize("below", [".", "include/elnigma"])
def test_a_commit_is_run_from_where_it_lies(
    run_attempt: RunAttempt, checkout: Path, below: str
) -> None:
    if below != ".":
        project = checkout.rename(checkout.with_name("moved"))
        (checkout / below).parent.mkdir(parents=True)
        project.rename(checkout / below)
    run = run_attempt(*VALIDATE, **_point_to(checkout))
    assert run.exit_code == 0
    assert "checked out" in run.console
    assert f"el-nigma commit {COMMIT}" in run.console
    assert "requirements: the image's own" in run.console


def test_two_runners_at_once_install_once(checkout: Path, tmp_path: Path) -> None:
    (checkout / "requirements.txt").write_text(f"tiny @ {_make_wheel(tmp_path).as_uri()}\n")
    runners = []
    for name in ("a", "b"):
        out = tmp_path / name
        out.mkdir()
        environment = build_environment(out, **_point_to(checkout))
        command = [sys.executable, "-P", "-m", "elnigma_runner", *VALIDATE, "--out", str(out)]
        runners.append((out, subprocess.Popen(command, env=environment)))
    assert [runner.wait() for _, runner in runners] == [0, 0]
    consoles = [(out / "console.log").read_text() for out, _ in runners]
    assert sum("installing" in console for console in consoles) == 1


def test_only_what_the_image_lacks_is_installed_once(
    run_attempt: RunAttempt, checkout: Path, tmp_path: Path
) -> None:
    wheel = _make_wheel(tmp_path)
    (checkout / "requirements.txt").write_text(f"tiny @ {wheel.as_uri()}\nnumpy\n")
    run_module = checkout / "src" / "elnigma" / "validation" / "run.py"
    text = "import tiny\nprint('tiny says', tiny.WORD)\n" + run_module.read_text()
    # The future import must stay the first statement.
    future = "from __future__ import annotations\n"
    run_module.write_text(future + text.replace(future, ""))
    first = run_attempt(*VALIDATE, name="first", **_point_to(checkout))
    assert first.verdict["reason"] is None
    assert "tiny says hello" in first.console
    second = run_attempt(*VALIDATE, name="second", **_point_to(checkout))
    assert second.exit_code == 0
    assert "installing" in first.console
    assert "installing" not in second.console


def test_what_cannot_be_installed_may_be_tried_again(
    run_attempt: RunAttempt, checkout: Path
) -> None:
    (checkout / "requirements.txt").write_text(
        "tiny @ http://127.0.0.1:9/tiny-1-py3-none-any.whl\n"
    )
    run = run_attempt(*VALIDATE, **_point_to(checkout))
    assert (run.exit_code, run.verdict["class"]) == (75, "temporary")
    assert "requirements cannot be installed" in run.verdict["reason"]


def test_what_is_required_is_prepared_before_and_apart_from_the_training(
    run_attempt: RunAttempt, checkout: Path, tmp_path: Path
) -> None:
    """Filled by ``prepare``, the cache serves a runner that cannot write to it."""
    (checkout / "requirements.txt").write_text(f"tiny @ {_make_wheel(tmp_path).as_uri()}\n")
    prepared = run_attempt("prepare", name="prepared", **_point_to(checkout))
    assert (prepared.exit_code, prepared.verdict["class"]) == (0, "ok")
    assert "installing" in prepared.console
    assert {file["path"] for file in prepared.verdict["files"]} == {"console.log"}
    assert "checked out" not in prepared.console  # no trainer has run
    cache = tmp_path / "cache"
    for lock in cache.rglob("*.lock"):
        lock.unlink()  # what is complete is not even locked

    trained = run_attempt(*VALIDATE, name="trained", **_point_to(checkout))

    assert trained.verdict["reason"] is None
    assert "installing" not in trained.console
    assert not list(cache.rglob("*.lock"))


def test_what_was_not_prepared_is_not_installed_where_nothing_can_be_added(
    run_attempt: RunAttempt, checkout: Path, tmp_path: Path
) -> None:
    (checkout / "requirements.txt").write_text(f"tiny @ {_make_wheel(tmp_path).as_uri()}\n")
    closed = tmp_path / "closed"
    closed.write_text("root may write to any folder, but not below a file")
    run = run_attempt(*VALIDATE, **{**_point_to(checkout), "CACHE": str(closed)})
    assert (run.exit_code, run.verdict["class"]) == (75, "temporary")
    assert "it was not prepared where this runs" in run.verdict["reason"]


def test_there_is_nothing_to_prepare_without_a_commit(run_attempt: RunAttempt) -> None:
    run = run_attempt("prepare")
    assert (run.exit_code, run.verdict["class"]) == (2, "config")
    assert "no commit of el-nigma to prepare" in run.verdict["reason"]


@pytest.mark.parametrize("requirements", ["foo @@ bar", "--no-index\nno-such-package==1"])
def test_wrong_requirements_are_the_branchs_fault(
    run_attempt: RunAttempt, checkout: Path, requirements: str
) -> None:
    (checkout / "requirements.txt").write_text(requirements + "\n")
    run = run_attempt("prepare", **_point_to(checkout))
    assert (run.exit_code, run.verdict["class"]) == (2, "config")
    assert run.verdict["reason"].startswith("config: the requirements cannot be installed: ERROR")


@pytest.mark.parametrize(
    ("lines", "is_temporary"),
    [
        (["ERROR: No matching distribution found for tiny"], False),
        (["ERROR: ResolutionImpossible: for help visit", "conflicting dependencies"], False),
        (["error: subprocess-exited-with-error"], False),
        (["ERROR: HTTP error 404 while getting http://index/tiny"], False),
        (["ERROR: HTTP error 503 while getting http://index/tiny"], True),
        (
            [
                "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnection",
                "ERROR: No matching distribution found for tiny",
            ],
            True,
        ),
        (["fatal: unable to access 'https://host/x': Could not resolve host: host"], True),
        (["ERROR: [Errno 28] No space left on device"], True),
    ],
)
def test_pips_words_tell_whether_to_ask_again(lines: list[str], is_temporary: bool) -> None:
    assert is_worth_another_try("\n".join(lines)) is is_temporary


@pytest.mark.parametrize(
    ("commit", "part"),
    [("main", "is not a full commit id"), ("0" * 40, "holds no el-nigma project")],
)
def test_no_commit_and_no_project_are_config_errors(
    run_attempt: RunAttempt, tmp_path: Path, commit: str, part: str
) -> None:
    run = run_attempt(*VALIDATE, IN=str(tmp_path), ELNIGMA_COMMIT=commit)
    assert (run.exit_code, run.verdict["class"]) == (2, "config")
    assert part in run.verdict["reason"]


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
