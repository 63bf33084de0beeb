"""The runner, with small scripts in the trainer's place and real processes below them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from conftest import GOOD_VALIDATION, Run, build_environment
from elnigma_runner.supervise import ABORT_SECONDS

RunScript = Callable[..., Run]
StartSleeper = Callable[[str], "subprocess.Popen[bytes]"]


def test_a_trainer_that_keeps_the_contract_succeeds(run_script: RunScript) -> None:
    run = run_script(GOOD_VALIDATION + "print('hello')")
    assert run.exit_code == 0
    assert (run.verdict["outcome"], run.verdict["class"]) == ("succeeded", "ok")
    assert run.verdict["reason"] is None
    assert "hello" in run.console
    paths = {file["path"] for file in run.verdict["files"]}
    assert paths == {"console.log", "result.json"}


def test_every_listed_file_has_the_digest_of_its_final_bytes(run_script: RunScript) -> None:
    import hashlib

    run = run_script(GOOD_VALIDATION + "print('hello')")
    for file in run.verdict["files"]:
        content = (run.out / file["path"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert file["size"] == len(content)


def test_exit_0_without_a_result_breaks_the_contract(run_script: RunScript) -> None:
    run = run_script("pass")
    assert run.exit_code == 3
    assert run.verdict["class"] == "contract"
    assert run.verdict["reason"].startswith("contract: exited 0 but wrote no valid result.json")


@pytest.mark.parametrize(
    "result",
    [
        '{"contract": 1, "validated": true, "x": NaN}',
        '{"contract": 3, "validated": true}',
        '{"contract": 1}',
        "[" * 100_000,
        '{"contract": 1, "validated": true, "x": "' + "a" * 5_000_000 + '"}',
    ],
    ids=["nan", "other-contract", "not-validated", "deep", "large"],
)
def test_a_bad_result_breaks_the_contract(
    run_script: RunScript, result: str, tmp_path: Path
) -> None:
    (tmp_path / "bad.json").write_text(result)
    run = run_script(
        f"import os, shutil; shutil.copy({str(tmp_path / 'bad.json')!r}, "
        "os.environ['TOUCHSTONE_OUT'] + '/result.json')"
    )
    assert (run.exit_code, run.verdict["class"]) == (3, "contract")


def test_a_result_of_another_submission_is_refused(run_script: RunScript) -> None:
    run = run_script(GOOD_VALIDATION, SUBMISSION_ID="sub-2")
    assert "names another submission_id" in run.verdict["reason"]


def test_links_are_neither_followed_nor_listed(run_script: RunScript, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text('{"contract": 1, "validated": true}')
    run = run_script(
        f"import os; out = os.environ['TOUCHSTONE_OUT']; os.symlink({str(secret)!r}, "
        f"out + '/result.json'); os.symlink({str(tmp_path)!r}, out + '/folder'); "
        "os.mkfifo(out + '/pipe')"
    )
    assert run.verdict["class"] == "contract"
    assert {file["path"] for file in run.verdict["files"]} == {"console.log"}


def test_the_reason_comes_from_error_json(run_script: RunScript) -> None:
    error = {"class": "submission", "message": "KeyError in features.py line 3:\n 'close'"}
    run = run_script(
        f"import os, sys; open(os.environ['TOUCHSTONE_OUT'] + '/error.json', 'w')"
        f".write({json.dumps(json.dumps(error))}); sys.exit(3)"
    )
    assert (run.exit_code, run.verdict["class"]) == (3, "submission")
    assert run.verdict["reason"] == "KeyError in features.py line 3: 'close'"


def test_without_error_json_the_reason_is_the_last_line(run_script: RunScript) -> None:
    run = run_script("import sys; print('one'); print('bad config'); print(); sys.exit(2)")
    assert (run.exit_code, run.verdict["class"]) == (2, "config")
    assert run.verdict["reason"] == "bad config"


@pytest.mark.parametrize("code", [10, 75, 137, 143])
def test_a_bare_exit_code_does_not_buy_a_free_retry(run_script: RunScript, code: int) -> None:
    run = run_script(f"import os; os._exit({code})")
    assert (run.exit_code, run.verdict["class"]) == (1, "unknown")


def test_a_trainer_that_cannot_start_leaves_a_verdict(run_attempt: Callable[..., Run]) -> None:
    run = run_attempt("validate", TRAINER="/nonexistent/trainer")
    assert (run.exit_code, run.verdict["class"]) == (1, "unknown")
    assert "cannot be started" in run.verdict["reason"]


def test_an_impossible_limit_leaves_a_verdict(run_script: RunScript) -> None:
    run = run_script("pass", WALL_SECONDS="soon")
    assert (run.exit_code, run.verdict["class"]) == (2, "config")
    assert "TOUCHSTONE_WALL_SECONDS" in run.verdict["reason"]


def test_the_time_limit_ends_the_trainer_and_shows_where_it_was(run_script: RunScript) -> None:
    run = run_script("def loop():\n    while True: pass\nloop()", WALL_SECONDS="1")
    assert (run.exit_code, run.verdict["class"]) == (3, "limit")
    assert run.verdict["reason"] == "time limit: stopped after 1 s"
    assert "in loop" in run.console


def test_the_cpu_limit_counts_all_processes(run_script: RunScript) -> None:
    """Each stays below the limit and then only sleeps; together they go beyond it."""
    run = run_script(
        "import os, time\nfor _ in range(3):\n    if os.fork() == 0: break\n"
        "end = time.process_time() + 0.5\nwhile time.process_time() < end: pass\ntime.sleep(600)",
        CPU_SECONDS="1",
        WALL_SECONDS="600",
    )
    assert run.verdict["reason"] == "CPU limit: stopped after 1 CPU seconds"
    assert run.verdict["usage"]["cpu_seconds"] >= 1


def test_the_memory_limit_counts_all_processes(run_script: RunScript) -> None:
    """Each child stays below the limit; together they go beyond it."""
    run = run_script(
        "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n"
        "        kept = bytearray(os.urandom(1)) * (60 * 2**20); time.sleep(600)\ntime.sleep(600)",
        MEMORY_MIB="128",
        WALL_SECONDS="600",
    )
    assert (run.exit_code, run.verdict["class"]) == (137, "oom")
    assert run.verdict["reason"] == "out of memory: more than 128 MiB"


def test_memory_that_forks_share_is_counted_once(run_script: RunScript) -> None:
    run = run_script(
        GOOD_VALIDATION + "import time\nkept = b'x' * (64 * 2**20)\nfor _ in range(4):\n"
        "    if os.fork() == 0:\n        time.sleep(1); os._exit(0)\ntime.sleep(1.2)",
        MEMORY_MIB="200",
    )
    assert run.exit_code == 0
    assert 64 <= run.verdict["usage"]["peak_memory_bytes"] / 2**20 < 160


def test_the_output_limit_ends_the_trainer(run_script: RunScript) -> None:
    run = run_script(
        "import os, time\nwith open(os.environ['TOUCHSTONE_OUT'] + '/big', 'wb') as f:\n"
        "    while True:\n        f.write(b'x' * 2**20); f.flush(); time.sleep(0.01)",
        OUTPUT_BYTES=str(5 * 2**20),
        WALL_SECONDS="600",
    )
    assert run.verdict["reason"] == "output limit: wrote more than 5 MiB"
    assert "big" not in {file["path"] for file in run.verdict["files"]}


def test_the_console_keeps_head_and_tail_and_counts_the_rest(run_script: RunScript) -> None:
    run = run_script(
        GOOD_VALIDATION + "for n in range(2000): print(f'line {n:06d}')", CONSOLE_BYTES="8192"
    )
    lines = run.console.splitlines()
    assert "line 000000" in lines
    assert lines[-1] == "line 001999"
    (marker,) = [line for line in lines if line.startswith("... truncated: ")]
    left_out, total = int(marker.split()[2]), int(marker.split()[4])
    assert total == run.verdict["console"]["lines"]
    whole = [line for line in lines if line.startswith(("line ", "[runner]"))]
    assert abs(total - left_out - len(whole)) <= 1  # the cut may go through a line
    assert run.verdict["console"]["truncated"] is True
    assert (run.out / "console.log").stat().st_size < 8192 + 200


def test_ten_million_lines_take_the_runner_a_few_seconds(run_script: RunScript) -> None:
    before = os.times()
    run = run_script(
        GOOD_VALIDATION
        + "import sys\nfor _ in range(1000): sys.stdout.write('0123456789\\n' * 10_000)",
        CONSOLE_BYTES=str(16 * 2**20),
        WALL_SECONDS="600",
    )
    after = os.times()
    assert run.exit_code == 0
    assert run.verdict["console"]["lines"] >= 10_000_000
    both = sum(after[2:4]) - sum(before[2:4])
    # Of the processor's time: how long that is by the clock is the machine's business.
    assert both - run.verdict["usage"]["cpu_seconds"] < 20


def test_nothing_that_was_started_survives(run_script: RunScript) -> None:
    """Double forks in sessions of their own, deaf to SIGTERM, are found and ended."""
    run = run_script(
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
    assert "left behind" in run.console


def test_cpu_time_agrees_with_time(run_script: RunScript, tmp_path: Path) -> None:
    """Within 10% of what the shell's own timing says, grandchildren included."""
    body = (
        "import os, subprocess, sys\nburn = 'import time\\nend = time.process_time() + 0.7\\n"
        "while time.process_time() < end: pass'\n"
        "for _ in range(2): subprocess.run([sys.executable, '-c', burn])\n"
        "pid = os.fork()\nexec(burn)\nif pid == 0: os._exit(0)\nos.waitpid(pid, 0)\n"
    )
    run = run_script(GOOD_VALIDATION + body)
    script = tmp_path / "trainer"
    before = os.times()
    subprocess.run([str(script)], env=build_environment(tmp_path), check=True)
    after = os.times()
    expected = sum(after[2:4]) - sum(before[2:4])
    assert run.verdict["usage"]["cpu_seconds"] == pytest.approx(expected, rel=0.1)


