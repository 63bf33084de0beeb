"""What the agent makes of the commands it is given."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from fakes.agent_world import NOW, make_attempt, make_grant, make_ref, make_start
from touchstone_agent.adapters.sqs import Received
from touchstone_agent.context import build_labels
from touchstone_agent.protocol.envelope import CommandMessage, Header, load_private_key, seal
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.images import ServerImage
from touchstone_agent.protocol.messages import (
    Acknowledge,
    AttemptPhase,
    Cancel,
    Command,
    GrantPurpose,
    Grants,
    Hello,
    Input,
    Inventory,
    Poison,
    SlotClass,
    Sync,
)
from touchstone_agent.supervisor import Supervisor

from .conftest import CONTROL_PRIVATE, AgentWorld

P = AttemptPhase


def test_a_start_is_journalled_before_its_message_is_deleted(
    world: AgentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    known_at_delete = []
    delete = world.queues.delete

    def look(queue: str, receipt: str) -> None:
        known_at_delete.append([attempt.ref for attempt in world.journal.load()])
        delete(queue, receipt)

    monkeypatch.setattr(world.queues, "delete", look)

    world.order(make_start())

    assert known_at_delete == [[make_ref()]]
    assert world.tell_phases() == [("i5", 1, "accepted")]


def test_the_same_start_twice_is_supervised_once(
    world: AgentWorld, supervised: list[Supervisor]
) -> None:
    world.order(make_start())
    world.order(make_start())

    assert len(supervised) == 1
    assert world.tell_phases() == [("i5", 1, "accepted")] * 2


def test_a_refused_start_leaves_nothing_behind(world: AgentWorld) -> None:
    for number in range(3):
        world.order(make_start(make_ref(f"i{number}")))

    assert world.tell_phases()[-1] == ("i2", 1, "rejected")
    assert len(world.journal.load()) == 2


def test_a_start_is_refused_when_the_disk_is_full(make_world) -> None:
    world = make_world(min_free_mib=10**12)

    world.order(make_start())

    (told,) = world.tell()
    assert told.phase is P.REJECTED
    assert told.reason.startswith("disk:")


def test_inputs_count_against_the_disk(world: AgentWorld) -> None:
    huge = Input(path="big", grant=make_grant("u"), sha256="0" * 64, size=10**18)

    world.order(make_start(inputs=(huge,)))

    assert world.tell_phases() == [("i5", 1, "rejected")]


def test_a_start_that_cannot_be_named_is_refused(world: AgentWorld) -> None:
    world.order(make_start(make_ref(submission_id="../etc")))

    assert world.tell_phases() == [("i5", 1, "rejected")]


def test_a_cancel_marks_its_attempt_before_its_message_is_deleted(
    world: AgentWorld, supervised: list[Supervisor]
) -> None:
    world.order(make_start())

    world.order(Cancel(ref=make_ref(), reason="enough"))

    (attempt,) = world.journal.load()
    assert attempt.cancel_reason == "enough"
    assert "cancelled" not in [phase for *_, phase in world.tell_phases()]
    supervised[0].run()
    assert world.tell_phases() == [("i5", 1, "cancelled")]


def test_a_cancel_before_the_start_holds_over_a_restart(world: AgentWorld) -> None:
    world.order(Cancel(ref=make_ref(), reason="early"))
    world.restart().recover()

    world.order(make_start())

    assert world.tell_phases() == [("i5", 1, "cancelled")] * 2
    assert world.journal.load() == ()


def test_a_cancel_ends_older_attempts_too_and_no_newer_one(world: AgentWorld) -> None:
    world.order(make_start(make_ref(fence=3)))

    world.order(Cancel(ref=make_ref(fence=2), reason="old"))
    assert world.journal.load()[0].cancel_reason is None
    world.order(Cancel(ref=make_ref(fence=4), reason="all"))

    assert world.journal.load()[0].cancel_reason == "all"


def test_cancelling_what_has_exited_tells_that_it_has(world: AgentWorld) -> None:
    world.journal.save(make_attempt(phase=P.EXITED), now=NOW)
    world.agent.recover()
    world.tell()

    world.order(Cancel(ref=make_ref(), reason="late"))

    assert world.tell_phases() == [("i5", 1, "exited")]


def test_a_newer_fence_asks_the_older_attempt_to_end(world: AgentWorld) -> None:
    world.order(make_start(make_ref(fence=1)))

    world.order(make_start(make_ref(attempt=2, fence=2)))

    reasons = {a.ref.fence: a.cancel_reason for a in world.journal.load()}
    assert reasons == {1: "superseded by fence 2", 2: None}


def test_an_acknowledged_attempt_is_forgotten_with_its_files(world: AgentWorld) -> None:
    world.journal.save(make_attempt(phase=P.UPLOADED), now=NOW)
    world.agent.recover()
    (folder,) = world.settings.attempts_dir.iterdir()

    world.order(Acknowledge(ref=make_ref()))

    assert world.journal.load() == ()
    assert not folder.exists()
    world.order(make_start())
    assert world.tell_phases()[-1] == ("i5", 1, "rejected")


def test_what_still_runs_cannot_be_acknowledged(world: AgentWorld) -> None:
    world.order(make_start())

    world.order(Acknowledge(ref=make_ref()))

    assert len(world.journal.load()) == 1
    assert world.agent.counts["early_acknowledge"] == 1


def test_an_acknowledged_attempt_waits_for_the_end_of_its_console(
    world: AgentWorld, supervised: list[Supervisor]
) -> None:
    world.order(make_start())
    world.order(Cancel(ref=make_ref(), reason="x"))
    monkey = supervised[0]._on_done
    supervised[0]._on_done = lambda handle: None  # still at the console
    supervised[0].run()

    world.order(Acknowledge(ref=make_ref()))
    assert len(world.journal.load()) == 1
    monkey(supervised[0]._handle)

    assert world.journal.load() == ()


@pytest.mark.parametrize("body", ["", "{}", '{"kid":"control","sig":"AA==","payload":"x"}'])
def test_a_message_that_is_refused_is_reported_and_deleted(world: AgentWorld, body: str) -> None:
    world.agent._commands.handle("queue", Received(message_id="m9", receipt="r9", body=body))

    (told,) = world.tell()
    assert isinstance(told, Poison)
    assert told.message_id == "m9"
    assert world.queues.deleted == ["r9"]
    assert world.agent.counts["refused"] == 1


def test_what_is_refused_on_both_queues_at_once_is_counted_twice(world: AgentWorld) -> None:
    """Each queue is polled by a thread of its own, and a Counter adds in two steps."""

    def refuse(number: int) -> None:
        message = Received(message_id=f"m{number}", receipt=f"r{number}", body="")
        world.agent._commands.handle("queue", message)

    class Slow(Counter[str]):
        def __getitem__(self, what: str) -> int:
            count = super().__getitem__(what)
            if not others:
                others.append(threading.Thread(target=refuse, args=(2,)))
                others[0].start()
                others[0].join(0.2)  # as long as it gets in between, if it does
            return count

    others: list[threading.Thread] = []
    world.agent._commands.counts = Slow()

    refuse(1)
    others[0].join()

    assert world.agent.counts["refused"] == 2


def test_unexpected_grants_are_counted_and_ignored(world: AgentWorld) -> None:
    world.order(Grants(ref=make_ref(), purpose=GrantPurpose.OUTPUT), correlation_id="stale")

    assert world.agent.counts["unexpected_grants"] == 1
    assert world.tell() == []


# --- resync -----------------------------------------------------------------------------------


def sync(world: AgentWorld, *expected: object) -> None:
    world.agent._say_hello()
    (hello_id,) = world.agent._expectations.hellos
    world.order(Sync(expected=expected), correlation_id=hello_id)


def test_a_sync_that_answers_no_hello_of_this_start_is_ignored(world: AgentWorld) -> None:
    world.order(make_start())
    world.clock.advance(10)
    world.order(Sync(), correlation_id="of an earlier start")

    assert world.agent.counts["unexpected_sync"] == 1
    world.clock.advance(10_000)
    world.agent._end_overdue()
    assert world.journal.load()[0].cancel_reason is None


def test_the_first_hello_tells_what_the_images_compute_with(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path, images_allowed=["t:1", "registry/*"])
    world.runtime.image_labels = {"touchstone.backend": "cuda", "touchstone.cuda": "12.8"}
    world.context.stopping.set()

    world.agent.run()

    (hello,) = (body for body in world.tell() if isinstance(body, Hello))
    assert hello.inventory.images == (ServerImage(name="t:1", backend="cuda", cuda="12.8"),)


def test_an_engine_that_does_not_answer_keeps_no_hello_back(tmp_path: Path) -> None:
    world = AgentWorld(tmp_path, images_allowed=["t:1"])
    world.runtime.read_image_labels = fail_to_answer  # type: ignore[method-assign]
    world.context.stopping.set()

    world.agent.run()

    (hello,) = (body for body in world.tell() if isinstance(body, Hello))
    assert hello.inventory.images == ()


def fail_to_answer(image: str) -> Mapping[str, str]:
    raise TransientError(f"image {image}: the engine does not answer")


def test_hello_is_said_until_it_is_answered(world: AgentWorld) -> None:
    world.agent._say_hello()
    world.agent._repeat_hello()
    assert [type(body) for body in world.tell()] == [Hello]
    (first, _) = world.agent._expectations.hellos
    world.order(Sync(), correlation_id=first)

    world.agent._repeat_hello()

    assert world.tell() == []


def test_the_unexpected_is_ended_as_lost_after_its_quarantine(world: AgentWorld) -> None:
    world.order(make_start())
    world.clock.advance(1)
    sync(world)

    world.clock.advance(599)
    world.agent._end_overdue()
    assert world.journal.load()[0].cancel_reason is None
    world.clock.advance(1)
    world.agent._end_overdue()

    attempt = world.journal.load()[0]
    assert attempt.cancel_reason == "the control plane does not expect it"
    assert attempt.end_as is P.LOST


def test_grants_lift_a_quarantine(world: AgentWorld) -> None:
    world.order(make_start())
    world.clock.advance(1)
    sync(world)
    world.order(Grants(ref=make_ref(), purpose=GrantPurpose.CONSOLE))

    world.clock.advance(700)
    world.agent._end_overdue()

    assert world.journal.load()[0].cancel_reason is None


def test_the_missing_has_time_to_arrive(world: AgentWorld) -> None:
    sync(world, make_ref())
    world.clock.advance(29)
    world.agent._end_overdue()

    world.order(make_start())
    world.clock.advance(60)
    world.agent._end_overdue()

    assert "lost" not in [phase for *_, phase in world.tell_phases()]


def test_the_missing_is_lost_at_last_and_never_starts_after_that(world: AgentWorld) -> None:
    sync(world, make_ref())
    world.clock.advance(31)
    world.agent._end_overdue()
    assert world.tell_phases() == [("i5", 1, "lost")]

    world.order(make_start())

    assert world.tell_phases() == [("i5", 1, "rejected")]


def test_the_expected_is_told_again(world: AgentWorld) -> None:
    world.order(make_start())
    world.tell()

    sync(world, make_ref())

    assert world.tell_phases() == [("i5", 1, "accepted")]


# --- recovery ---------------------------------------------------------------------------------


def test_every_attempt_is_told_again_after_a_restart_and_the_unfinished_go_on(
    world: AgentWorld, supervised: list[Supervisor]
) -> None:
    for number, phase in enumerate([P.ACCEPTED, P.RUNNING, P.EXITED, P.UPLOADED, P.CANCELLED]):
        world.journal.save(make_attempt(make_ref(f"i{number}"), phase), now=NOW)

    world.restart().recover()

    assert [phase for *_, phase in world.tell_phases()] == [
        "accepted",
        "running",
        "exited",
        "uploaded",
        "cancelled",
    ]
    assert [s._handle.attempt.phase for s in supervised] == [P.ACCEPTED, P.RUNNING, P.EXITED]


def test_what_was_not_sent_is_sent_after_a_restart_once(world: AgentWorld) -> None:
    world.order(make_start())

    world.restart().recover()

    assert world.tell_phases() == [("i5", 1, "accepted")]


def test_folders_of_nobody_are_removed(world: AgentWorld) -> None:
    world.order(make_start())
    (world.settings.attempts_dir / "touchstone-dev-old-i1-1-1/out").mkdir(parents=True)

    world.restart().recover()

    assert [f.name for f in world.settings.attempts_dir.iterdir()] == ["touchstone-dev-s1-i5-1-1"]


def put_stranger(world: AgentWorld, name: str, **labels: str) -> None:
    world.runtime.labels[name] = labels
    world.runtime.exits[name] = None


def test_a_container_without_complete_labels_is_removed_after_a_while(world: AgentWorld) -> None:
    put_stranger(world, "touchstone-dev-s9-i1-1-1")
    world.agent.recover()
    world.clock.advance(599)
    world.agent._end_overdue()
    assert world.runtime.removed == []

    world.clock.advance(1)
    world.agent._end_overdue()

    assert world.runtime.removed == ["touchstone-dev-s9-i1-1-1"]


def test_a_container_that_the_journal_lost_is_adopted(
    world: AgentWorld, supervised: list[Supervisor]
) -> None:
    world.order(make_start())
    labels = build_labels(supervised[0]._handle, world.context)
    put_stranger(world, "touchstone-dev-s1-i5-1-1", **labels)
    world.journal.close()
    world.settings.journal_file.unlink()
    supervised.clear()

    world.restart().recover()

    assert [s._handle.ref for s in supervised] == [make_ref()]
    assert world.tell_phases()[-1] == ("i5", 1, "running")


def test_an_outranked_container_is_not_adopted(
    world: AgentWorld, supervised: list[Supervisor]
) -> None:
    world.order(make_start())
    labels = build_labels(supervised[0]._handle, world.context)
    world.journal.clear()
    world.journal.mark(make_ref(fence=2), now=NOW, cancelled=True)
    put_stranger(world, "touchstone-dev-s1-i5-1-1", **labels)
    supervised.clear()

    world.restart().recover()

    assert supervised == []


def test_labels_hold_no_grant(world: AgentWorld, supervised: list[Supervisor]) -> None:
    secret = Input(path="c", grant=make_grant("http://sesame"), sha256="0" * 64, size=1)
    world.order(make_start(inputs=(secret,)))

    assert "sesame" not in str(build_labels(supervised[0]._handle, world.context))


# --- time -------------------------------------------------------------------------------------


def test_an_end_is_told_again_until_it_is_acknowledged(world: AgentWorld) -> None:
    world.journal.save(make_attempt(phase=P.UPLOADED), now=NOW)
    world.agent.recover()
    world.tell()
    world.agent._attempts.repeat_ends()
    assert world.tell() == []

    world.clock.advance(601)
    world.agent._attempts.repeat_ends()

    assert world.tell_phases() == [("i5", 1, "uploaded")]


def test_an_end_that_nobody_acknowledges_is_forgotten_at_last(world: AgentWorld) -> None:
    world.journal.save(make_attempt(phase=P.UPLOADED), now=NOW)
    world.journal.save(make_attempt(make_ref("i6")), now=NOW)
    world.agent.recover()

    world.clock.advance(timedelta(hours=49).total_seconds())
    world.agent._attempts.repeat_ends()

    assert [a.ref.task_id for a in world.journal.load()] == ["i6"]


def test_the_inventory_lists_what_has_not_ended(
    world: AgentWorld, handles: Callable[[], list]
) -> None:
    world.journal.save(make_attempt(phase=P.EXITED), now=NOW)
    world.journal.save(make_attempt(make_ref("i6"), P.LOST), now=NOW)
    world.agent.recover()
    world.order(make_start(make_ref("validation"), slot_class=SlotClass.VALIDATION))

    running = world.agent.build_inventory().running

    assert [(ref.task_id, phase) for ref, phase in running] == [
        ("i5", P.EXITED),
        ("validation", P.ACCEPTED),
    ]


def test_the_inventory_tells_the_disk_that_is_free_beside_what_is_kept_free(
    world: AgentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(free=(world.settings.min_free_mib + 5 * 1024 + 700) * 1024**2)
    monkeypatch.setattr("touchstone_agent.daemon.shutil.disk_usage", lambda _: usage)

    inventory = world.agent.build_inventory()

    # In whole GiB: what changes with each heartbeat would be written with each.
    assert inventory.disk_free_mib == 5 * 1024
    assert Inventory.model_validate_json(inventory.model_dump_json()) == inventory


def test_a_disk_that_cannot_be_asked_is_left_out(
    world: AgentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise OSError("gone")

    monkeypatch.setattr("touchstone_agent.daemon.shutil.disk_usage", fail)

    assert "disk_free_mib" not in world.agent.build_inventory().model_dump()


def test_an_engine_that_does_not_answer_does_not_keep_the_agent_from_starting(
    world: AgentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    from touchstone_agent.protocol.errors import TransientError

    def fail() -> None:
        raise TransientError("no engine")

    monkeypatch.setattr(world.runtime, "list_labels", fail)

    world.agent.recover()
    world.order(make_start())

    assert world.tell_phases() == [("i5", 1, "accepted")]


def test_a_cancel_of_what_cannot_even_be_named_is_answered(world: AgentWorld) -> None:
    world.order(Cancel(ref=make_ref(submission_id="../etc"), reason="x"))

    assert world.tell_phases() == [("i5", 1, "cancelled")]


# --- what cannot be dealt with --------------------------------------------------------------------


def received(world: AgentWorld, command: Command, number: str) -> Received:
    """A genuine command as its queue hands it over, in its task's group."""
    header = Header(
        message_id=number,
        env="dev",
        server="box",
        issued_at=world.clock.now(),
        expires_at=NOW + timedelta(days=9),
    )
    text = seal(
        CommandMessage(header=header, body=command), "control", load_private_key(CONTROL_PRIVATE)
    )
    return Received(message_id=number, receipt=number, body=text, group=command.ref.task_key)


