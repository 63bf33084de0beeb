"""What servers run, brought together with what the records say."""

from __future__ import annotations

import pytest

from fakes.servers import store_server, write_fields
from fakes.tasks import change_fields, write_task
from touchstone.dispatcher.inventories import InventoryCheck
from touchstone.services.troubles import Troubles
from touchstone_agent.protocol.errors import PermanentError
from touchstone_agent.protocol.messages import Cancel, Sync

BEAT = 15


@pytest.fixture
def troubles(clock):
    return Troubles(clock)


@pytest.fixture
def check(records, agent, settings, clock, troubles):
    return InventoryCheck(
        records=records, agent=agent, settings=settings, clock=clock, troubles=troubles
    )


@pytest.fixture
def server(records, server_key):
    """A server that has told of itself."""
    return "local"


class Fleet:
    """Servers that say what they run, each time the time goes on; and the rounds after that."""

    def __init__(self, check, records, clock):
        self._check = check
        self._records = records
        self._clock = clock
        self.running = {"local": []}

    def beat(self, times=1, seconds=BEAT):
        for _ in range(times):
            self._clock.advance(seconds=seconds)
            for name, running in self.running.items():
                facts = {
                    "heartbeat_at": self._clock().isoformat(),
                    "running": [[ref.model_dump(mode="json"), phase] for ref, phase in running],
                }
                write_fields(self._records, name, facts)
            self.look()

    def look(self, times=1, seconds=0):
        for _ in range(times):
            self._clock.advance(seconds=seconds)
            self._check.compare(self._records.list_tasks_at_work())


@pytest.fixture
def fleet(check, records, clock, server):
    return Fleet(check, records, clock)


def refs_of(agent, command):
    return [(sent.ref.task_id, sent.ref.fence) for sent in agent.commands(command)]


def test_what_both_sides_know_of_is_left_alone(fleet, agent, make_task, clock):
    ref = make_task(phase="running", status="running", last_event_at=clock().isoformat())
    fleet.running["local"] = [(ref, "running")]

    fleet.beat(20)

    assert agent.sent == []


def test_an_outranked_attempt_is_ended_in_the_first_round(fleet, agent, make_task):
    """It trained beside its successor for hours, and its slot was refused five times as full."""
    newest = make_task(attempt=2, server="other", phase="running", status="running")
    old = newest.model_copy(update={"attempt": 1, "fence": 1})
    fleet.running["local"] = [(old, "running")]

    fleet.beat()

    (cancel,) = agent.commands(Cancel)
    assert cancel.ref == old
    assert cancel.reason == "a newer attempt has taken its place"
    assert agent.sent[0][0] == "local"


def test_a_cancel_is_repeated_but_not_in_each_round(fleet, agent, make_task):
    newest = make_task(attempt=2, phase="running", status="running")
    old = newest.model_copy(update={"attempt": 1, "fence": 1})
    fleet.running["local"] = [(old, "running"), (newest, "running")]

    fleet.beat()
    fleet.look(2, seconds=5)
    assert refs_of(agent, Cancel) == [("i5", 1)]
    fleet.look(1, seconds=5)
    assert refs_of(agent, Cancel) == [("i5", 1)] * 2

    fleet.running["local"] = [(newest, "running")]
    fleet.beat(5)
    assert refs_of(agent, Cancel) == [("i5", 1)] * 2


def test_what_has_ended_on_record_is_ended_once_a_second_heartbeat_shows_it(
    fleet, agent, make_task
):
    """The first one may have been written before the end that is on record was told."""
    ref = make_task(phase="lost", status="lost")
    fleet.running["local"] = [(ref, "running")]

    fleet.beat()
    fleet.look(3, seconds=1)
    assert agent.commands(Cancel) == []
    fleet.beat()

    assert refs_of(agent, Cancel) == [("i5", 1)]


def test_what_no_record_knows_of_is_ended_after_a_while(fleet, agent, make_task, records):
    """A store that is put back from a copy must not end everything within seconds."""
    ref = make_task().model_copy(update={"task_id": "i99"})
    fleet.running["local"] = [(ref, "running")]

    fleet.beat(8)
    assert agent.commands(Cancel) == []
    fleet.beat()

    assert refs_of(agent, Cancel) == [("i99", 1)]


