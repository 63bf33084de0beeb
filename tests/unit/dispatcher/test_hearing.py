"""What becomes of a batch of events of which some cannot be dealt with."""

from __future__ import annotations

import base64
import json
import threading

import pytest
from botocore.exceptions import ClientError

from fakes.servers import store_server
from touchstone.dispatcher.events import EventHandler
from touchstone.dispatcher.hearing import MAX_FAILURES, EventLoop
from touchstone.services.troubles import Troubles
from touchstone_agent.protocol.envelope import EventMessage, Header
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.messages import (
    Acknowledge,
    AttemptPhase,
    Heartbeat,
    Inventory,
    PhaseChanged,
    Progress,
)

INVENTORY = Inventory(
    slots=2, validation_slots=1, runtime="docker", agent_version="1", cpus=2, memory_mib=4096
)


class Sqs:
    """A queue whose messages are there until they are deleted; and its dead letters."""

    def __init__(self):
        self.messages = []
        self.buried = []
        self.deleted = []
        self.has_letters = True
        self.undeletable = set()

    def put(self, body, group):
        number = str(len(self.messages) + len(self.deleted))
        self.messages.append(
            {
                "MessageId": number,
                "ReceiptHandle": number,
                "Body": body,
                "Attributes": {"MessageGroupId": group},
            }
        )
        return number

    def get_queue_url(self, QueueName):  # noqa: N803 - as boto3 names it
        if QueueName.endswith("-dlq.fifo") and not self.has_letters:
            raise missing()
        return {"QueueUrl": QueueName}

    def receive_message(self, **asked):
        assert "MessageGroupId" in asked["AttributeNames"]
        return {"Messages": list(self.messages[:10])}

    def delete_message(self, QueueUrl, ReceiptHandle):  # noqa: N803
        if ReceiptHandle in self.undeletable:
            raise missing()
        self.deleted.append(ReceiptHandle)
        self.messages = [m for m in self.messages if m["ReceiptHandle"] != ReceiptHandle]

    def send_message(self, **message):
        self.buried.append(message)


def missing():
    return ClientError({"Error": {"Code": "QueueDoesNotExist"}}, "x")


@pytest.fixture
def sqs():
    return Sqs()


@pytest.fixture
def troubles(clock):
    return Troubles(clock)


@pytest.fixture
def handler(records, objects, agent, settings, clock, troubles, server_key):
    return EventHandler(
        records=records,
        objects=objects,
        agent=agent,
        settings=settings,
        clock=clock,
        troubles=troubles,
    )


@pytest.fixture
def loop(sqs, handler, troubles):
    return EventLoop(sqs, "evt-dev.fifo", handler, threading.Event(), troubles=troubles)


@pytest.fixture
def beat(make_event):
    return lambda: make_event(Heartbeat(inventory=INVENTORY))


@pytest.fixture
def tell(make_event, clock):
    def make(ref, phase, **changes):
        event = PhaseChanged(ref=ref, phase=AttemptPhase(phase), at=clock(), details={})
        return make_event(event.model_copy(update=changes))

    return make


def hear(loop, times=1):
    for _ in range(times):
        loop._receive("evt-dev.fifo")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        '{"kid":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"kid":"local","sig":"AAAA","payload":"\\ud800"}',
        '{"kid":"nobody","sig":"","payload":""}',
    ],
)
def test_what_cannot_be_read_is_dropped_and_all_others_are_heard(loop, sqs, beat, text):
    """Deep nesting came again and again, and the nine events behind it were not heard."""
    sqs.put(text, "anybody")
    for _ in range(9):
        sqs.put(beat(), "server-local")

    hear(loop)

    assert sqs.messages == []


def reseal(text, key, **header):
    """Sign an event again after its header was changed to what this side would not write."""
    payload = json.loads(json.loads(text)["payload"])
    payload["header"] |= header
    written = json.dumps(payload)
    signature = base64.b64encode(key.sign(written.encode())).decode()
    return json.dumps({"kid": "local", "sig": signature, "payload": written})


def test_an_event_with_a_time_without_zone_stops_nobody_elses(loop, sqs, beat, server_key):
    sqs.put(reseal(beat(), server_key, expires_at="2030-01-01T00:00:00"), "server-other")
    for _ in range(9):
        sqs.put(beat(), "server-local")

    hear(loop)
    assert len(sqs.deleted) >= 9

    hear(loop, MAX_FAILURES)
    assert sqs.messages == []