def fail_on(world: AgentWorld, monkeypatch: pytest.MonkeyPatch, task_id: str, error: Exception):
    real = world.agent._commands._on_start

    def on_start(start):
        if start.ref.task_id == task_id:
            raise error
        real(start)

    monkeypatch.setattr(world.agent._commands, "_on_start", on_start)


@pytest.mark.parametrize("error", [KeyError("bug"), TransientError("no room in the journal")])
def test_only_the_same_tasks_later_messages_wait_for_one_that_fails(
    world: AgentWorld, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The other nine of its batch came again with it, and again only behind it."""
    fail_on(world, monkeypatch, "i1", error)
    batch = [
        received(world, make_start(make_ref("i1")), "a"),
        received(world, Cancel(ref=make_ref("i1"), reason="x"), "b"),
        received(world, make_start(make_ref("i5")), "c"),
    ]

    world.agent._commands.take("queue", batch)

    assert world.queues.deleted == ["c"]
    assert [attempt.ref.task_id for attempt in world.journal.load()] == ["i5"]


def test_a_message_that_fails_five_times_is_told_of_once(
    world: AgentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_on(world, monkeypatch, "i1", KeyError("bug"))
    message = received(world, make_start(make_ref("i1")), "a")

    for _ in range(4):
        world.agent._commands.take("queue", [message])
    assert world.tell() == []
    for _ in range(4):
        world.agent._commands.take("queue", [message])

    (poison,) = world.tell()
    assert isinstance(poison, Poison)
    assert poison.reason == "the agent failed on it 5 times: KeyError('bug')"
    assert world.agent.counts["defect"] == 8


def test_a_chore_that_fails_keeps_no_other_from_being_done(world: AgentWorld) -> None:
    """The main thread ended with it: no heartbeat, and so every attempt was lost."""

    def chore() -> None:
        raise KeyError("bug")

    world.agent._do(chore)

    assert world.agent.counts["defect"] == 1


def test_an_agent_whose_loop_has_ended_ends_and_is_started_again(world: AgentWorld) -> None:
    ended = threading.Thread(target=lambda: None, name="outbox")
    ended.start()
    ended.join()
    world.agent._threads = [ended]

    with pytest.raises(SystemExit, match="'outbox' has ended"):
        world.agent._check_threads()
    world.context.stopping.set()
    world.agent._check_threads()


def test_an_attempt_whose_supervisor_has_ended_gets_another(
    world: AgentWorld, supervised: list[Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It held its slot until somebody restarted the agent."""
    world.order(make_start())
    (first,) = supervised

    def die() -> None:
        raise KeyError("bug")

    monkeypatch.setattr(first, "run", die)
    first._run()
    world.agent._attempts.supervise_again()
    world.agent._attempts.supervise_again()

    assert [supervisor._handle.ref for supervisor in supervised] == [make_ref(), make_ref()]


def test_a_refusal_is_told_with_its_class(make_world) -> None:
    world = make_world(min_free_mib=10**12)

    world.order(make_start())
    world.order(make_start(make_ref(submission_id="../etc")))

    assert [told.details for told in world.tell()] == [{"refusal": "disk"}, {"refusal": "name"}]


def test_a_start_that_cannot_even_be_journalled_is_refused_for_the_disk(
    world: AgentWorld, monkeypatch: pytest.MonkeyPatch, supervised: list[Supervisor]
) -> None:
    """It came again for an hour, and its task waited for that hour, other servers free or not."""

    def save(*_: object, **__: object) -> None:
        raise TransientError("journal: database or disk is full")

    with monkeypatch.context() as full:
        full.setattr(world.journal, "save", save)
        full.setattr(world.journal, "post", save)
        world.order(make_start())
        world.order(make_start(make_ref(submission_id="../etc")))

    assert [(told.phase, told.details["refusal"]) for told in world.tell()] == [
        (P.REJECTED, "disk"),
        (P.REJECTED, "disk"),
    ]
    assert supervised == []
    world.order(make_start(make_ref(attempt=2, fence=2)))
    assert world.tell_phases() == [("i5", 2, "accepted")]
