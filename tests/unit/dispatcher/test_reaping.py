"""Who looks for forgotten pods, and when."""

from __future__ import annotations

import asyncio

import pytest

from fakes.servers import read_fields
from touchstone.core.records.notes import Proof, ReaperNote, Sightings
from touchstone.dispatcher import reaping
from touchstone.dispatcher.reaping import ReaperLoop
from touchstone.settings import RunPodSettings, Settings
from touchstone_agent.protocol.errors import TransientError

PROOF = Proof(
    at="2026-11-22T12:00:00+00:00",
    seen=3,
    ours=2,
    foreign=1,
    unknown=0,
    terminated=(),
    missing=(),
    is_dry_run=False,
    has_failed=False,
)


@pytest.fixture
def looks():
    return []


@pytest.fixture
def rented():
    return Settings(env="dev", runpod=RunPodSettings(conn_id="touchstone_runpod", reap_seconds=60))


@pytest.fixture
def make_loop(records, clock, looks, rented):
    def make(look=None, settings=rented):
        async def note(_):
            looks.append(clock())
            return PROOF

        return ReaperLoop(records=records, settings=settings, clock=clock, look=look or note)

    return make


def test_it_looks_at_once_and_then_as_often_as_it_is_told(make_loop, looks, clock):
    loop = make_loop()

    for _ in range(13):
        loop.run()
        clock.advance(seconds=10)

    assert [(at - looks[0]).total_seconds() for at in looks] == [0, 60, 120]


def test_of_several_dispatchers_one_looks_at_a_time(make_loop, looks, clock):
    loops = [make_loop() for _ in range(3)]

    for _ in range(2):
        for loop in loops:
            loop.run()
        clock.advance(seconds=60)

    assert len(looks) == 2


def test_of_two_that_find_it_is_time_only_the_one_that_wrote_it_down_looks(
    make_loop, records, looks
):
    """The other one's write is refused: it reads again, and decides again."""
    other, change = make_loop(), records.change_note

    def change_late(kind, decide):
        records.change_note = change
        decide(kind())
        other.run()
        return change(kind, decide)

    records.change_note = change_late

    assert make_loop().run() is None
    assert len(looks) == 1


def test_nothing_is_looked_at_where_nothing_is_rented(make_loop, looks):
    assert make_loop(settings=Settings(env="dev")).run() is None
    assert looks == []


def test_a_look_that_fails_is_made_up_for_by_the_next_one(make_loop, looks, clock):
    async def fail(_):
        raise TransientError("RunPod does not answer")

    with pytest.raises(TransientError):
        make_loop(fail).run()
    clock.advance(seconds=59)
    assert make_loop().run() is None
    clock.advance(seconds=1)

    assert make_loop().run() == PROOF


def test_a_look_that_hangs_is_given_up(make_loop, monkeypatch):
    monkeypatch.setattr(reaping, "LOOK_SECONDS", 0)

    async def hang(_):
        await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        make_loop(hang).run()


def test_a_clock_that_was_wrong_once_does_not_stop_all_looking(make_loop, records, looks, clock):
    clock.advance(days=3000)
    make_loop().run()
    clock.advance(days=-3000)

    make_loop().run()

    assert len(looks) == 2


def test_what_the_last_look_has_shown_stays_on_record(make_loop, records, clock):
    records.put_note(ReaperNote(proof=Proof(seen=3), sightings=Sightings(at=None)))

    make_loop().run()

    note = records.find_note(ReaperNote)
    assert (note.proof, note.looked_at) == (Proof(seen=3), clock())
    assert read_fields(records, "#reaper")["proof"] == {"seen": 3}
