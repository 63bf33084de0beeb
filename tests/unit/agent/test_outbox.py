"""What is said, in which order, and what is not said twice."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from fakes.agent_world import NOW, FakeClock, FakeQueues, make_attempt, make_ref
from touchstone_agent.adapters.journal import Journal
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.outbox import Outbox
from touchstone_agent.protocol.envelope import generate_key, load_private_key
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.messages import AttemptPhase, Poison, Progress

PRIVATE, PUBLIC = generate_key()


class World:
    def __init__(self, path: Path) -> None:
        self.queues = FakeQueues()
        self.journal = Journal(path / "journal.db")
        self.outbox = Outbox(
            queues=self.queues,
            queue="evt-dev.fifo",
            env="dev",
            server="box",
            key=load_private_key(PRIVATE),
            journal=self.journal,
            clock=FakeClock(),
            epoch="e1",
        )

    def post(self, task_id: str, **details: object) -> None:
        attempt = make_attempt(make_ref(task_id), details=details)
        posted = self.journal.save(attempt, now=NOW, announce=True)
        assert posted is not None
        self.outbox.post(posted)

    def send_all(self) -> list:
        while self.outbox.send_next():
            pass
        return self.queues.open_all("box", PUBLIC)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def make_progress(percent: float) -> Progress:
    return Progress(ref=make_ref(), at=NOW, phase="fit", percent=percent)


def test_phases_are_sent_in_order_and_before_news(world: World) -> None:
    world.outbox.tell("p", make_progress(1), group="g")
    world.post("i1")
    world.post("i2")

    sent = world.send_all()

    assert [message.body.kind for message in sent] == ["phase", "phase", "progress"]
    assert [message.header.sequence for message in sent] == [1, 2, 3]
    assert {message.header.epoch for message in sent} == {"e1"}


def test_messages_of_a_task_share_a_group_and_ids_are_their_own(world: World) -> None:
    world.post("i1")
    world.post("i1")
    world.send_all()

    groups = {group for _, group, _, _ in world.queues.sent}
    ids = {message_id for _, _, message_id, _ in world.queues.sent}
    assert groups == {"s1/i1"}
    assert len(ids) == 2


def test_of_news_only_the_latest_is_sent(world: World) -> None:
    for percent in (1, 2, 3):
        world.outbox.tell("progress", make_progress(percent), group="g")

    assert [message.body.percent for message in world.send_all()] == [3]


def test_a_phase_leaves_the_journal_only_once_it_is_sent(world: World) -> None:
    world.post("i1")
    world.queues.failures = 1

    with pytest.raises(TransientError):
        world.outbox.send_next()
    assert len(world.journal.load_outbox()) == 1
    world.send_all()

    assert world.journal.load_outbox() == ()
    assert len(world.queues.sent) == 1


def test_an_event_too_large_for_a_queue_is_told_without_its_details(world: World) -> None:
    world.post("i1", verdict="x" * 2 * 1024**2)

    (message,) = world.send_all()

    assert "2" in message.body.details["left_out"]
    assert message.body.phase == "running"


def test_a_flood_of_news_does_not_fill_the_memory(world: World) -> None:
    for number in range(1500):
        world.outbox.tell(f"poison {number}", Poison(reason="x", message_id=""), group="g")

    assert len(world.send_all()) == 1000


def test_leaving_sends_what_is_left_and_never_fails(world: World) -> None:
    world.post("i1")
    world.post("i2")
    world.outbox.flush(1)
    assert len(world.queues.sent) == 2
    world.post("i3")
    world.queues.failures = 1

    world.outbox.flush(1)

    assert len(world.journal.load_outbox()) == 1


def test_an_event_that_is_no_text_is_told_without_its_words(world: World) -> None:
    """It stood first in the outbox for ever, and nothing of the server was heard any more."""
    attempt = make_attempt(make_ref("i1"), AttemptPhase.LOST)
    posted = world.journal.save(attempt, now=NOW, announce=True)
    assert posted is not None
    odd = posted.event.model_copy(update={"reason": "\ud800", "details": {"x": "\ud800"}})
    world.outbox.post(replace(posted, event=odd))
    world.post("i2")

    first, second = world.send_all()

    assert (first.body.phase, first.body.reason) == ("lost", "\\ud800")
    assert second.body.ref.task_id == "i2"


def test_the_outbox_goes_on_whatever_happens(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stopping, calls = threading.Event(), []

    def fail() -> bool:
        calls.append(1)
        if len(calls) == 3:
            stopping.set()
        raise KeyError("bug")

    world.post("i1")
    monkeypatch.setattr(world.outbox, "send_next", fail)
    monkeypatch.setattr(world.outbox, "_backoff", Backoff(first_seconds=0, cap_seconds=0))

    world.outbox.run(stopping)

    assert len(calls) == 3
