"""Streams send what has changed, and end; what is refused is refused before they begin."""

from __future__ import annotations

import json

import pytest

from fakes.tasks import change_fields
from touchstone.core.names import build_console_key
from touchstone.ui.routes import streams
from touchstone.ui.routes.streams import StreamGate, Streaming, StreamsBusy, get_streaming
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.messages import AttemptRef

SUBMISSION = "/api/v1/submissions/s-1/events"
LOG = "/api/v1/submissions/s-1/tasks/i5/log/events"


@pytest.fixture
def play(app):
    """Return a function that takes what happens in each pause; without more, time runs out."""
    now = [0.0]

    def set_steps(*steps, gate=None):
        left = list(steps)

        async def sleep(seconds: float) -> None:
            if left:
                left.pop(0)()
            else:
                now[0] += streams.MAX_SECONDS

        made = Streaming(gate=gate or StreamGate(), sleep=sleep, monotonic=lambda: now[0])
        app.dependency_overrides[get_streaming] = lambda: made

    return set_steps


def read(answer) -> list[tuple[str, str | None, dict]]:
    """Return the events of a stream: kind, id, data."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = []
    for block in answer.text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
        if fields:
            events.append((fields["event"], fields.get("id"), json.loads(fields["data"])))
    return events


def test_a_submission_is_sent_when_it_changes_until_it_is_over(
    engineer, records, play, make_submission
):
    make_submission("s-1", status="validating")

    def set_status(status):
        return lambda: records.change_submission(
            "s-1", lambda found: found.change(status=status, reason=None)
        )

    play(lambda: None, set_status("running"), lambda: None, set_status("success"))

    events = read(engineer.get(SUBMISSION))

    assert [kind for kind, *_ in events] == ["submission"] * 3 + ["end"]
    told = [data["submission"]["status"] for kind, _, data in events if kind == "submission"]
    assert told == ["validating", "running", "success"]
    assert events[0][2] == engineer.get("/api/v1/submissions/s-1").json() | {
        "submission": events[0][2]["submission"]
    }


def test_what_a_program_has_is_not_sent_again(engineer, play, make_submission):
    make_submission("s-1", status="running")
    play()
    ((_, last, _),) = read(engineer.get(SUBMISSION))

    play()
    assert read(engineer.get(SUBMISSION, headers={"Last-Event-ID": last})) == []
    play()
    assert len(read(engineer.get(SUBMISSION, headers={"Last-Event-ID": "other"}))) == 1


@pytest.fixture
def console(objects, settings):
    """Return a function that uploads a piece of an attempt's console."""

    def upload(text: str, offset: int = 0, attempt: int = 1) -> None:
        ref = AttemptRef(submission_id="s-1", task_id="i5", attempt=attempt, fence=attempt)
        key = build_console_key(ref, offset)
        assert objects.put_new(settings.logs_bucket, key, text.encode())

    return upload


def test_a_console_is_sent_as_it_grows_and_anew_with_another_attempt(
    engineer, records, play, console, make_submission, make_task
):
    make_submission("s-1")
    make_task()
    console("one\n")

    def start_again():
        change_fields(records, "s-1", "i5", attempt=2, fence=2)
        console("anew\n", attempt=2)

    def end():
        change_fields(records, "s-1", "i5", status="success", phase="uploaded")

    play(lambda: console("two\n", 4), start_again, end)

    events = read(engineer.get(LOG))

    assert [(data.get("text"), id_) for _, id_, data in events] == [
        ("one\n", "1-1:4"),
        ("two\n", "1-1:8"),
        ("anew\n", "2-2:5"),
        (None, None),
    ]
    play()
    # An attempt that is over is not the one that is followed.
    again = read(engineer.get(LOG, headers={"Last-Event-ID": "1-1:8"}))
    assert [data.get("text") for _, _, data in again] == ["anew\n", None]
    play()
    assert [kind for kind, *_ in read(engineer.get(LOG, headers={"Last-Event-ID": "2-2:5"}))] == [
        "end"
    ]


@pytest.mark.parametrize("last", ["x", "1-1:", "1-1:x", ":5", "1-1:" + "9" * 19])
def test_an_odd_id_begins_anew(engineer, play, console, make_submission, make_task, last):
    make_submission("s-1")
    make_task()
    console("one\n")
    play()
    events = read(engineer.get(LOG, headers={"Last-Event-ID": last}))
    assert [data["text"] for _, _, data in events] == ["one\n"]


def test_what_is_not_there_or_anothers_is_refused_before_a_stream_begins(
    engineer, play, make_submission
):
    make_submission("s-1")
    make_submission("s-2", submitted_by="somebody")
    play()
    assert engineer.get(LOG).status_code == 404
    assert engineer.get(SUBMISSION.replace("s-1", "s-2")).status_code == 404
    assert engineer.get(SUBMISSION.replace("s-1", "s-3")).status_code == 404


def test_who_loses_sight_of_it_in_the_middle_gets_nothing_more(
    engineer, records, play, make_submission
):
    make_submission("s-1", status="running")
    play(
        lambda: records.change_submission(
            "s-1", lambda found: found.change(submitted_by="somebody")
        ),
        lambda: pytest.fail("it went on"),
    )
    assert [kind for kind, *_ in read(engineer.get(SUBMISSION))] == ["submission"]


def test_a_store_that_does_not_answer_ends_a_stream(
    engineer, records, play, make_submission, monkeypatch
):
    make_submission("s-1", status="running")

    def break_down():
        def fail(*_, **__):
            raise TransientError("the table does not answer")

        monkeypatch.setattr(type(records), "find_submission", fail)

    play(break_down, lambda: pytest.fail("it went on"))
    assert [kind for kind, *_ in read(engineer.get(SUBMISSION))] == ["submission"]


def test_as_many_are_open_as_may_be(engineer, play, make_submission):
    make_submission("s-1", status="success")
    gate = StreamGate(total=3, of_user=2)
    play(gate=gate)
    with gate.enter("engineer"):
        assert read(engineer.get(SUBMISSION))[-1][0] == "end"
        with gate.enter("engineer"):
            answer = engineer.get(SUBMISSION)
            assert (answer.status_code, answer.headers["Retry-After"]) == (429, "10")
        with gate.enter("a"), pytest.raises(StreamsBusy), gate.enter("b"), gate.enter("c"):
            pass
    # What has ended is not counted any more.
    for _ in range(5):
        assert read(engineer.get(SUBMISSION))[-1][0] == "end"
