"""What a branch requires is installed with the network and without submitted code, then used."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.agent_world import make_grant, make_ref, make_start
from touchstone_agent.core.limits import PREPARE_SECONDS
from touchstone_agent.core.ports import Exit, LaunchSpec
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.messages import Input, Limits, PhaseChanged, Preparation
from touchstone_agent.supervisor import Supervisor

from .conftest import AgentWorld

NAME = "touchstone-dev-s1-i5-1-1"
PREPARE = f"{NAME}-prepare"
WANTED = Preparation(argv=("prepare",), inputs=("elnigma",))
MIB = 1024**2

Work = Callable[[LaunchSpec], Exit | None]


def leave(spec: LaunchSpec, code: int, **fields: object) -> Exit:
    """Leave a console and a verdict."""
    out = spec.folder / "out"
    (out / "console.log").write_text(f"{spec.argv[0]}\n")
    outcome = "failed" if code else "succeeded"
    verdict = {"exit_code": code, "outcome": outcome, "class": "ok", "files": [], **fields}
    (out / "verdict.json").write_text(json.dumps(verdict))
    return Exit(exit_code=code)


def work(spec: LaunchSpec) -> Exit | None:
    """Install into the cache, or train with what is there."""
    if spec.argv == ("prepare",):
        assert spec.cache is not None
        (spec.cache / "lib").write_text("installed")
    return leave(spec, 0)


class Stage:
    """A world with attempts that want something prepared."""

    def __init__(self, world: AgentWorld, supervised: list[Supervisor]) -> None:
        self.world = world
        self._supervised = supervised
        for path in ("content", "elnigma"):
            world.store.objects[path] = path.encode()

    def begin(self, work: Work = work, task_id: str = "i5", **start: object) -> Supervisor:
        self.world.runtime._work = work
        inputs = tuple(
            Input(path=path, grant=make_grant(path, method="GET"), sha256=path, size=len(path))
            for path in ("content", "elnigma")
        )
        fields = {"inputs": inputs, "prepare": WANTED, **start}
        self.world.order(make_start(make_ref(task_id), **fields))
        return self._supervised[-1]

    def find_exit(self) -> PhaseChanged:
        (told,) = [b for b in self.world.tell() if getattr(b, "phase", None) == "exited"]
        return told

    @property
    def launched(self) -> list[LaunchSpec]:
        return self.world.runtime.launched

    @property
    def entries(self) -> list[str]:
        return sorted(path.name for path in (self.world.folder / "prepared").iterdir())


@pytest.fixture
def stage(world: AgentWorld, supervised: list[Supervisor]) -> Stage:
    return Stage(world, supervised)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supervisor, "_sleep", lambda self, seconds: None)


def test_it_is_prepared_with_the_network_and_trained_without(stage: Stage) -> None:
    seen: dict[str, list[str]] = {}

    def look(spec: LaunchSpec) -> Exit | None:
        seen[spec.name] = sorted(path.name for path in (spec.folder / "in").iterdir())
        return work(spec)

    stage.begin(look).run()

    first, second = stage.launched
    assert (first.name, first.network, first.argv) == (PREPARE, True, ("prepare",))
    assert (second.name, second.network) == (NAME, False)
    assert seen == {PREPARE: ["elnigma"], NAME: ["content", "elnigma"]}
    assert second.cache is not None
    assert (second.cache / "lib").read_text() == "installed"
    assert stage.find_exit().details["exit_code"] == 0
    assert PREPARE in stage.world.runtime.removed
    assert not (stage.world.settings.attempts_dir / PREPARE).exists()


def test_it_has_no_gpu_and_cannot_be_adopted(stage: Stage) -> None:
    stage.begin().run()

    first = stage.launched[0]
    assert first.gpu_ids == ()
    assert first.environment["TOUCHSTONE_CUDA"] == "none"
    assert "touchstone.start" not in first.labels
    assert first.labels["touchstone.env"] == "dev"


def test_the_same_content_is_prepared_once(stage: Stage) -> None:
    stage.begin(task_id="i1").run()
    stage.begin(task_id="i5").run()

    assert [spec.argv[0] for spec in stage.launched] == ["prepare", "train", "train"]


def test_another_image_is_prepared_by_itself(stage: Stage) -> None:
    stage.begin(task_id="i1").run()
    stage.begin(task_id="i5", image="trainer:2").run()

    assert [spec.argv[0] for spec in stage.launched] == ["prepare", "train"] * 2


def test_who_waits_for_another_uses_what_that_one_makes(stage: Stage) -> None:
    """Two attempts of one branch on one server at the same moment."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(spec: LaunchSpec) -> Exit | None:
        if spec.argv == ("prepare",):
            begun.set()
            assert go_on.wait(20)
        return work(spec)

    first, second = stage.begin(slow, task_id="i1"), stage.begin(slow, task_id="i5")
    threads = [threading.Thread(target=supervisor.run) for supervisor in (first, second)]
    threads[0].start()
    assert begun.wait(20)
    threads[1].start()
    go_on.set()
    for thread in threads:
        thread.join(30)

    assert [spec.argv[0] for spec in stage.launched].count("prepare") == 1
    assert [spec.argv[0] for spec in stage.launched].count("train") == 2


