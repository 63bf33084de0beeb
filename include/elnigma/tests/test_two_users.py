"""A runner that is root, as its container starts it, and a trainer that is somebody else."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from conftest import GOOD_VALIDATION, Run, build_environment
from elnigma_runner.settings import SettingsError, read_settings

NOBODY = 65534
PYTHON = "/usr/bin/python3"
AS_IN_A_CONTAINER = (
    "setpriv",
    "--bounding-set=-all,+setuid,+setgid,+kill",
    "--inh-caps=-all",
    "--no-new-privs",
)
Split = Callable[..., Run]

# What hostile code calls, past everything that Python could see of it.
LIBC = "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"


@pytest.fixture
def out() -> Iterator[Path]:
    """An output folder as the agent makes it, below folders that everybody may enter."""
    if os.geteuid() != 0:
        pytest.skip("NOT ROOT: that runner and trainer are two users was NOT tested")
    if shutil.which("setpriv") is None or not os.access(PYTHON, os.X_OK):
        pytest.skip("NO setpriv OR /usr/bin/python3: the two users were NOT tested")
    folder = Path(tempfile.mkdtemp(prefix="two-users-"))
    folder.chmod(0o755)
    (folder / "out").mkdir()
    (folder / "out").chmod(0o1777)
    yield folder / "out"
    shutil.rmtree(folder)


@pytest.fixture
def run_split(out: Path) -> Split:
    """Run a script as the trainer of a runner that is root; return what was left."""

    def run(source: str, **variables: str) -> Run:
        script = out.parent / "trainer"
        script.write_text(f"#!{PYTHON}\n{source}\n")
        script.chmod(0o755)
        variables = {"TRAINER": str(script), "TRAINER_USER": f"{NOBODY}:{NOBODY}", **variables}
        environment = build_environment(out, **variables)
        environment["HOME"] = "/tmp"
        finished = subprocess.run(
            [*AS_IN_A_CONTAINER, sys.executable, "-P", "-m", "elnigma_runner", "validate"],
            env=environment,
            timeout=60,
            check=False,
            cwd="/tmp",
            # What stops the runner's group, if it can, stops no test.
            start_new_session=True,
        )
        verdict = json.loads((out / "verdict.json").read_text())
        return Run(exit_code=finished.returncode, out=out, verdict=verdict)

    return run


def test_the_trainer_is_another_user_without_any_right(run_split: Split) -> None:
    run = run_split(
        GOOD_VALIDATION + "print(os.getresuid(), os.getresgid(), os.getgroups())\n"
        "print(open('/proc/self/status').read())\n"
        "print(open('/proc/self/oom_score_adj').read(), 'is its score')\n"
        "open('/dev/stdout', 'w').write('reopened\\n')\n"
        "print(sorted(os.listdir('/proc/self/fd')))"
    )
    assert run.verdict["reason"] is None
    nobody = (NOBODY, NOBODY, NOBODY)
    assert f"{nobody} {nobody} []" in run.console
    for right in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
        assert f"{right}:\t0000000000000000" in run.console
    assert "NoNewPrivs:\t1" in run.console
    assert "900\n is its score" in run.console
    assert "reopened" in run.console
    # Its own three, and the one that lists them.
    assert "['0', '1', '2', '3']" in run.console
    assert "shares a user" not in run.console


def test_the_trainer_cannot_stop_end_trace_or_read_its_runner(run_split: Split) -> None:
    run = run_split(
        LIBC + GOOD_VALIDATION + "runner = os.getppid()\n"
        "print('signals', [libc.kill(runner, n) for n in (19, 9, 15, 6, 18)])\n"
        "print('group', libc.kill(-os.getpgid(runner), 19))\n"
        "print('trace', libc.ptrace(16, runner, 0, 0))\n"
        "print('slow', libc.setpriority(0, runner, 19))\n"
        "for name in ('environ', 'mem', 'maps', 'fd'):\n"
        "    try:\n"
        "        os.listdir(f'/proc/{runner}/{name}') if name == 'fd' else "
        "open(f'/proc/{runner}/{name}', 'rb').read(1)\n"
        "        print('CAN READ', name)\n"
        "    except OSError as error:\n"
        "        print(name, 'is closed')\n"
    )
    assert run.verdict["class"] == "ok"
    for line in ("signals [-1, -1, -1, -1, -1]", "group -1", "trace -1", "slow -1"):
        assert line in run.console
    assert "CAN READ" not in run.console


LIE = '{"contract": 1, "exit_code": 0, "outcome": "succeeded", "class": "ok", "files": []}'


@pytest.mark.parametrize(
    "plant",
    [
        f"open(out / 'verdict.json', 'w').write({LIE!r})",
        "(out / 'verdict.json').mkdir(); (out / 'verdict.json' / 'x').write_text('x')",
        "(out / 'verdict.json').mkdir(); os.chmod(out / 'verdict.json', 0)",
        "os.mkfifo(out / 'verdict.json')",
        "os.symlink('/etc/passwd', out / 'verdict.json')",
        "(out / 'lie').write_text('{}'); os.link(out / 'lie', out / 'verdict.json')",
        "(out / '.verdict.json.partial').mkdir(); os.mkfifo(out / 'verdict.json.part')",
    ],
    ids=["file", "folder", "closed-folder", "pipe", "link", "hard-link", "foreseen-name"],
)
def test_the_verdict_is_the_runners_whatever_has_its_name(run_split: Split, plant: str) -> None:
    run = run_split(
        "import os, pathlib, sys\nout = pathlib.Path(os.environ['TOUCHSTONE_OUT'])\n"
        f"{plant}\nsys.exit(5)"
    )
    assert (run.exit_code, run.verdict["exit_code"]) == (1, 1)
    assert run.verdict["class"] == "unknown"
    facts = (run.out / "verdict.json").lstat()
    assert stat.S_ISREG(facts.st_mode)
    assert (facts.st_uid, facts.st_nlink) == (0, 1)
    # What is listed is there, under the name that it is listed with.
    assert all((run.out / file["path"]).is_file() for file in run.verdict["files"])


def test_the_runners_files_cannot_be_written_moved_or_removed(run_split: Split) -> None:
    run = run_split(
        GOOD_VALIDATION + "for name in ('console.log', 'progress.jsonl'):\n"
        "    path = out / name\n"
        "    for deed in (lambda: path.open('a'), path.unlink, lambda: path.rename(out / 'x'),\n"
        "                 lambda: (out / 'result.json').rename(path), lambda: path.chmod(0o777),\n"
        "                 lambda: out.chmod(0o777), lambda: out.rename(str(out) + 'x')):\n"
        "        try:\n"
        "            deed()\n"
        "            print('COULD', name)\n"
        "        except PermissionError:\n"
        "            pass\n"
        "print('tried')"
    )
    assert run.verdict["class"] == "ok"
    assert "tried" in run.console
    assert "COULD" not in run.console
    for name in ("console.log", "progress.jsonl"):
        assert (run.out / name).stat().st_uid == 0


def test_what_the_trainer_keeps_to_itself_counts_like_anything_else(run_split: Split) -> None:
    """The runner has no right to read other users' files, and looks at these as their owner."""
    run = run_split(
        "import os\nos.umask(0o077)\n" + GOOD_VALIDATION + "(out / 'private').mkdir()\n"
        "(out / 'private' / 'model').write_bytes(b'x' * 5000)\n"
    )
    assert run.verdict["reason"] is None
    sizes = {file["path"]: file["size"] for file in run.verdict["files"]}
    assert sizes["private/model"] == 5000
    assert "result.json" in sizes


