from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from touchstone.stack.leftovers import end_marked, end_remains, find_rival, list_marked


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A process file system: this process below a marked shell, and others."""

    def add(pid: int, parent: int, *variables: str) -> None:
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "environ").write_bytes(b"".join(f"{v}\0".encode() for v in variables))
        (folder / "stat").write_text(f"{pid} (a) b) S {parent} 1 1")

    add(901, 1, "TOUCHSTONE_STACK=mine")
    add(os.getpid(), 901, "TOUCHSTONE_STACK=mine")
    add(902, 1, "A=b", "TOUCHSTONE_STACK=mine", "TOUCHSTONE_ENV=dev")
    add(903, 1, "TOUCHSTONE_STACK=mine2", "TOUCHSTONE_ENV=dev", "TOUCHSTONE_STATE_DIR=/there")
    add(904, 1, "NOT_TOUCHSTONE_STACK=mine")
    (tmp_path / "905").mkdir()
    (tmp_path / "self").mkdir()
    return tmp_path


def test_a_stacks_processes_are_found_by_their_marker(proc) -> None:
    assert list_marked("mine", proc) == [902]


def test_another_stack_of_the_same_environment_is_found(proc) -> None:
    assert find_rival("mine", "dev", proc) == "/there"
    assert find_rival("mine", "demo", proc) is None


class FakeGroup:
    """The process group 77 of a dead part, as a process file system."""

    def __init__(self, proc: Path) -> None:
        self.proc = proc
        self.now = 0.0
        self.killed: list[int] = []

    def add(self, pid: int, title: str, *, group: int = 77, marker: str = "mine") -> None:
        folder = self.proc / str(pid)
        folder.mkdir()
        (folder / "environ").write_text(f"TOUCHSTONE_STACK={marker}\0")
        (folder / "stat").write_text(f"{pid} (x) S 1 {group} 1")
        (folder / "cmdline").write_text(title.replace(" ", "\0"))

    def kill(self, pid: int, sign: int) -> None:
        self.killed.append(pid)
        shutil.rmtree(self.proc / str(pid))

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= 5 and (self.proc / "12").exists():
            (self.proc / "12/cmdline").write_text("airflow worker -- LocalExecutor: <idle>")

    def end(self) -> None:
        end_remains(
            "mine",
            77,
            proc=self.proc,
            kill=self.kill,
            sleep=self.sleep,
            clock=lambda: self.now,
        )


@pytest.fixture
def group(tmp_path: Path) -> FakeGroup:
    return FakeGroup(tmp_path)


def test_what_a_dead_part_leaves_in_its_group_is_ended(group) -> None:
    """MLflow's server went on holding the port that its restarted parent wanted."""
    group.add(11, "uvicorn mlflow.server")
    group.end()
    assert group.killed == [11]


def test_other_groups_and_other_stacks_are_left_alone(group) -> None:
    group.add(11, "uvicorn", group=78)
    group.add(12, "airflow worker -- busy", marker="other")
    group.end()
    assert group.killed == []


def test_a_worker_finishes_its_task_and_idle_ones_do_not_stay(group) -> None:
    group.add(11, "airflow worker -- LocalExecutor: <idle>")
    group.add(12, "airflow worker -- LocalExecutor: 01a2")
    group.add(13, "airflow task runner")
    group.end()
    assert group.killed[0] == 11
    assert group.now >= 5
    assert set(group.killed[1:]) == {12, 13}


class FakeProcesses:
    """Processes of which some ignore a request to end."""

    def __init__(self, polite, stubborn):
        self.alive = {*polite, *stubborn}
        self.stubborn = stubborn
        self.now = 0.0
        self.killed = []

    def kill(self, pid, sign):
        self.killed.append((pid, sign))
        if sign == signal.SIGKILL or pid not in self.stubborn:
            self.alive.discard(pid)

    def sleep(self, seconds):
        self.now += seconds

    def end(self):
        return end_marked(
            "mine",
            list_pids=lambda _: sorted(self.alive),
            kill=self.kill,
            sleep=self.sleep,
            clock=lambda: self.now,
        )


def test_left_overs_are_asked_first() -> None:
    fake = FakeProcesses(polite={5}, stubborn=set())
    assert fake.end() == 1
    assert fake.killed == [(5, signal.SIGTERM)]


def test_whoever_does_not_end_is_killed() -> None:
    fake = FakeProcesses(polite={5}, stubborn={6})
    assert fake.end() == 2
    assert not fake.alive
    assert fake.killed[:2] == [(5, signal.SIGTERM), (6, signal.SIGTERM)]
    assert fake.killed[-1] == (6, signal.SIGKILL)


def test_nothing_to_end_is_success() -> None:
    assert FakeProcesses(polite=set(), stubborn=set()).end() == 0
