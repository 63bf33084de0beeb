"""One attempt from accepted to its end, with a runtime and a store in memory."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.agent_world import FakeRuntime, make_grant, make_ref, make_start
from touchstone_agent.adapters.transfer import GrantExpired
from touchstone_agent.core.cursor import MAX_CHUNK_BYTES, Chunk
from touchstone_agent.core.ports import Exit, HostLacks, LaunchSpec, RegistryAway
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.messages import (
    AttemptPhase,
    Cancel,
    Grant,
    Input,
    Limits,
    PhaseChanged,
    Progress,
    Refusal,
)
from touchstone_agent.supervisor import PULL_BUDGET_SECONDS, Supervisor

from .conftest import AgentWorld


def describe(out: Path, *paths: str) -> list[dict[str, object]]:
    return [
        {
            "path": path,
            "sha256": hashlib.sha256((out / path).read_bytes()).hexdigest(),
            "size": (out / path).stat().st_size,
        }
        for path in paths
    ]


def succeed(spec: LaunchSpec) -> Exit:
    out = spec.folder / "out"
    (out / "console.log").write_bytes(b"hello\n")
    (out / "model").write_bytes(b"weights")
    files = describe(out, "model", "console.log")
    (out / "verdict.json").write_text(json.dumps({"exit_code": 0, "files": files}))
    return Exit(exit_code=0)


class Stage:
    """A world with one attempt to be run."""

    def __init__(self, world: AgentWorld, supervised: list[Supervisor]) -> None:
        self.world = world
        self._supervised = supervised

    def begin(self, work=succeed, **start: object) -> Stage:
        self.world.runtime._work = work
        self.world.order(make_start(**start))
        return self

    def run(self) -> list[str]:
        self._supervised[-1].run()
        return [phase for *_, phase in self.world.tell_phases()]

    @property
    def runtime(self) -> FakeRuntime:
        return self.world.runtime

    @property
    def folder(self) -> Path:
        return self.world.settings.attempts_dir / "touchstone-dev-s1-i5-1-1"


@pytest.fixture
def stage(world: AgentWorld, supervised: list[Supervisor]) -> Stage:
    return Stage(world, supervised)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supervisor, "_sleep", lambda self, seconds: None)


def test_all_goes_well(stage: Stage) -> None:
    phases = stage.begin().run()

    assert phases == ["accepted", "preparing", "running", "exited", "uploaded"]
    objects = stage.world.store.objects
    assert objects["console/000000000000"] == b"hello\n"
    assert objects["output/model"] == b"weights"
    assert stage.runtime.removed == ["touchstone-dev-s1-i5-1-1"]
    assert not (stage.folder / "in").exists()
    assert (stage.folder / "out/model").exists()


def test_limits_and_folders_reach_the_container(stage: Stage) -> None:
    limits = Limits(wall_seconds=60, cpu_seconds=50, memory_mib=100, console_bytes=5000)
    stage.begin(limits=limits, environment={"TOUCHSTONE_SEED": "7"}).run()

    (spec,) = stage.runtime.launched
    assert spec.environment["TOUCHSTONE_WALL_SECONDS"] == "60"
    assert spec.environment["TOUCHSTONE_CPU_SECONDS"] == "50"
    assert spec.environment["TOUCHSTONE_CONSOLE_BYTES"] == "5000"
    assert spec.environment["TOUCHSTONE_SEED"] == "7"
    assert spec.cache is None
    assert spec.labels["touchstone.fence"] == "1"


def test_what_an_older_control_plane_gives_the_network_shares_nothing_with_others(
    stage: Stage,
) -> None:
    """All attempts with the network wrote to one cache, and executed what they found there."""
    stage.begin(network=True).run()

    assert stage.runtime.launched[0].cache == stage.folder / "cache"
    assert not (stage.folder / "cache").exists()  # gone with the attempt


def test_without_a_verdict_the_engines_log_is_kept(stage: Stage) -> None:
    stage.runtime.output = b"Segmentation fault\n"

    stage.begin(lambda _: Exit(exit_code=139)).run()

    assert stage.world.store.objects == {"console/000000000000": b"Segmentation fault\n"}


def test_a_missing_exit_code_is_never_success(stage: Stage) -> None:
    phases = stage.begin(lambda _: Exit(exit_code=None)).run()

    assert phases[-1] == "lost"


def test_a_verdict_stands_in_for_an_exit_code_that_nobody_saw(stage: Stage) -> None:
    def work(spec: LaunchSpec) -> Exit:
        succeed(spec)
        return Exit(exit_code=None)

    assert stage.begin(work).run()[-1] == "uploaded"


def test_a_container_that_vanished_is_lost(stage: Stage) -> None:
    stage.begin(lambda _: None)
    stage.runtime.wait = lambda name: None

    assert stage.run()[-1] == "lost"


@pytest.mark.parametrize("ended", [Exit(exit_code=75), None], ids=["it ends", "it goes on"])
def test_an_output_folder_that_vanished_is_the_servers_loss_and_told(
    stage: Stage, ended: Exit | None
) -> None:
    """What went on there went on until its time was over, for nothing."""

    def vanish(spec: LaunchSpec) -> Exit | None:
        (spec.folder / "out").rmdir()
        return ended

    stage.begin(vanish)

    stage._supervised[-1].run()

    told = [body for body in stage.world.tell() if isinstance(body, PhaseChanged)][-1]
    assert told.phase is AttemptPhase.LOST
    assert told.reason == "its output folder has vanished from this server"


def test_a_file_that_is_not_what_the_verdict_says_is_not_uploaded(stage: Stage) -> None:
    def work(spec: LaunchSpec) -> Exit:
        succeed(spec)
        (spec.folder / "out/model").write_bytes(b"swapped")
        return Exit(exit_code=0)

    stage.begin(work).run()

    assert "output/model" not in stage.world.store.objects


def test_a_link_in_the_output_is_not_followed(stage: Stage, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"weights")  # same bytes: the digest alone would not stop it

    def work(spec: LaunchSpec) -> Exit:
        succeed(spec)
        (spec.folder / "out/model").unlink()
        (spec.folder / "out/model").symlink_to(secret)
        return Exit(exit_code=0)

    stage.begin(work).run()

    assert "output/model" not in stage.world.store.objects


def test_refused_outputs_are_named_and_do_not_hold_up_the_end(stage: Stage) -> None:
    stage.world.grant_requester.refused = {"model": "a newer attempt has taken its place"}
    stage.begin()
    stage._supervised[-1].run()

    (told,) = [b for b in stage.world.tell() if getattr(b, "phase", None) == "uploaded"]
    assert told.details["failed"] == {"model": "refused: a newer attempt has taken its place"}
    assert told.details["uploaded"] == ["console.log"]


def test_a_refused_console_does_not_hold_up_the_end(stage: Stage) -> None:
    stage.world.grant_requester.refused = {"000000000000": "gone"}

    assert stage.begin().run()[-1] == "uploaded"


def test_an_engine_that_stumbles_is_tried_again(stage: Stage) -> None:
    stage.runtime.problems = [TransientError("engine"), TransientError("engine")]

    assert stage.begin().run()[-1] == "uploaded"


def test_an_engine_that_stays_away_loses_the_attempt(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: object, **__: object) -> str:
        stage.world.clock.advance(100)
        raise TransientError("engine")

    monkeypatch.setattr(stage.runtime, "resolve_image", resolve)

    assert stage.begin().run() == ["accepted", "lost"]


def test_a_registry_that_stays_away_leaves_the_slot_to_others(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: object, **__: object) -> str:
        stage.world.clock.advance(PULL_BUDGET_SECONDS / 2)
        raise RegistryAway("image reg.example/t:1 cannot be pulled now: refused")

    monkeypatch.setattr(stage.runtime, "resolve_image", resolve)

    assert stage.begin().run() == ["accepted", "lost"]
    (attempt,) = (handle.attempt for handle in stage.world.agent._attempts.list())
    assert attempt.reason == "image reg.example/t:1 cannot be pulled now: refused"
    assert attempt.details == {"refusal": "image"}


def test_how_far_a_pull_is_is_told_now_and_then(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(*_: object, tell: Any, **__: object) -> str:
        for percent in range(100):
            tell(percent, f"layer {percent} of 100")
        stage.world.clock.advance(10)
        tell(100, "layer 100 of 100")
        return "digest"

    monkeypatch.setattr(stage.runtime, "resolve_image", resolve)
    told = []
    monkeypatch.setattr(stage.world.outbox, "tell", lambda key, event, *, group: told.append(event))

    stage.begin().run()

    news = [(event.phase, event.percent) for event in told if isinstance(event, Progress)]
    assert news[:2] == [("layer 0 of 100", 0), ("layer 100 of 100", 100)]


def test_what_can_never_start_is_removed_and_lost(stage: Stage) -> None:
    stage.runtime.problems = [PermanentError("no such image")]

    assert stage.begin().run() == ["accepted", "lost"]
    assert stage.runtime.removed == ["touchstone-dev-s1-i5-1-1"]


def test_a_cancel_is_told_only_once_the_container_is_gone(stage: Stage) -> None:
    stage.begin(lambda _: None)
    (handle,) = stage.world.agent._attempts.handles.values()
    gone_when_told = []
    save = stage.world.journal.save

    def look(attempt, **options):
        if attempt.phase == "cancelled":
            gone_when_told.append(not stage.runtime.exists(handle.name))
        return save(attempt, **options)

    stage.world.journal.save = look
    launch = stage.runtime.launch

    def launch_then_cancel(spec: LaunchSpec) -> None:
        launch(spec)
        handle.end("enough")

    stage.runtime.launch = launch_then_cancel

    assert stage.run() == ["accepted", "preparing", "running", "cancelled"]
    assert gone_when_told == [True]


def test_a_container_that_cannot_be_stopped_yet_is_not_called_cancelled(stage: Stage) -> None:
    stage.begin(lambda _: None)
    (handle,) = stage.world.agent._attempts.handles.values()
    handle.end("enough")
    stage.runtime.problems = [TransientError("busy"), PermanentError("odd"), TransientError("busy")]

    assert stage.run() == ["accepted", "cancelled"]
    assert stage.runtime.stopped == [handle.name]


def make_input(stage: Stage, data: bytes, grant: Grant | None = None, **fields: object) -> Input:
    stage.world.store.objects["input/data"] = data
    stage.world.store.objects["early"] = data
    return Input(
        path="data",
        grant=grant or make_grant("early", method="GET"),
        sha256="0" * 64,
        size=len(data),
        **fields,
    )


def test_an_input_arrives_before_the_container_starts(stage: Stage) -> None:
    seen = []

    def work(spec: LaunchSpec) -> Exit:
        seen.append((spec.folder / "in/data").read_bytes())
        return succeed(spec)

    stage.begin(work, inputs=(make_input(stage, b"42"),)).run()

    assert seen == [b"42"]
    assert stage.world.grant_requester.asked[0].purpose != "input"


def test_an_input_whose_grant_has_expired_is_asked_for(stage: Stage) -> None:
    old = make_grant("early", method="GET", expires_at=stage.world.clock.now())

    stage.begin(inputs=(make_input(stage, b"42", old),)).run()

    assert stage.world.grant_requester.asked[0].purpose == "input"


def test_a_grant_that_the_store_refuses_is_replaced(stage: Stage) -> None:
    stage.world.store.problems = [GrantExpired("403")]

    assert stage.begin(inputs=(make_input(stage, b"42"),)).run()[-1] == "uploaded"
    assert stage.world.grant_requester.asked[0].purpose == "input"


def test_inputs_that_are_refused_lose_the_attempt(stage: Stage) -> None:
    stage.world.store.problems = [GrantExpired("403")]
    stage.world.grant_requester.refused = {"data": "no"}

    assert stage.begin(inputs=(make_input(stage, b"42"),)).run()[-1] == "lost"


@pytest.mark.parametrize("path", ["../data", "/etc/cron.d/x"])
def test_an_input_that_leads_out_of_its_folder_loses_the_attempt(stage: Stage, path: str) -> None:
    item = make_input(stage, b"42").model_copy(update={"path": path})

    assert stage.begin(inputs=(item,)).run()[-1] == "lost"


def test_an_archive_that_cannot_be_unpacked_is_the_submitters_failure(stage: Stage) -> None:
    stage.begin(inputs=(make_input(stage, b"not an archive", unpack=True),))
    stage._supervised[-1].run()

    (told,) = [b for b in stage.world.tell() if getattr(b, "phase", None) == "exited"]
    assert told.details["exit_code"] == 3
    assert told.details["verdict"]["class"] == "submission"
    assert stage.runtime.launched == []


def test_a_long_console_is_sent_in_chunks_that_adjoin(stage: Stage) -> None:
    text = bytes(range(256)) * (MAX_CHUNK_BYTES // 64)

    def work(spec: LaunchSpec) -> Exit:
        (spec.folder / "out/console.log").write_bytes(text)
        return Exit(exit_code=1)

    stage.begin(work).run()

    chunks = stage.world.store.objects
    assert [int(key.partition("/")[2]) for key in sorted(chunks)] == [
        n * MAX_CHUNK_BYTES for n in range(4)
    ]
    assert b"".join(chunks[key] for key in sorted(chunks)) == text


def test_a_console_beyond_its_limit_is_not_followed(stage: Stage) -> None:
    def work(spec: LaunchSpec) -> Exit:
        (spec.folder / "out/console.log").write_bytes(bytes(2 * 1024**2))
        return Exit(exit_code=1)

    stage.begin(work, limits=Limits(console_bytes=4096)).run()

    assert sum(map(len, stage.world.store.objects.values())) == 4096 + 256 * 1024


def test_a_chunk_that_was_decided_on_is_sent_with_the_same_bytes_after_a_crash(
    stage: Stage, supervised: list[Supervisor]
) -> None:
    """A longer chunk under a key that is taken would lose what came behind the old one."""
    stage.begin(lambda _: None)
    supervisor = supervised[-1]
    supervisor._prepare()
    supervisor._launch()
    console = stage.folder / "out/console.log"
    console.write_bytes(b"first\n")
    uploader, thread = supervisor._start_console()
    uploader.complete()
    thread.join()
    # The crash came between the upload and the journal.
    (attempt,) = stage.world.journal.load()
    planned = Chunk(offset=0, size=6, sha256=hashlib.sha256(b"first\n").hexdigest())
    stage.world.journal.save(
        replace(attempt, console_cursor=0, chunks=(planned,), console_closed=False),
        now=stage.world.clock.now(),
    )
    console.write_bytes(b"first\nsecond\n")
    stage.runtime.exits = {name: Exit(exit_code=1) for name in stage.runtime.exits}

    stage.world.restart().recover()
    supervised[-1].run()

    chunks = stage.world.store.objects
    assert b"".join(chunks[key] for key in sorted(chunks)) == b"first\nsecond\n"


def test_a_defect_does_not_leave_an_attempt_without_an_end(stage: Stage) -> None:
    def resolve(*_: object, **__: object) -> str:
        raise ZeroDivisionError

    stage.runtime.resolve_image = resolve

    assert stage.begin().run() == ["accepted", "lost"]


# --- limits that are kept from outside --------------------------------------------------------

MIB = 1024**2
SMALL = Limits(output_bytes=5 * MIB, console_bytes=MIB, wall_seconds=600)


def find_exit(stage: Stage) -> PhaseChanged:
    (told,) = [b for b in stage.world.tell() if getattr(b, "phase", None) == "exited"]
    return told


def fill(spec: LaunchSpec, exited: Exit | None = None) -> Exit | None:
    """Stop the runner, leave a lie, and write on."""
    succeed(spec)
    (spec.folder / "out/models").mkdir()
    (spec.folder / "out/models/big").write_bytes(bytes(30 * MIB))
    return exited


def test_what_fills_the_disk_is_killed_and_nothing_it_left_is_believed(stage: Stage) -> None:
    stage.begin(fill, limits=SMALL)
    stage._supervised[-1].run()

    assert stage.runtime.killed == ["touchstone-dev-s1-i5-1-1"]
    told = find_exit(stage)
    assert (told.details["exit_code"], told.details["files"]) == (3, [])
    assert told.details["verdict"]["class"] == "limit"
    assert told.details["verdict"]["reason"] == "output limit: stopped after more than 5 MiB"
    assert [path.name for path in (stage.folder / "out").iterdir()] == ["console.log"]
    assert stage.world.store.objects == {"console/000000000000": b"hello\n"}


def test_a_verdict_does_not_help_who_has_written_too_much(stage: Stage) -> None:
    """Written in the moment before the end, it was nobody's to see."""
    stage.begin(lambda spec: fill(spec, Exit(exit_code=0)), limits=SMALL)
    stage._supervised[-1].run()

    assert find_exit(stage).details["verdict"]["class"] == "limit"