def fail_on(handler, monkeypatch, text, error):
    real = handler.handle

    def handle(body):
        if body == text:
            raise error
        return real(body)

    monkeypatch.setattr(handler, "handle", handle)


@pytest.mark.parametrize("error", [TransientError("away"), PermanentError("no"), KeyError("bug")])
def test_only_later_events_of_the_same_task_wait_for_one_that_fails(
    loop, sqs, handler, make_task, tell, monkeypatch, records, error
):
    first, other = make_task("i1"), make_task("i5")
    accepted = tell(first, "accepted")
    sqs.put(accepted, "s-1/i1")
    later = sqs.put(tell(first, "running"), "s-1/i1")
    sqs.put(tell(other, "running"), "s-1/i5")
    fail_on(handler, monkeypatch, accepted, error)

    hear(loop)

    assert records.get_task("s-1", "i5").status == "running"
    assert records.get_task("s-1", "i1").newest.phase is None
    assert later in {message["MessageId"] for message in sqs.messages}


def test_an_event_waits_for_as_long_as_a_store_is_away(
    loop, sqs, handler, make_task, tell, monkeypatch
):
    text = tell(make_task(), "accepted")
    sqs.put(text, "s-1/i5")
    fail_on(handler, monkeypatch, text, TransientError("away"))

    hear(loop, 50)

    assert len(sqs.messages) == 1
    assert sqs.buried == []


def test_an_event_that_fails_five_times_is_set_aside_with_its_reason_and_its_group(
    loop, sqs, handler, make_task, tell, monkeypatch, troubles
):
    text = tell(make_task(), "accepted")
    sqs.put(text, "s-1/i5")
    fail_on(handler, monkeypatch, text, KeyError("bug"))

    hear(loop, MAX_FAILURES - 1)
    assert (len(sqs.messages), sqs.buried) == (1, [])
    assert [trouble.what for trouble in troubles.summarise()] == ["act on event"]
    hear(loop)

    assert sqs.messages == []
    (letter,) = sqs.buried
    assert (letter["QueueUrl"], letter["MessageBody"]) == ("evt-dev-dlq.fifo", text)
    assert letter["MessageGroupId"] == "s-1/i5"
    assert "KeyError('bug')" in letter["MessageAttributes"]["reason"]["StringValue"]


def test_nobody_waits_for_an_attempt_whose_end_was_set_aside(
    loop, sqs, handler, make_task, tell, monkeypatch, records
):
    text = tell(make_task(), "exited", details={"exit_code": 0})
    sqs.put(text, "s-1/i5")
    fail_on(handler, monkeypatch, text, KeyError("bug"))

    hear(loop, MAX_FAILURES)

    task = records.get_task("s-1", "i5")
    assert (task.status, task.newest.phase) == ("error", "exited")
    assert "KeyError" in task.newest.reason


def test_what_cannot_be_set_aside_stays_and_stops_nobody_else(
    loop, sqs, handler, make_task, tell, monkeypatch, beat, troubles
):
    text = tell(make_task(), "accepted")
    sqs.put(text, "s-1/i5")
    fail_on(handler, monkeypatch, text, KeyError("bug"))
    sqs.has_letters = False

    for _ in range(MAX_FAILURES + 3):
        sqs.put(beat(), "server-local")
        hear(loop)

    assert [message["Body"] for message in sqs.messages] == [text]
    assert "set aside event" in {trouble.what for trouble in troubles.summarise()}


def test_a_failure_is_forgotten_when_the_event_is_dealt_with(
    loop, sqs, handler, make_task, tell, monkeypatch
):
    text = tell(make_task(), "accepted")
    sqs.put(text, "s-1/i5")
    with monkeypatch.context() as patch:
        fail_on(handler, patch, text, KeyError("bug"))
        hear(loop, MAX_FAILURES - 1)

    hear(loop)

    assert (sqs.messages, sqs.buried, loop._failures) == ([], [], {})


def test_a_message_that_cannot_be_deleted_keeps_no_other_from_being_heard(loop, sqs, beat):
    stuck = sqs.put(beat(), "server-local")
    sqs.put(beat(), "s-1/i5")
    sqs.undeletable.add(stuck)

    hear(loop)

    assert [message["MessageId"] for message in sqs.messages] == [stuck]


