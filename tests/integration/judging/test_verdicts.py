"""Verdicts over a real wire and with the real judge: records that race, a judge that is killed."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from fakes.events import EventWorld, FakeJudge, build_net
from touchstone.confined import running
from touchstone.confined.judge import find_judge
from touchstone.confined.verdicts import NoVerdict, ask_for_verdicts
from touchstone.core.events import EventRefused, parse_event
from touchstone.core.verdicts import build_board
from touchstone.settings import Settings
from touchstone.stack.provision import build_tables
from touchstone.stores.objects import ObjectStore
from touchstone.stores.parts import Parts
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.errors import TransientError
from waiting import wait_for

pytestmark = pytest.mark.integration

TABLES = ("submissions_table", "tasks_table", "events_table")
SMALL = 'schema_version = 1\ntitle = "Sharpe"\n'


@pytest.fixture
def settings(ministack):
    settings = Settings(**{name: f"{name}-{uuid.uuid4().hex[:12]}" for name in TABLES})
    names = {getattr(settings, name) for name in TABLES}
    for table in build_tables(settings):
        if table["TableName"] in names:
            connect("dynamodb", ministack).create_table(**table)
    return settings


@pytest.fixture
def parts(ministack):
    client, bucket = connect("s3", ministack), f"content-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    return Parts(ObjectStore(client), bucket)


@pytest.fixture
def world(ministack, settings, parts):
    python = find_judge(settings)
    records = RecordStore(connect("dynamodb", ministack), settings)
    return EventWorld(records, parts, lambda question: ask_for_verdicts(python, question), settings)


def connect(service, ministack):
    return boto3.client(
        service,
        endpoint_url=ministack,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(max_pool_connections=20, s3={"addressing_style": "path"}),
    )


def test_a_challenger_is_judged_against_a_baseline_with_figures_of_the_real_judge(world):
    world.train("ref", build_net(1))
    world.keeper.set_baseline("default", "ref", by="admin")
    skilled = world.arrive("s-1", build_net(2, edge=0.006))
    # The same returns in another order score about the same.
    lucky = world.arrive("s-2", build_net(1)[::-1], user="ben")
    again = world.arrive("s-3", build_net(4), content="s-2", seed=7)

    assert skilled.verdict.outcome == "better"
    assert skilled.verdict.sentence.startswith("Better than `ref`: +")
    assert lucky.verdict.outcome == "not distinguishable"
    assert "counting 2 submissions; a difference of" in lucky.verdict.sentence
    assert again.verdict.outcome == "duplicate"
    assert "A duplicate of `s-2:" in again.verdict.sentence

    # The scores of these series are all the same: nothing to rank, and nothing that is made up.
    beside = skilled.verdict.beside
    assert (beside.similarity.value, beside.version) == (None, 2)
    assert beside.similarity.note == "interval 1: its prediction is a constant"
    assert beside.deflated_sharpe.note == "it is the only entry"
    assert 0 < lucky.verdict.beside.deflated_sharpe.value < 1
    assert lucky.verdict.beside.leading.note == "it is told when the event is closed"

    closed = world.judge.close("default", by="admin")
    assert len(closed.judged) == 3
    event = world.events.get_event("default")
    board = build_board(event, world.events.list_entries("default").records)
    assert board["rows"][0]["name"] == "s-1"
    assert {row["n"] for row in board["rows"] if row["p"] is not None} == {3}
    references = {row["name"]: row["score"] for row in board["rows"] if not row["submission_id"]}
    assert references["flat"] == references["index"] == 0
    assert references["baseline ref"] is not None


def test_two_that_are_judged_at_once_both_keep_their_verdicts(world):
    world.keeper.set_baseline("default", "flat", by="admin")
    entries = [world.train(f"s-{n}", build_net(n)) for n in range(4)]

    with ThreadPoolExecutor(4) as pool:
        judged = list(pool.map(world.judge_again, entries))

    assert all(entry.verdict for entry in judged)
    on_record = world.events.list_entries("default").records
    assert [len(entry.verdicts) for entry in on_record] == [1] * 4
    # Whoever came last has seen everybody's rows.
    assert max(entry.verdict.edge.compared for entry in on_record) == 4


def test_of_many_who_come_at_once_no_more_get_in_than_the_quota_has_places(world):
    event = parse_event(SMALL + "[quota]\nsubmissions = 3\nhours = 24", name="default")
    world.keeper.apply("default", event, by="admin")
    barrier = threading.Barrier(8)

    def enter(number):
        barrier.wait()
        for _ in range(20):
            try:
                return world.enter(f"s-{number}")
            except EventRefused:
                return None
            except TransientError:
                # Others changed the same record: the step of a run is tried again as well.
                continue
        return None

    with ThreadPoolExecutor(8) as pool:
        entered = [entry for entry in pool.map(enter, range(8)) if entry is not None]

    assert len(entered) == 3
    assert len(world.events.find_participant("default", "ann").uses) == 3


def end_the_first():
    """End the first program that this process has started, as soon as there is one."""
    wait_for("the judge's program runs", lambda: bool(running._active))
    running.end_all()


def test_a_judge_that_is_killed_says_nothing_and_is_asked_again(world, monkeypatch):
    world.keeper.set_baseline("default", "flat", by="admin")
    entry, real = world.train("s-1", build_net(2)), world.judge._ask

    def die(question):
        threading.Thread(target=end_the_first).start()
        return real(question)

    monkeypatch.setattr(world.judge, "_ask", die)
    with pytest.raises(TransientError):
        world.judge_again(entry)
    (found,) = world.events.list_entries("default").records
    assert found.series is not None
    assert found.verdicts == ()

    monkeypatch.setattr(world.judge, "_ask", real)
    assert world.judge_again(entry).verdict.outcome == "not distinguishable"


@pytest.mark.parametrize(
    ("python", "question", "told"),
    [
        (Path("/nowhere/python"), {}, "its environment|environment is not there"),
        (None, {}, "ended with code 2: touchstone_judge: KeyError"),
        (Path("/bin/true"), {}, "answer makes no sense"),
    ],
)
def test_a_judge_that_cannot_answer_is_a_reason(python, question, told):
    with pytest.raises(NoVerdict, match=told):
        ask_for_verdicts(python or find_judge(Settings()), question)


def test_an_event_is_read_by_its_own_part_of_the_table(world):
    fake = FakeJudge()
    world.judge._ask = fake
    for name in ("a", "b"):
        event = parse_event(SMALL + "[judging]\nbaseline = 'flat'", name=name)
        world.keeper.apply(name, event, by="admin")
        world.arrive(f"{name}-1", build_net(1), event=name)

    assert [e.submission_id for e in world.events.list_entries("a").records] == ["a-1"]
    assert [e.submission_id for e in world.events.list_entries("b").records] == ["b-1"]
    assert len(fake.questions[-1]["series"]) == 1
    assert [each.name for each in world.events.list_events().records] == ["a", "b", "default"]
