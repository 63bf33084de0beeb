"""What is told of the queue: positions, reasons, estimates, and that somebody is at work."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fakes.placement_world import World
from touchstone.core.durations import ErrorLog
from touchstone.core.outlook import OUTLOOK_KEY, Outlook
from touchstone.core.queue import QUEUE_KEY, Queue
from touchstone.dispatcher.publishing import DISPATCHER_ID, OUTLOOK_SECONDS, Publisher
from touchstone.services.control import set_paused


@pytest.fixture
def world(monkeypatch):
    made = World(monkeypatch.setattr)
    made.add_server("rio")
    return made


@pytest.fixture
def errors():
    return ErrorLog()


@pytest.fixture
def publisher(world, errors):
    return Publisher(
        placer=world.dispatcher,
        objects=world.objects,
        settings=world.settings,
        errors=errors,
        clock=world.clock,
    )


def publish(world, publisher):
    """Publish, and read it as the API does."""
    world.tick()
    publisher.publish(tick_seconds=0.0123456)
    text = world.objects.get(world.settings.content_bucket, QUEUE_KEY)
    return Queue.model_validate_json(text)


def test_an_empty_queue_says_who_is_at_work_and_what_there_is(world, publisher):
    queue = publish(world, publisher)

    assert queue.at == world.now
    assert queue.dispatcher == DISPATCHER_ID
    assert queue.tick_seconds == 0.0123
    assert queue.waiting == ()
    (server,) = queue.servers
    assert (server.name, server.slots, server.free, server.is_alive) == ("rio", 1, 1, True)


def test_whoever_waits_has_a_place_a_reason_and_an_estimate(world, publisher):
    world.submit("s-1", 1, 5, 20)
    world.validate("s-2")
    world.validate("s-3")
    world.settle()

    queue = publish(world, publisher)

    waiting = {(task.submission_id, task.task_id): task for task in queue.waiting}
    assert set(waiting) == {("s-1", "i5"), ("s-1", "i20"), ("s-3", "validation")}
    second, third = waiting["s-1", "i5"], waiting["s-1", "i20"]
    assert (second.position, second.of) == (1, 2)
    assert (third.position, third.of) == (2, 2)
    assert (waiting["s-3", "validation"].position, waiting["s-3", "validation"].of) == (1, 1)
    assert "rio is full" in second.reason
    assert world.now < second.p50 < third.p50
    assert second.p50 <= second.p90
    assert second.since == world.now


def test_what_can_run_nowhere_has_a_reason_and_no_estimate(world, publisher):
    world.submit("s-1", 5, require_cuda=True)

    (task,) = publish(world, publisher).waiting

    assert "CUDA" in task.reason
    assert (task.p50, task.p90) == (None, None)


def test_a_silent_server_is_published_as_such(world, publisher):
    world.silence("rio")
    world.advance(600)

    (server,) = publish(world, publisher).servers

    assert not server.is_alive


def test_a_pause_is_published_and_nobody_can_say_how_long_it_lasts(world, publisher):
    set_paused(world.records, paused=True, by="ann", reason="heat", now=world.now)
    world.submit("s-1", 5)

    queue = publish(world, publisher)

    assert queue.is_paused
    (task,) = queue.waiting
    assert "paused" in task.reason
    assert task.p50 is None


def test_the_first_estimate_is_the_one_to_be_judged(world, publisher):
    """People plan by it; a later one is easy to keep."""
    world.submit("s-1", 1, 5)
    world.settle()
    publish(world, publisher)
    first = world.dispatcher.estimates["s-1", "i5"]
    assert first.made_at == world.now

    world.advance(600)
    later = publish(world, publisher)

    assert later.waiting[0].p50 > first.p50
    assert world.dispatcher.estimates["s-1", "i5"] == first


def test_the_first_estimate_is_kept_with_the_placement(world, publisher):
    running, ready = world.submit("s-1", 1, 5)
    world.settle()
    publish(world, publisher)
    first = world.dispatcher.estimates["s-1", "i5"]
    world.advance(600)
    publish(world, publisher)

    world.dispatcher.note_exit(world.exit(running))
    world.tick()

    assert world.record(ready).newest.placement.estimate == first


def test_a_task_that_waits_again_is_estimated_anew(world, publisher):
    running, ready = world.submit("s-1", 1, 5)
    world.settle()
    publish(world, publisher)
    world.dispatcher.note_exit(world.exit(running))
    world.trigger(running)
    world.settle()
    publish(world, publisher)
    assert ("s-1", "i5") not in world.dispatcher.estimates

    world.submit("s-2", 1, priority=9)
    world.advance(600)
    world.airflow.end(ready, "up_for_retry")
    world.tick()
    world.airflow.retry(ready)
    world.settle()
    publish(world, publisher)

    assert world.dispatcher.estimates["s-1", "i5"].made_at == world.now


def test_past_estimates_stretch_later_ones_and_their_score_is_published(world, publisher, errors):
    world.submit("s-1", 1, 5)
    world.settle()
    calm = publish(world, publisher).waiting[0]
    for _ in range(30):
        errors.add(waited_seconds=200, p50_seconds=50, p90_seconds=100)

    queue = publish(world, publisher)

    assert (queue.estimates.count, queue.estimates.covered) == (30, 0)
    assert queue.estimates.median_error_seconds == 150
    wait = queue.waiting[0]
    assert wait.p50 == calm.p50
    assert wait.p90 - world.now == pytest.approx(2 * (calm.p90 - world.now), rel=0.01)


def test_whose_a_waiting_task_is_is_published_with_it(world, publisher):
    """Nobody needs to look that up to show an engineer the own part of the queue."""
    world.submit("s-1", 1, submitted_by="cyd")
    world.settle()
    world.submit("s-2", 1, submitted_by="ann")
    world.submit("s-3", 1, submitted_by="bob")
    world.settle()

    waiting = publish(world, publisher).waiting

    owners = {task.submission_id: task.submitted_by for task in waiting}
    assert owners == {"s-2": "ann", "s-3": "bob"}


def test_without_past_estimates_there_is_no_score(world, publisher):
    queue = publish(world, publisher)

    assert (queue.estimates.count, queue.estimates.covered) == (0, None)


def test_what_nobody_has_updated_for_a_while_is_stale(world, publisher):
    queue = publish(world, publisher)

    assert not queue.is_stale(world.now + timedelta(seconds=29))
    assert queue.is_stale(world.now + timedelta(seconds=31))


def read_outlook(world):
    text = world.objects.get(world.settings.content_bucket, OUTLOOK_KEY)
    return Outlook.model_validate_json(text)


def test_what_plans_are_made_from_is_published_beside_the_queue(world, publisher):
    world.submit("s-1", 1, 5, 20)
    world.settle()

    publish(world, publisher)

    outlook, view = read_outlook(world), world.dispatcher.view
    assert [each.name for each in outlook.resources] == ["rio"]
    assert outlook.build_snapshot([], outlook.build_resources(), world.now).waiting == view.waiting
    assert {member.key for each in outlook.waiting for member in each.members} == {
        ("s-1", "i5"),
        ("s-1", "i20"),
    }
    # Of one submission they are told once.
    assert len(outlook.waiting) == 1


def test_what_plans_are_made_from_is_written_less_often_than_the_queue(world, publisher):
    publish(world, publisher)
    written = read_outlook(world).at
    world.now += timedelta(seconds=OUTLOOK_SECONDS / 2)
    publish(world, publisher)
    assert read_outlook(world).at == written

    world.now += timedelta(seconds=OUTLOOK_SECONDS / 2)
    publish(world, publisher)

    assert read_outlook(world).at == world.now


def test_a_queue_is_published_even_if_plans_cannot_be(world, publisher, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("boom")

    monkeypatch.setattr("touchstone.dispatcher.publishing.build_outlook", fail)

    assert publish(world, publisher).at == world.now