def checked(event, clock):
    """An event as it is behind the border; how much of it gets past that is not asked here."""
    header = Header(
        message_id="m", env="dev", server="local", issued_at=clock(), expires_at=clock()
    )
    return EventMessage(header=header, body=event)


@pytest.mark.parametrize(
    "details",
    [
        {"exit_code": 10**50},
        {"exit_code": 0, "verdict": {"exit_code": "\ud800"}},
        {"files": [float("nan")]},
    ],
)
def test_an_end_that_no_record_can_hold_ends_its_attempt_the_first_time(
    handler, make_task, clock, records, agent, details
):
    """The task ran on for ever, its slot held, and its agent told it every ten minutes."""
    ref = make_task(phase="running", status="running")
    event = PhaseChanged(ref=ref, phase=AttemptPhase.UPLOADED, at=clock())

    handler.take(checked(event.model_copy(update={"details": details}), clock))

    task = records.get_task("s-1", "i5")
    assert (task.status, task.newest.outcome) == ("error", "failed(infrastructure)")
    assert "reported an end that makes no sense" in task.newest.reason
    assert agent.commands(Acknowledge) == [Acknowledge(ref=ref)]


def test_news_that_no_record_can_hold_are_dropped_and_counted(
    handler, make_task, clock, troubles, records
):
    ref, huge = make_task(phase="running", status="running"), 10**50 + 1
    progress = Progress(ref=ref, at=clock(), phase="fit", percent=1)
    inventory = INVENTORY.model_copy(update={"gpus": ({"memory_mib": huge},)})

    handler.take(checked(progress.model_copy(update={"console_bytes": huge}), clock))
    handler.take(
        checked(Heartbeat(inventory=INVENTORY).model_copy(update={"inventory": inventory}), clock)
    )

    assert records.get_task("s-1", "i5").newest.percent == 0
    (trouble,) = troubles.summarise()
    assert (trouble.what, trouble.items) == ("put on record", 2)


def test_a_server_without_a_queue_is_heard_all_the_same(
    loop, sqs, make_task, tell, records, agent, monkeypatch, troubles
):
    def send(*_, **__):
        raise PermanentError("sending acknowledge: QueueDoesNotExist")

    monkeypatch.setattr(agent, "send", send)
    sqs.put(tell(make_task(), "lost", reason="gone"), "s-1/i5")

    hear(loop)

    assert sqs.messages == []
    assert records.get_task("s-1", "i5").status == "lost"
    assert [trouble.what for trouble in troubles.summarise()] == ["answer"]


def test_a_server_whose_key_is_none_makes_no_other_unheard(loop, sqs, beat, records):
    store_server(records, {"server": "broken", "env": "dev", "public_key": "no key"})
    sqs.put(beat(), "server-local")

    hear(loop)

    assert sqs.messages == []
    assert records.find_server("local").heartbeat_at


def test_an_end_that_teaches_nothing_is_an_end_all_the_same(
    records, objects, agent, settings, clock, troubles, make_event, make_task, tell
):
    def stumble(record):
        raise KeyError("placement")

    handler = EventHandler(
        records=records,
        objects=objects,
        agent=agent,
        settings=settings,
        clock=clock,
        on_end=stumble,
        troubles=troubles,
    )
    ref = make_task()

    handler.handle(tell(ref, "lost", reason="gone"))

    assert records.get_task("s-1", "i5").status == "lost"
    assert agent.commands(Acknowledge) == [Acknowledge(ref=ref)]
    assert [trouble.what for trouble in troubles.summarise()] == ["follow the end of"]


def test_a_loop_that_meets_anything_at_all_goes_on(sqs, handler, troubles, monkeypatch):
    stopping = threading.Event()
    loop = EventLoop(sqs, "evt-dev.fifo", handler, stopping, troubles=troubles)
    seen = []

    def receive(url):
        seen.append(url)
        if len(seen) == 3:
            stopping.set()
        raise MemoryError

    monkeypatch.setattr(loop, "_receive", receive)
    monkeypatch.setattr("touchstone.dispatcher.hearing._BACK_OFF_SECONDS", 0)

    loop.run()

    assert len(seen) == 3