@pytest.mark.parametrize(
    ("code", "error_class", "reason"),
    [(75, "temporary", "temporary: no index"), (2, "config", "config: no such package")],
)
def test_what_cannot_be_prepared_ends_the_attempt_as_it_says(
    stage: Stage, code: int, error_class: str, reason: str
) -> None:
    listed = [{"path": "console.log", "sha256": "0" * 64, "size": 8}]

    def fail(spec: LaunchSpec) -> Exit:
        return leave(spec, code, **{"class": error_class, "reason": reason, "files": listed})

    stage.begin(fail).run()

    told = stage.find_exit()
    assert told.details["exit_code"] == code
    assert told.details["verdict"]["class"] == error_class
    assert told.details["verdict"]["reason"] == reason
    assert not told.details.get("files")
    assert not told.details["verdict"].get("files")
    assert stage.world.store.objects["console/000000000000"] == b"prepare\n"
    assert stage.entries == []
    assert len(stage.launched) == 1


def test_one_that_fails_does_not_stop_the_next(stage: Stage) -> None:
    stage.begin(lambda spec: leave(spec, 75), task_id="i1").run()
    stage.begin(task_id="i5").run()

    assert [spec.argv[0] for spec in stage.launched] == ["prepare", "prepare", "train"]


def test_memory_that_ran_out_is_told_as_such(stage: Stage) -> None:
    stage.begin(lambda _: Exit(exit_code=137, oom_killed=True)).run()

    assert stage.find_exit().details["oom_killed"] is True


def test_one_that_ends_well_without_a_word_never_counts(stage: Stage) -> None:
    stage.begin(lambda _: Exit(exit_code=0)).run()

    told = stage.find_exit()
    assert (told.details["exit_code"], told.details["verdict"]) == (0, None)
    assert stage.entries == []


