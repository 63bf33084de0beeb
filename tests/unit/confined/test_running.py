"""Commands that are bounded in everything."""

from __future__ import annotations

import os
import select
import threading

import pytest

from touchstone.confined import running
from touchstone.confined.running import AskedTooMuch, Bounds, TookTooLong, end_all, run_confined
from touchstone_agent.protocol.errors import TransientError

BOUNDS = Bounds(seconds=60, cpu_seconds=10, memory_bytes=1024**3, file_bytes=1024**2)
ENVIRONMENT = {"PATH": os.environ["PATH"]}


def run(script, **bounds):
    return run_confined(
        ["sh", "-c", script],
        bounds=Bounds(**{**vars(BOUNDS), **bounds}),
        environment=ENVIRONMENT,
    )


@pytest.fixture
def held(tmp_path):
    """A pipe of a name, and what waits until nobody holds its other end."""
    path = tmp_path / "held"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(path, os.O_WRONLY)

    def await_release():
        os.close(writer)
        watch = select.poll()
        watch.register(reader, select.POLLHUP)
        return watch.poll() == [(reader, select.POLLHUP)]

    yield path, await_release
    os.close(reader)


def test_code_and_output_are_returned():
    done = run("echo one; echo two >&2; exit 3")

    assert (done.code, done.output, done.errors) == (3, b"one\n", b"two\n")


def test_what_a_command_leaves_behind_is_ended_with_it(held):
    path, await_release = held

    assert run(f"exec 9> {path}; sleep 100000 & exit 0").code == 0
    assert await_release()


def test_what_is_over_its_time_is_ended_with_all_that_it_has_started(held):
    path, await_release = held

    with pytest.raises(TookTooLong, match="did not end within 1 s"):
        run(f"exec 9> {path}; sleep 100000 & wait", seconds=1)
    assert await_release()


def test_whoever_is_told_to_end_ends_what_it_runs(held):
    path, await_release = held
    raised = []

    def work():
        try:
            run(f"echo > {path}; exec 9> {path}; sleep 100000 & wait")
        except TransientError as error:
            raised.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    # It says a word when it has begun.
    reader = os.open(path, os.O_RDONLY)
    assert os.read(reader, 1) == b"\n"
    os.close(reader)
    end_all()
    thread.join()

    assert raised == ["sh was ended from outside"]
    assert await_release()


def test_output_without_end_is_cut_off_at_its_limit():
    with pytest.raises(AskedTooMuch, match="SIGXFSZ"):
        run("exec cat /dev/zero", file_bytes=10_000)


def test_a_loop_is_ended_by_its_cpu_time():
    with pytest.raises(AskedTooMuch, match=r"SIG(XCPU|KILL)"):
        run("while :; do :; done", cpu_seconds=1, seconds=100_000)


def test_a_guard_ends_it_when_whoever_started_it_is_gone(monkeypatch, held):
    """A worker that is killed can end nothing any more."""
    path, await_release = held
    monkeypatch.setattr(running, "GUARD_SECONDS", 0.1)
    monkeypatch.setattr(running, "_await_end", lambda process, seconds: process.wait() or True)
    monkeypatch.setattr(running, "_kill_session", lambda process: None)

    with pytest.raises(AskedTooMuch, match="SIGKILL"):
        run(f"exec 9> {path}; sleep 100000 & wait", seconds=1)
    assert await_release()
