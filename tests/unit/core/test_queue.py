"""The published queue, as it is written and read."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from touchstone.core.queue import STALE, EstimateError, PublishedServer, Queue, WaitingTask

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
TASK = WaitingTask(
    submission_id="s-1",
    task_id="i5",
    position=2,
    of=7,
    reason="rio is full",
    since=NOW - timedelta(minutes=5),
    p50=NOW + timedelta(minutes=5),
)
SERVER = PublishedServer(
    name="rio",
    platform="on-prem",
    is_alive=True,
    slots=1,
    free=0,
    validation_slots=1,
    validation_free=1,
)
QUEUE = Queue(
    at=NOW,
    dispatcher="host/7",
    waiting=(TASK,),
    servers=(SERVER,),
    estimates=EstimateError(count=3, covered=2 / 3, median_error_seconds=12.5),
)


def test_what_is_written_is_read_again():
    assert Queue.model_validate_json(QUEUE.model_dump_json(exclude_none=True)) == QUEUE


def test_fields_that_a_newer_dispatcher_adds_are_passed_over():
    plain = json.loads(QUEUE.model_dump_json())
    plain["mood"] = plain["waiting"][0]["mood"] = plain["servers"][0]["mood"] = "good"

    assert Queue.model_validate(plain) == QUEUE


def test_the_least_that_was_ever_written_can_be_read():
    queue = Queue.model_validate({"at": NOW.isoformat(), "dispatcher": "host/7"})

    assert (queue.schema_version, queue.waiting, queue.servers) == (1, (), ())
    assert queue.estimates.covered is None


@pytest.mark.parametrize("missing", ["at", "dispatcher"])
def test_what_says_neither_when_nor_who_is_no_queue(missing):
    plain = json.loads(QUEUE.model_dump_json())
    del plain[missing]

    with pytest.raises(ValidationError):
        Queue.model_validate(plain)


def test_it_is_stale_when_nobody_has_written_it_for_a_while():
    assert not QUEUE.is_stale(NOW + STALE)
    assert QUEUE.is_stale(NOW + STALE + timedelta(seconds=1))


def test_a_task_is_found_by_submission_and_id():
    assert QUEUE.find("s-1", "i5") == TASK
    assert QUEUE.find("s-1", "i1") is None
    assert QUEUE.find("s-2", "i5") is None