def test_it_may_take_no_longer_than_its_attempt(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(spec: LaunchSpec) -> None:
        assert spec.limits.wall_seconds == PREPARE_SECONDS
        assert spec.environment["TOUCHSTONE_WALL_SECONDS"] == str(PREPARE_SECONDS)
        monotonic = stage.world.clock.monotonic
        looks = iter(range(10_000_000))
        # Each look is a minute later than the one before.
        monkeypatch.setattr(stage.world.clock, "monotonic", lambda: monotonic() + 60 * next(looks))

    stage.begin(hang, limits=Limits(wall_seconds=86_400)).run()

    told = stage.find_exit()
    assert told.details["verdict"]["class"] == "limit"
    assert told.details["verdict"]["reason"] == f"time limit: stopped after {PREPARE_SECONDS} s"
    assert stage.world.runtime.killed.count(PREPARE) == 2  # before it began, and then


def test_it_may_take_no_more_disk_than_all_that_is_prepared(stage: Stage) -> None:
    stage.world.context.prepared.most_bytes = MIB

    def fill(spec: LaunchSpec) -> None:
        assert spec.cache is not None
        (spec.cache / "lib").write_bytes(bytes(2 * MIB))

    stage.begin(fill).run()

    verdict = stage.find_exit().details["verdict"]
    assert verdict["reason"] == "output limit: stopped after more than 1 MiB"
    assert stage.entries == []


def test_a_cancel_ends_it(stage: Stage) -> None:
    supervisor = stage.begin(lambda _: None)
    handles = list(stage.world.agent._attempts.handles.values())
    launch = stage.world.runtime.launch

    def launch_then_cancel(spec: LaunchSpec) -> None:
        launch(spec)
        handles[0].end("enough")

    stage.world.runtime.launch = launch_then_cancel
    supervisor.run()

    assert [phase for *_, phase in stage.world.tell_phases()][-1] == "cancelled"
    assert not stage.world.runtime.exists(PREPARE)
    assert stage.entries == []
    assert not (stage.world.settings.attempts_dir / PREPARE).exists()


def test_what_a_dead_agent_had_begun_is_ended_and_done_again(
    stage: Stage, supervised: list[Supervisor]
) -> None:
    supervisor = stage.begin(lambda _: None)
    supervisor._prepare()
    (handle,) = stage.world.agent._attempts.handles.values()
    begun = threading.Event()

    def launch_then_die(spec: LaunchSpec) -> None:
        launch(spec)
        assert spec.cache is not None
        (spec.cache / "half").write_text("x")
        stage.world.context.stopping.set()
        begun.set()

    launch, stage.world.runtime.launch = stage.world.runtime.launch, launch_then_die
    supervisor._launch()
    assert begun.is_set()
    assert stage.world.runtime.exists(PREPARE)
    assert handle.attempt.phase == "preparing"

    stage.world.runtime.launch = launch
    stage.world.runtime._work = work
    stage.world.restart().recover()
    assert stage.world.runtime.exists(PREPARE)  # not a stranger: its attempt takes care of it
    supervised[-1].run()

    assert [spec.argv[0] for spec in stage.launched] == ["prepare", "prepare", "train"]
    assert stage.launched[-1].cache is not None
    assert not (stage.launched[-1].cache / "half").exists()
    assert stage.find_exit().details["exit_code"] == 0


def test_one_whose_attempt_is_not_known_is_removed_at_once(stage: Stage) -> None:
    runtime = stage.world.runtime
    runtime.labels["touchstone-dev-gone-i5-1-1-prepare"] = {"touchstone.env": "dev"}

    stage.world.agent.recover()
    stage.world.agent._end_overdue()

    assert runtime.removed == ["touchstone-dev-gone-i5-1-1-prepare"]


def test_one_that_is_over_is_removed(stage: Stage) -> None:
    """The engine answered the removal, and then restarted from what it had on disk."""
    supervisor = stage.begin(lambda spec: work(spec) if spec.network else None)
    supervisor._prepare()
    supervisor._launch()
    stage.world.runtime.labels[PREPARE] = {"touchstone.env": "dev"}
    stage.world.runtime.removed.clear()

    stage.world.agent._look_for_orphans()

    assert stage.world.runtime.removed == [PREPARE]


def test_an_engine_that_stumbles_while_it_is_prepared_is_tried_again(stage: Stage) -> None:
    supervisor = stage.begin()
    supervisor._prepare()
    stage.world.runtime.problems = [TransientError("engine")] * 3

    supervisor.run()

    assert stage.find_exit().details["exit_code"] == 0


def test_what_is_used_is_held_by_the_attempts_folder(stage: Stage, tmp_path: Path) -> None:
    supervisor = stage.begin(lambda spec: work(spec) if spec.network else None)
    supervisor._prepare()
    supervisor._launch()
    stage.world.context.prepared.most_bytes = 0

    stage.world.agent._sweep()

    (key,) = stage.entries
    assert (stage.world.settings.attempts_dir / NAME / "prepared").read_text() == key