def test_a_result_that_even_its_owner_cannot_read_breaks_the_contract(run_split: Split) -> None:
    run = run_split(GOOD_VALIDATION + "(out / 'result.json').chmod(0)")
    assert (run.exit_code, run.verdict["class"]) == (3, "contract")
    assert "no file that can be read" in run.verdict["reason"]


def test_limits_hold_for_another_user(run_split: Split) -> None:
    run = run_split("def loop():\n    while True: pass\nloop()", WALL_SECONDS="1")
    assert run.verdict["reason"] == "time limit: stopped after 1 s"


def test_memory_of_another_user_is_counted_once_where_it_is_shared(run_split: Split) -> None:
    run = run_split(
        GOOD_VALIDATION + "import time\nkept = b'x' * (64 * 2**20)\nfor _ in range(4):\n"
        "    if os.fork() == 0:\n        time.sleep(1); os._exit(0)\ntime.sleep(1.2)",
        MEMORY_MIB="200",
    )
    assert run.exit_code == 0
    assert 64 <= run.verdict["usage"]["peak_memory_bytes"] / 2**20 < 160


def test_nothing_of_another_user_survives(run_split: Split) -> None:
    run = run_split(
        GOOD_VALIDATION + "import signal, time\nfor _ in range(3):\n    if os.fork() == 0:\n"
        "        os.setsid()\n        signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "        if os.fork():\n            os._exit(0)\n"
        "        with open(out / f'pid-{os.getpid()}', 'w'): pass\n        time.sleep(600)\n"
        "while len(list(out.glob('pid-*'))) < 3: time.sleep(0.01)"
    )
    assert run.exit_code == 0
    pids = [int(path.name.removeprefix("pid-")) for path in run.out.glob("pid-*")]
    assert len(pids) == 3
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_pipe_in_place_of_the_progress_does_not_hold_the_runner(run_split: Split) -> None:
    run = run_split(
        GOOD_VALIDATION + "path = pathlib.Path(os.environ['TOUCHSTONE_PROGRESS_FILE'])\n"
        "path.write_text(json.dumps({'phase': 'fit', 'percent': 5}) + '\\n')\n"
        "import time; time.sleep(0.5)\npath.unlink(); os.mkfifo(path); time.sleep(0.5)"
    )
    assert run.verdict["class"] == "ok"
    (line,) = (run.out / "progress.jsonl").read_text().splitlines()
    assert json.loads(line)["percent"] == 5


