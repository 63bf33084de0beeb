"""A fault of the machine is told as one: what the disk does is no matter of the submission's."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import EXAMPLES, GOOD_VALIDATION, Run, build_environment
from elnigma.errors import StorageError, SubmissionError
from elnigma.loading import explained
from elnigma.storage import find_problem, storing, storing_by
from elnigma_runner import outputs
from elnigma_runner.cli import _blame
from elnigma_runner.progress import ProgressRelay
from elnigma_runner.settings import read_settings
from elnigma_runner.verdict import Ending, decide

RunAttempt = Callable[..., Run]
RunScript = Callable[..., Run]
MOMENTUM = str(EXAMPLES / "momentum")


def run_trainer(out: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "elnigma", *arguments, "--out", str(out)],
        env=build_environment(out, **variables),
        check=False,
        capture_output=True,
        text=True,
    )


def test_a_full_disk_under_the_progress_is_the_machines_fault(tmp_path: Path) -> None:
    """/dev/full is a disk that takes nothing."""
    arguments = ("validate", "--system", "feature_set", "--module", MOMENTUM)
    done = run_trainer(tmp_path, *arguments, PROGRESS_FILE="/dev/full")
    assert done.returncode == 75, done.stderr
    error = json.loads((tmp_path / "error.json").read_text())
    assert error["class"] == "temporary"
    assert error["message"] == (
        "temporary: this machine cannot write full: No space left on device; "
        "nothing is wrong with the submission, it is tried elsewhere"
    )


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE])
def test_whatever_happens_to_a_file_of_the_trainers_is_the_machines_fault(code: int) -> None:
    with (
        pytest.raises(StorageError, match=r"cannot write x\.json"),
        storing(Path("x.json")),
    ):
        raise OSError(code, os.strerror(code))


def test_a_file_error_of_the_modules_own_stays_its_own() -> None:
    with pytest.raises(SubmissionError, match="FileNotFoundError"), explained(None):
        Path("/nowhere/weights.csv").read_text()


def test_what_a_library_says_of_a_full_disk_is_told_by_looking(tmp_path: Path) -> None:
    """HDF5 has words of its own for it, and a layer that cannot be saved has them, too."""
    gone = tmp_path / "gone" / "long.h5"
    with pytest.raises(StorageError, match=r"cannot write long\.h5"), storing_by(gone):
        raise RuntimeError("Slist already enabled?")
    with pytest.raises(RuntimeError, match="no config"), storing_by(tmp_path / "long.h5"):
        raise RuntimeError("no config")
    assert find_problem(tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_disk_fault_without_a_word_of_the_trainer_is_the_machines(tmp_path: Path) -> None:
    settings = read_settings(tmp_path, {})
    decision = decide(
        Ending(exit_code=1),
        settings,
        error=None,
        result_problem="missing",
        last_line="elnigma: error.json cannot be written",
        disk_fault="No space left on device",
    )
    assert (decision.exit_code, decision.error_class) == (75, "temporary")
    assert "No space left on device" in str(decision.reason)


def test_what_the_trainer_said_outweighs_the_disk(tmp_path: Path) -> None:
    decision = decide(
        Ending(exit_code=3),
        read_settings(tmp_path, {}),
        error={"class": "submission", "message": "wrong shape"},
        result_problem="missing",
        last_line="",
        disk_fault="No space left on device",
    )
    assert (decision.exit_code, decision.reason) == (3, "wrong shape")


def test_a_full_disk_under_the_runners_progress_ends_nothing(tmp_path: Path) -> None:
    user = read_settings(tmp_path, {}).user
    relay = ProgressRelay(tmp_path / "source", Path("/dev/full"), user)
    relay.write({"t": 0.0, "phase": "training", "percent": 1.0})


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [(OSError(errno.ENOSPC, "No space left on device"), 75), (OSError(errno.EPERM, "no"), 1)],
)
def test_a_fault_of_the_machine_under_the_runner_is_the_machines(
    error: OSError, exit_code: int
) -> None:
    assert _blame(error).exit_code == exit_code


def test_room_for_the_verdict_is_kept_and_given_back(run_script: RunScript) -> None:
    run = run_script(
        GOOD_VALIDATION
        + "print('reserve:', (out / '.reserve').stat().st_blocks * 512 >= 2**20, flush=True)\n"
    )
    assert run.exit_code == 0
    assert "reserve: True" in run.console
    assert not (run.out / outputs.RESERVE).exists()
    assert outputs.RESERVE not in {file["path"] for file in run.verdict["files"]}


def test_a_folder_that_vanishes_ends_the_attempt_as_the_machines_fault(tmp_path: Path) -> None:
    script = tmp_path / "trainer"
    out = tmp_path / "out"
    out.mkdir()
    script.write_text(
        f"#!{sys.executable} -P\nimport shutil\nshutil.rmtree({str(out)!r})\nexit(1)\n"
    )
    script.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "elnigma_runner", "validate"],
        env=build_environment(out, TRAINER=str(script)),
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 75, done.stderr
    assert "no verdict can be written" in done.stderr


def test_files_that_cannot_be_opened_are_the_machines_fault(tmp_path: Path) -> None:
    """Of a process that may open no more files, the trainer's own fail."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    path, held = tmp_path / "progress.jsonl", []

    def open_one() -> None:
        with storing(path):
            held.append(path.open("ab"))

    def open_many() -> None:
        for _ in range(1000):
            open_one()

    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
        with pytest.raises(StorageError, match="Too many open files"):
            open_many()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for file in held:
            file.close()