def test_what_has_exited_may_bring_its_files_whatever_its_record_says(fleet, agent, make_task):
    newest = make_task(attempt=2, phase="running", status="running", server="other")
    old = newest.model_copy(update={"attempt": 1, "fence": 1})
    fleet.running["local"] = [(old, "exited")]

    fleet.beat(20)

    assert agent.commands(Cancel) == []


def test_an_index_that_lags_behind_ends_nothing(fleet, agent, make_task, check, clock):
    """A task that has just begun is in no list yet; its record is read before it is judged."""
    ref = make_task(phase="running", status="running", last_event_at=clock().isoformat())
    fleet.running["local"] = [(ref, "running")]
    fleet.look = lambda: check.compare([])

    fleet.beat(20)

    assert agent.sent == []


def test_a_server_that_is_not_heard_of_is_not_judged(fleet, agent, make_task):
    newest = make_task(attempt=2, server="other", phase="running", status="running")
    old = newest.model_copy(update={"attempt": 1, "fence": 1})
    fleet.running["local"] = [(old, "running")]
    fleet.beat()
    agent.sent.clear()

    fleet.look(10, seconds=61)

    assert agent.sent == []


def test_a_server_of_another_environment_is_none_of_ours(fleet, agent, make_task, records):
    newest = make_task(attempt=2, server="other", phase="running", status="running")
    write_fields(records, "local", {"env": "prod"})
    fleet.running["local"] = [(newest.model_copy(update={"fence": 1}), "running")]

    fleet.beat(20)

    assert agent.sent == []


def told(clock, phase="running", status="running"):
    return {"phase": phase, "status": status, "last_event_at": clock().isoformat()}


def test_what_a_server_does_not_show_is_looked_for_after_a_while(fleet, agent, make_task, clock):
    """Its server was alive, and so it ran for ever on record."""
    ref = make_task(**told(clock))

    fleet.beat(4)
    assert agent.commands(Sync) == []
    fleet.beat(2)

    assert [sync.expected for sync in agent.commands(Sync)] == [(ref,)]
    assert agent.sent[0][2] is None, "it answers no hello"


def test_the_list_has_all_that_the_server_should_have(
    fleet, agent, make_task, clock, records, server
):
    """Whatever is not in it the agent ends."""
    missing = make_task("i1", **told(clock))
    present = make_task("i5", **told(clock))
    uploading = make_task("i7", **told(clock, "exited", "uploading"))
    make_task("i9", server="other", **told(clock))
    make_task("i11", **told(clock, "lost", "lost"))
    make_task("i13", **told(clock, "uploaded", "uploading"))
    fleet.running["local"] = [(present, "running"), (uploading, "exited")]

    fleet.beat(5)
    just_sent = make_task("i20")
    fleet.beat()

    (sync,) = agent.commands(Sync)
    assert set(sync.expected) == {missing, present, uploading, just_sent}


def test_a_server_is_not_asked_in_each_round_and_once_more_when_all_is_well(
    fleet, agent, make_task, clock, records
):
    """What began just when it was asked was in no list, and would be ended for that."""
    make_task(**told(clock))
    fleet.beat(6)
    fleet.look(3, seconds=5)
    assert len(agent.commands(Sync)) == 1

    change_fields(records, "s-1", "i5", status="lost", phase="lost")
    young = make_task("i7", **told(clock))
    fleet.running["local"] = [(young, "running")]
    fleet.beat(10)

    assert [sync.expected for sync in agent.commands(Sync)][1:] == [(young,)]


def test_what_is_shown_again_in_time_is_not_looked_for(fleet, agent, make_task, clock):
    ref = make_task(**told(clock))
    fleet.beat(4)
    fleet.running["local"] = [(ref, "running")]

    fleet.beat(20)

    assert agent.sent == []


def test_news_outweigh_an_older_inventory(fleet, agent, make_task, clock, records):
    make_task(**told(clock))
    for _ in range(20):
        fleet.beat()
        change_fields(records, "s-1", "i5", last_event_at=clock().isoformat())

    assert agent.sent == []


