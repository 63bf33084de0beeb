"""What cannot be dealt with, on real queues: it is set aside, counted, and keeps nobody waiting."""

from __future__ import annotations

import secrets
import threading
from datetime import UTC, datetime, timedelta

import boto3
import pytest

from fakes.agents import FakeAgentHook
from fakes.servers import store_server
from fakes.stores import FakeObjectStore, FakeRecordStore
from touchstone.core.records.notes import Letters
from touchstone.dispatcher.alarms import Alarms
from touchstone.dispatcher.events import EventHandler
from touchstone.dispatcher.hearing import MAX_FAILURES, EventLoop
from touchstone.hooks.letters import DeadLetters, build_dead_letter_queue
from touchstone.hooks.queues import MAX_COMMAND_RECEIVES
from touchstone.settings import Settings
from touchstone.stack.provision import Server, Stores, provision
from touchstone_agent.protocol.envelope import (
    EventMessage,
    Header,
    generate_key,
    load_private_key,
    seal,
)
from touchstone_agent.protocol.messages import AttemptPhase, AttemptRef, Heartbeat, PhaseChanged
from unit.dispatcher.test_events import INVENTORY

pytestmark = pytest.mark.integration


def connect(service, url):
    return boto3.client(
        service,
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


@pytest.fixture
def settings():
    return Settings(env=f"d{secrets.token_hex(4)}")


@pytest.fixture
def server():
    return f"box-{secrets.token_hex(4)}"


@pytest.fixture
def sqs(ministack):
    return connect("sqs", ministack)


@pytest.fixture
def key(ministack, settings, server, sqs):
    """The queues as an installation makes them, and the key of its one server."""
    private, public = generate_key()
    stores = Stores(dynamodb=connect("dynamodb", ministack), s3=connect("s3", ministack), sqs=sqs)
    provision(settings, stores, [Server(name=server, public_key=public)])
    return private, public


def url_of(sqs, queue):
    return sqs.get_queue_url(QueueName=queue)["QueueUrl"]


def put(sqs, queue, body, group):
    sqs.send_message(
        QueueUrl=url_of(sqs, queue),
        MessageBody=body,
        MessageGroupId=group,
        MessageDeduplicationId=secrets.token_hex(8),
    )


def test_the_queue_itself_moves_what_was_received_too_often(sqs, key, server):
    """Whoever receives it may die of it each time: then nobody else can move it."""
    queue = f"req-{server}.fifo"
    put(sqs, queue, "deadly", "s-1/i5")

    received = 0
    while sqs.receive_message(QueueUrl=url_of(sqs, queue), VisibilityTimeout=0).get("Messages"):
        received += 1

    assert received == MAX_COMMAND_RECEIVES
    assert DeadLetters(sqs).count(queue) == 1


def test_an_event_that_fails_is_set_aside_and_told_while_all_others_are_heard(
    sqs, key, server, settings
):
    private, public = key
    queue = f"evt-{settings.env}.fifo"
    # It comes again at once; how long a real one hides is not asked here.
    sqs.set_queue_attributes(QueueUrl=url_of(sqs, queue), Attributes={"VisibilityTimeout": "0"})
    records = FakeRecordStore(settings)
    store_server(records, {"server": server, "env": settings.env, "public_key": public})
    handler = EventHandler(
        records=records,
        objects=FakeObjectStore(),
        agent=FakeAgentHook(),
        settings=settings,
        clock=lambda: datetime.now(UTC),
    )
    real = handler.take

    def take(message):
        if isinstance(message.body, PhaseChanged):
            raise KeyError("bug")
        real(message)

    handler.take = take
    loop = EventLoop(sqs, queue, handler, threading.Event())
    mails = []
    alarms = Alarms(
        records=records,
        letters=DeadLetters(sqs),
        settings=settings,
        clock=lambda: datetime.now(UTC),
        warn=lambda *mail: mails.append(mail),
    )

    def tell(body, group):
        now = datetime.now(UTC)
        header = Header(
            message_id=secrets.token_hex(8),
            env=settings.env,
            server=server,
            issued_at=now,
            expires_at=now + timedelta(days=1),
        )
        text = seal(EventMessage(header=header, body=body), server, load_private_key(private))
        put(sqs, queue, text, group)
        return text

    ref = AttemptRef(submission_id="s-1", task_id="i5", attempt=1, fence=1)
    accepted = PhaseChanged(ref=ref, phase=AttemptPhase.ACCEPTED, at=datetime.now(UTC))
    text = tell(accepted, ref.task_key)
    for _ in range(MAX_FAILURES):
        tell(Heartbeat(inventory=INVENTORY), f"server-{server}")
        loop._receive(url_of(sqs, queue))

    assert records.find_server(server).heartbeat_at
    left = sqs.get_queue_attributes(
        QueueUrl=url_of(sqs, queue), AttributeNames=["ApproximateNumberOfMessages"]
    )
    assert left["Attributes"]["ApproximateNumberOfMessages"] == "0"
    (letter,) = sqs.receive_message(
        QueueUrl=url_of(sqs, build_dead_letter_queue(queue)),
        VisibilityTimeout=0,
        MessageAttributeNames=["reason"],
    )["Messages"]
    assert letter["Body"] == text
    assert "KeyError('bug')" in letter["MessageAttributes"]["reason"]["StringValue"]

    for _ in range(3):
        alarms.look()
    assert [subject for subject, _ in mails] == ["1 dead letter"]
    assert records.find_note(Letters).queues == {queue: 1}