# --- what the last line says -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        (r"\rfinished 100%\rno, it failed", "no, it failed"),
        (r"10%\r20%\r", "20%"),
        (r"\x1b[31mred\x1b[0m after all", "red after all"),
        (r"\x1b]0;title\x07done", "done"),
    ],
)
def test_the_last_line_is_what_a_terminal_would_show(
    run_script: RunScript, printed: str, reason: str
) -> None:
    run = run_script(f'import sys; sys.stdout.write("{printed}"); sys.exit(3)')
    assert run.verdict["reason"] == reason


def test_the_runners_words_stand_on_a_line_of_their_own(run_script: RunScript) -> None:
    run = run_script('import sys; sys.stdout.write("half a line"); sys.exit(3)')
    assert "half a line\n[runner] half a line\n" in run.console


@pytest.mark.parametrize("is_of_submission", [False, True])
def test_a_file_that_a_line_of_the_submission_opens_is_its_own_affair(
    tmp_path: Path, is_of_submission: bool
) -> None:
    """As with too many open files: whose they are, the lines tell that were at work."""
    file = (tmp_path if is_of_submission else tmp_path.parent) / "work.py"
    code = compile("raise OSError(24, 'Too many open files')", str(file), "exec")
    kind = SubmissionError if is_of_submission else StorageError

    with pytest.raises(kind, match=r"OSError.*Too many open files"), explained(tmp_path):
        exec(code)  # it has another file's name


def test_why_it_ends_is_written_where_no_more_files_can_be_opened(tmp_path: Path) -> None:
    script = """
import os, sys
from elnigma import cli

def take_all(parsed):
    while True:
        os.open(os.devnull, os.O_RDONLY)

cli._run = take_all
sys.exit(cli.main(sys.argv[1:]))
"""
    arguments = ["train", "--prediction-interval", "5", "--out", str(tmp_path)]

    done = subprocess.run([sys.executable, "-c", script, *arguments], check=False)

    assert done.returncode == StorageError.exit_code
    assert json.loads((tmp_path / "error.json").read_text())["class"] == "temporary"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one MiB."""
    if os.geteuid() != 0:
        pytest.skip("NOT ROOT: no disk can be mounted, and a nearly full one was NOT tested")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "touchstone-test", str(folder)]
    subprocess.run(mount, check=True)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_without_room_for_an_explanation_has_a_fault(small_disk: Path) -> None:
    """A page that somebody else has just given back does not make it a disk that can be used."""
    assert outputs.find_fault(small_disk) is None
    (small_disk / "filler").write_bytes(bytes(1024**2 - 16 * 1024))

    assert outputs.find_fault(small_disk) == "No space left on device"
    assert {path.name for path in small_disk.iterdir()} == {"filler"}