def test_what_runs_too_long_is_ended_also_when_its_runner_is_stopped(stage: Stage) -> None:
    stage.begin(lambda _: None, limits=SMALL)
    supervisor = stage._supervised[-1]
    supervisor._prepare()
    supervisor._launch()
    stage.world.clock.advance(609)
    assert stage.runtime.exits["touchstone-dev-s1-i5-1-1"] is None
    stage.world.clock.advance(2)
    supervisor.run()

    told = find_exit(stage)
    assert told.details["exit_code"] == 3
    assert told.details["verdict"]["reason"] == "time limit: stopped after 600 s"
    assert stage.runtime.removed[-1] == "touchstone-dev-s1-i5-1-1"


def test_the_kill_does_not_wait_for_a_journal_that_the_disk_has_no_room_for(
    stage: Stage,
) -> None:
    stage.begin(fill, limits=SMALL)
    (handle,) = stage.world.agent._attempts.handles.values()
    save = stage.world.journal.save

    def save_if_there_is_room(attempt, **options):
        if attempt.phase == "running" and attempt.end_as == "exited" and is_full():
            raise TransientError("journal: disk is full")
        return save(attempt, **options)

    def is_full() -> bool:
        return (stage.folder / "out/models/big").exists()

    stage.world.journal.save = save_if_there_is_room
    stage._supervised[-1].run()

    assert stage.runtime.killed[0] == handle.name
    assert find_exit(stage).details["verdict"]["class"] == "limit"