@pytest.fixture
def start_sleeper(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Start a runner whose trainer sleeps, and return when it does; none is left behind."""
    runners: list[subprocess.Popen[bytes]] = []

    def start(source: str) -> subprocess.Popen[bytes]:
        script = tmp_path / "trainer"
        body = f"{source}\nprint('ready', flush=True)\ntime.sleep(6000)"
        script.write_text(f"#!{sys.executable} -P\nimport signal, sys, time\n{body}\n")
        script.chmod(0o755)
        runner = subprocess.Popen(
            [sys.executable, "-P", "-m", "elnigma_runner", "validate"],
            env=build_environment(tmp_path, TRAINER=str(script)),
        )
        runners.append(runner)
        console = tmp_path / "console.log"
        _wait_for(lambda: b"ready" in _read(console) or runner.poll() is not None)
        assert runner.poll() is None, _read(console)
        return runner

    yield start
    for runner in runners:
        # It takes its trainer along.
        runner.kill()
        runner.wait()


def test_sigterm_reaches_the_trainer_and_ends_in_aborted(
    start_sleeper: StartSleeper, tmp_path: Path
) -> None:
    runner = start_sleeper(
        "def stop(*_):\n    print('flushed'); sys.exit(143)\nsignal.signal(15, stop)"
    )
    runner.send_signal(signal.SIGTERM)
    assert runner.wait() == 143
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert (verdict["class"], verdict["outcome"]) == ("aborted", "failed")
    assert b"flushed" in _read(tmp_path / "console.log")


def test_a_trainer_deaf_to_sigterm_is_killed_within_ten_seconds(
    start_sleeper: StartSleeper,
) -> None:
    assert ABORT_SECONDS < 10
    runner = start_sleeper("signal.signal(15, signal.SIG_IGN)")
    runner.send_signal(signal.SIGTERM)
    # The trainer would sleep on for longer than the tests may take.
    assert runner.wait() == 143


def test_a_runner_that_is_killed_takes_its_trainer_along(start_sleeper: StartSleeper) -> None:
    runner = start_sleeper("")
    (trainer,) = psutil.Process(runner.pid).children()
    runner.kill()
    runner.wait()
    _wait_for(lambda: not trainer.is_running() or trainer.status() == psutil.STATUS_ZOMBIE)


def test_temporary_folders_without_end_do_not_end_the_runner(
    run_script: RunScript, tmp_path: Path
) -> None:
    """Clean-up went as deep as they did, and the verdict was that the runner had failed."""
    run = run_script(
        GOOD_VALIDATION + "import sys\nprint(os.environ['TMPDIR'])\n"
        "handle = os.open(os.environ['TMPDIR'], os.O_RDONLY)\nfor _ in range(2000):\n"
        "    os.mkdir('d', dir_fd=handle)\n    inner = os.open('d', os.O_RDONLY, dir_fd=handle)\n"
        "    os.close(handle)\n    handle = inner"
    )
    (folder,) = [line for line in run.console.splitlines() if line.startswith("/")]
    subprocess.run(["rm", "-rf", str(Path(folder).parent)], check=True)
    assert (run.exit_code, run.verdict["reason"]) == (0, None)


def test_output_folders_too_deep_to_be_looked_into_are_over_the_limit(
    run_script: RunScript,
) -> None:
    run = run_script(GOOD_VALIDATION + "(out / '/'.join('d' * 20)).mkdir(parents=True)")
    assert run.verdict["reason"] == "output limit: made folders more than 16 deep"


def test_a_sparse_output_counts_with_its_size(run_script: RunScript) -> None:
    run = run_script(
        GOOD_VALIDATION + "with open(out / 'sparse', 'wb') as file: file.truncate(2**40)",
        OUTPUT_BYTES=str(5 * 2**20),
    )
    assert run.verdict["reason"] == "output limit: wrote more than 5 MiB"


def test_progress_is_checked_before_it_is_relayed(run_script: RunScript) -> None:
    run = run_script(
        GOOD_VALIDATION + "with open(os.environ['TOUCHSTONE_PROGRESS_FILE'], 'a') as f:\n"
        "    f.write('rubbish\\n' + '[' * 5000 + '\\n')\n"
        "    f.write(json.dumps({'phase': 'a\\nb', 'percent': 400, 'eta_s': -1,"
        " 'metrics': {'loss': 0.5, 'bad': 'x', 'huge': 10**400}}) + '\\n')\n"
        '    f.write(\'{"phase": "half\')\n'
    )
    lines = [json.loads(line) for line in (run.out / "progress.jsonl").read_text().splitlines()]
    assert len(lines) == 1
    assert {k: v for k, v in lines[0].items() if k != "t"} == {
        "phase": "a b",
        "percent": 100.0,
        "eta_s": 0.0,
        "metrics": {"loss": 0.5},
    }


def test_the_trainer_sees_no_variable_it_does_not_need(tmp_path: Path) -> None:
    script = tmp_path / "trainer"
    script.write_text(f"#!{sys.executable} -P\nimport os\nprint(sorted(os.environ))\n")
    script.chmod(0o755)
    environment = build_environment(tmp_path, TRAINER=str(script), SEED="7")
    environment |= {"AWS_SECRET_ACCESS_KEY": "x", "SSH_AUTH_SOCK": "y", "KERAS_BACKEND": "jax"}
    subprocess.run(
        [sys.executable, "-P", "-m", "elnigma_runner", "validate"], env=environment, check=False
    )
    console = (tmp_path / "console.log").read_text()
    assert "'KERAS_BACKEND'" in console
    assert "'TOUCHSTONE_SEED'" in console
    assert "AWS_" not in console
    assert "SSH_" not in console


def test_the_runner_starts_fast() -> None:
    before = os.times()
    subprocess.run(
        [sys.executable, "-P", "-X", "importtime", "-c", "import elnigma_runner.cli"],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    after = os.times()
    assert sum(after[2:4]) - sum(before[2:4]) < 0.5


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _wait_for(condition: Callable[[], bool]) -> None:
    """Wait as long as it takes; what never comes is ended by the suite's watchdog."""
    while not condition():
        time.sleep(0.02)


def test_what_the_runner_cannot_open_is_the_machines_fault_and_not_missing(tmp_path: Path) -> None:
    """As where others have taken all files that a machine can have open."""
    (tmp_path / "error.json").write_text("{}")
    script = (
        "import os, resource, sys\n"
        "from pathlib import Path\n"
        "from elnigma_runner import outputs\n"
        f"out = Path({str(tmp_path)!r})\n"
        "folder = os.open(out, os.O_RDONLY)\n"
        "most = max(map(int, os.listdir('/proc/self/fd')))\n"
        "spare = [os.dup(folder) for _ in range(most)]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (spare[0], spare[0]))\n"
        "for look in (outputs.list_files, outputs.read_error):\n"
        "    try:\n"
        "        look(out)\n"
        "    except OSError as error:\n"
        "        assert error.errno in outputs.FAULTS, error\n"
        "    else:\n"
        "        sys.exit(f'{look.__name__} told of files that it could not open')\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