@pytest.mark.parametrize(
    "odd", [{"running": 7}, {"heartbeat_at": "never"}, {"running": [[{"submission_id": 1}, "x"]]}]
)
def test_a_server_that_makes_no_sense_keeps_no_other_from_being_looked_at(
    fleet, agent, make_task, records, odd
):
    newest = make_task(attempt=2, server="elsewhere", phase="running", status="running")
    store_server(records, {"server": "a-odd", "env": "dev", "public_key": "k"})
    fleet.running["local"] = [
        (newest.model_copy(update={"attempt": 1, "fence": 1}), "running"),
    ]
    fleet.beat()
    agent.sent.clear()
    write_fields(records, "a-odd", odd)

    fleet.beat()

    assert refs_of(agent, Cancel) == [("i5", 1)]


def test_a_server_without_a_queue_keeps_no_other_from_being_looked_at(
    fleet, agent, make_task, records, monkeypatch, troubles
):
    newest = make_task(attempt=2, server="elsewhere", phase="running", status="running")
    old = newest.model_copy(update={"attempt": 1, "fence": 1})
    store_server(records, {"server": "a-broken", "env": "dev", "public_key": "k"})
    fleet.running |= {"a-broken": [(old, "running")], "local": [(old, "running")]}
    sent = agent.send

    def send(server, command, **kwargs):
        if server == "a-broken":
            raise PermanentError("no queue")
        return sent(server, command, **kwargs)

    monkeypatch.setattr(agent, "send", send)
    fleet.beat()

    assert refs_of(agent, Cancel) == [("i5", 1)]
    assert [trouble.item for trouble in troubles.summarise()] == ["a-broken/s-1/i5/1"]


@pytest.mark.parametrize("odd", [{"last_event_at": 7}, {"status": "dancing"}, {"fence": "x"}])
def test_a_task_that_makes_no_sense_keeps_no_other_of_its_server_from_being_looked_for(
    fleet, agent, make_task, clock, records, odd
):
    make_task("i1", **told(clock))
    missing = make_task("i5", **told(clock))
    write_task(records, ("s-1", "i1"), odd)

    fleet.beat(6)

    (sync,) = agent.commands(Sync)
    assert missing in sync.expected


@pytest.mark.parametrize("odd", [{"status": "dancing"}, {"kind": None}, {"server": 7}])
def test_what_runs_of_a_task_whose_record_makes_no_sense_is_no_stray(
    fleet, agent, make_task, clock, records, odd
):
    """It would have been ended as one that no record knows of."""
    running = make_task("i1", **told(clock))
    make_task("i5", **told(clock))
    fleet.running["local"] = [(running, "running")]
    write_task(records, ("s-1", "i1"), odd)

    fleet.beat(12)

    assert refs_of(agent, Cancel) == []
    assert all(running in sync.expected for sync in agent.commands(Sync))


@pytest.mark.parametrize("odd", [{"declared": 7}, {"drained": 7}, {"enrolment": {"state": "x"}}])
def test_nothing_of_a_server_whose_record_makes_no_sense_is_a_stray_or_missing(
    fleet, agent, make_task, records, clock, troubles, odd
):
    """It shows an attempt that its task has left behind, and lacks one that it should have."""
    left = make_task("i1", attempt=2, server="elsewhere", phase="running", status="running")
    make_task("i5", **told(clock))
    fleet.running["local"] = [(left.model_copy(update={"attempt": 1, "fence": 1}), "running")]
    write_fields(records, "local", odd)

    fleet.beat(20)

    assert agent.sent == []
    (trouble,) = troubles.summarise()
    assert (trouble.what, trouble.item) == ("compare the inventory of", "local")
    assert f"server local: server record: {next(iter(odd))}" in trouble.reason

    write_fields(records, "local", dict.fromkeys(odd))
    fleet.beat(6)

    assert refs_of(agent, Cancel)[0] == ("i1", 1)
    assert agent.commands(Sync)
    assert troubles.summarise() == ()