def test_who_shares_a_user_is_told(run_split: Split) -> None:
    run = run_split(GOOD_VALIDATION, TRAINER_USER="")
    assert "the trainer shares a user with this runner" in run.console


@pytest.mark.parametrize("text", ["0", "0:0", "65534:0", "nobody", "-1", "65534:"])
def test_no_trainer_is_made_root_by_its_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match="TOUCHSTONE_TRAINER_USER must be"):
        read_settings(tmp_path, {"TOUCHSTONE_TRAINER_USER": text})


def test_only_root_can_start_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(SettingsError, match="a runner that is root"):
        read_settings(tmp_path, {"TOUCHSTONE_TRAINER_USER": "65534"})


def test_what_is_compiled_is_read_as_the_trainer_and_left_as_the_runner(
    run_split: Split, out: Path
) -> None:
    name = f"jit_step-{'0' * 64}-cache"
    secret = out.parent / "secret"
    secret.write_text("secret")
    secret.chmod(0o600)
    run = run_split(
        GOOD_VALIDATION + "folder = pathlib.Path(os.environ['JAX_COMPILATION_CACHE_DIR'])\n"
        f"(folder / '{name}').write_bytes(b'code')\n"
        f"(folder / '{name.replace('step', 'more')}').symlink_to({str(secret)!r})",
        COMPILED_BYTES=str(1024**2),
    )
    assert run.verdict["reason"] is None
    facts = (out / "compiled.tar").stat()
    assert (facts.st_uid, facts.st_nlink) == (0, 1)
    with tarfile.open(out / "compiled.tar") as archive:
        assert archive.getnames() == [name]