def test_the_decision_outlives_a_crash(stage: Stage, supervised: list[Supervisor]) -> None:
    stage.begin(fill, limits=SMALL)
    supervisor = supervised[-1]
    supervisor._prepare()
    supervisor._launch()
    supervisor._watch()
    # The agent died here; whoever lied in the folder did so to the next one, too.
    stage.world.restart().recover()
    supervised[-1].run()

    assert find_exit(stage).details["verdict"]["class"] == "limit"
    assert stage.runtime.labels == {}


def test_a_cancel_behind_the_decision_changes_nothing(stage: Stage) -> None:
    stage.begin(fill, limits=SMALL)
    (handle,) = stage.world.agent._attempts.handles.values()
    supervisor = stage._supervised[-1]
    supervisor._prepare()
    supervisor._launch()
    supervisor._watch()
    handle.end("by hand")

    assert stage.run()[-2:] == ["exited", "uploaded"]


def test_what_a_server_turns_out_to_lack_is_told_by_its_class(stage: Stage) -> None:
    """It took each training and lost it a second later, and was given the next one."""
    stage.begin()
    stage.runtime.problems = [HostLacks("image trainer is not on this server", Refusal.IMAGE)]

    stage._supervised[-1].run()

    told = [body for body in stage.world.tell() if isinstance(body, PhaseChanged)][-1]
    assert (told.phase, told.details) == (AttemptPhase.LOST, {"refusal": "image"})


def test_what_is_ended_for_another_reason_tells_of_nothing_that_lacks(stage: Stage) -> None:
    stage.begin()
    stage.world.order(Cancel(ref=make_ref(), reason="enough"))

    stage._supervised[-1].run()

    told = [body for body in stage.world.tell() if isinstance(body, PhaseChanged)][-1]
    assert (told.phase, told.details) == (AttemptPhase.CANCELLED, {})
