"""Events that nobody can use are refused, or end their attempt; none is kept as it came."""

from __future__ import annotations

import base64
import json
from datetime import date, timedelta

import pytest

from fakes.servers import read_fields
from fakes.tasks import change_fields
from touchstone.core.data_sets import PinnedData
from touchstone.core.retries import WaitEnd, find_end
from touchstone.dispatcher.events import EventHandler
from touchstone.stores.tables import RecordUnfit
from touchstone_agent.protocol.errors import MessageRefused
from touchstone_agent.protocol.messages import (
    AttemptPhase,
    Grants,
    GrantsWanted,
    PhaseChanged,
    Want,
)

FILE = {"path": "models/long.h5", "sha256": "0" * 64, "size": 4}
REF = {"submission_id": "s", "task_id": "i1", "attempt": 1, "fence": 1}
GOOD = {"exit_code": 0, "outcome": "succeeded", "class": "ok"}


@pytest.fixture
def handler(records, objects, agent, settings, clock):
    return EventHandler(
        records=records, objects=objects, agent=agent, settings=settings, clock=clock
    )


@pytest.fixture
def sign(server_key, clock):
    """Sign a payload as it is, as an agent that is not ours may."""

    def sign(body, **header):
        until = (clock() + timedelta(days=1)).isoformat()
        payload = {
            "header": {
                "v": 1,
                "message_id": "m",
                "env": "dev",
                "server": "local",
                "issued_at": clock().isoformat(),
                "expires_at": until,
                **header,
            },
            "body": body,
        }
        text = body if isinstance(body, str) else json.dumps(payload)
        sig = base64.b64encode(server_key.sign(text.encode("utf-8", "surrogatepass"))).decode()
        return json.dumps({"kid": "local", "sig": sig, "payload": text})

    return sign


def told(ref, phase, clock, **details):
    return {
        "kind": "phase",
        "ref": ref.model_dump(),
        "phase": phase,
        "at": clock().isoformat(),
        "details": details,
    }


@pytest.mark.parametrize(
    ("details", "words"),
    [
        ({"exit_code": 10**12, "verdict": None}, "exit_code"),
        ({"exit_code": -1}, "exit_code"),
        ({"exit_code": "many"}, "exit_code"),
        ({"exit_code": 0, "verdict": GOOD, "files": [{**FILE, "path": "/etc/x"}]}, "files.0.path"),
        (
            {"exit_code": 0, "verdict": GOOD, "files": [{**FILE, "path": "a/../../x"}]},
            "files.0.path",
        ),
        ({"exit_code": 0, "verdict": GOOD, "files": [{**FILE, "sha256": "x"}]}, "files.0.sha256"),
        ({"exit_code": 0, "verdict": GOOD, "files": [{**FILE, "size": 5 * 1024**3}]}, "files: "),
        ({"exit_code": 0, "verdict": GOOD, "files": [FILE, FILE]}, "twice"),
        ({"exit_code": 0, "verdict": {**GOOD, "usage": {"wall_seconds": 1e200}}}, "wall_seconds"),
        ({"exit_code": 0, "verdict": {**GOOD, "class": "x" * 41}}, "verdict.class"),
        ({"exit_code": 0, "verdict": "good"}, "verdict"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("phase", ["exited", "uploaded"])
def test_an_end_that_makes_no_sense_ends_the_attempt(
    handler, records, sign, make_task, clock, details, words, phase
):
    """What no record can hold kept the task running, and its slot held, for ever."""
    ref = make_task()

    handler.handle(sign(told(ref, phase, clock, **details)))

    task = records.get_task("s-1", "i5")
    assert (task.status, task.newest.outcome) == ("error", "failed(infrastructure)")
    assert task.newest.reason.startswith("local reported an end that makes no sense: ")
    assert words in task.newest.reason
    assert (task.newest.files, task.newest.verdict) == ((), None)
    assert find_end(task, fence=1, run_id="s-1") is WaitEnd.RETRY


def test_the_wish_to_cancel_is_the_reason_of_an_end_that_makes_no_sense(
    handler, records, sign, make_task, clock
):
    ref = make_task(
        cancel={
            "through_fence": 1,
            "by": "ann",
            "at": "2026-11-22T12:00:00+00:00",
            "reason": "asked",
        }
    )

    handler.handle(sign(told(ref, "exited", clock, exit_code=10**12)))

    task = records.get_task("s-1", "i5")
    assert (task.status, task.newest.reason) == ("cancelled", "asked")


def test_what_nobody_knows_is_not_kept(handler, records, sign, make_task, clock):
    ref = make_task()
    verdict = {**GOOD, "x" * 1000: "y" * 10_000, "reason": "one\ntwo"}

    handler.handle(
        sign(told(ref, "exited", clock, exit_code=0, verdict=verdict, files=[FILE], more={"a": 1}))
    )

    task = records.get_task("s-1", "i5")
    assert task.status == "uploading"
    assert [file.dump() for file in task.newest.files] == [FILE]
    assert task.newest.verdict.dump()["reason"] == "one two"
    assert "x" * 1000 not in task.newest.verdict.dump()


def test_a_report_that_no_record_can_hold_ends_the_attempt(
    handler, records, sign, make_task, clock, monkeypatch
):
    ref = make_task()
    change_task = records.change_task

    def refuse_files(submission_id, task_id, decide):
        def decided(task):
            changed = decide(task)
            if changed and changed.newest.files:
                raise RecordUnfit("a record of 500000 bytes is too large: 409600 fit")
            return changed

        return change_task(submission_id, task_id, decided)

    monkeypatch.setattr(records, "change_task", refuse_files)

    handler.handle(sign(told(ref, "exited", clock, exit_code=0, verdict=GOOD, files=[FILE])))

    task = records.get_task("s-1", "i5")
    assert (task.newest.phase, task.status) == ("exited", "error")
    assert "500000 bytes is too large" in task.newest.reason


@pytest.mark.parametrize(
    "body",
    [
        "[" * 200_000,
        '{"header":' * 100_000,
        '{"header": {"v": 1}, "body": 1' + "0" * 50 + "}",
        '{"header": {"v": 1}, "body": NaN}',
        '{"header": {"v": 1}, "body": "\\ud800"}',
        "{}",
        "[]",
        '"x"',
        '{"header": {"v": {"v": 1}}}',
    ],
    ids=["deep", "deeper", "digits", "nan", "surrogate", "empty", "list", "text", "version"],
)
def test_a_signed_payload_beyond_a_bound_is_refused(handler, sign, body):
    with pytest.raises(MessageRefused) as caught:
        handler.handle(sign(body))

    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "header",
    [
        {"expires_at": "2030-01-01T00:00:00"},
        {"issued_at": "2026-11-22T12:00:00"},
        {"expires_at": "9999-12-31T23:59:59Z"},
        {"expires_at": "0001-01-01T00:00:00+14:00"},
        {"sequence": 2**61},
        {"message_id": "x" * 1000},
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_header_with_an_odd_time_or_number_is_refused(handler, sign, header):
    """Times without a zone stopped the other nine events of their batch."""
    heartbeat = {
        "kind": "heartbeat",
        "inventory": {
            "slots": 1,
            "validation_slots": 1,
            "runtime": "d",
            "agent_version": "1",
            "cpus": 1,
            "memory_mib": 1,
        },
    }
    handler.handle(sign(heartbeat))

    with pytest.raises(MessageRefused, match=r"malformed event: header\."):
        handler.handle(sign(heartbeat, **header))


@pytest.mark.parametrize("at", ["2026-11-22T12:00:00", "1970-01-01T00:00:00Z", "soon"])
def test_a_phase_at_an_odd_time_is_refused(handler, records, sign, make_task, clock, at):
    ref = make_task()

    with pytest.raises(MessageRefused, match=r"body\.phase\.at"):
        handler.handle(sign(told(ref, "running", clock) | {"at": at}))

    assert records.get_task("s-1", "i5").status == "queued"


@pytest.mark.parametrize(
    ("at", "kept"), [("2199-01-01T00:00:00Z", 10), ("2001-01-01T00:00:00Z", -10)]
)
def test_a_clock_that_is_years_wrong_does_not_reach_the_record(
    handler, records, sign, make_task, clock, at, kept
):
    ref = make_task(kind="validation")

    handler.handle(sign(told(ref, "running", clock) | {"at": at}))

    expected = clock() + timedelta(minutes=kept)
    assert records.get_task("s-1", "i5").newest.running_at == expected


@pytest.mark.parametrize(
    "inventory",
    [
        {"gpus": [{"name": "x", "memory_mib": 10**18}]},
        {"gpus": [{"name": "L4"}] * 65},
        {"slots": 10**9},
        {"cpus": -1},
        {"runtime": "x" * 1000},
        {
            "running": [
                [{"submission_id": "s", "task_id": "i1", "attempt": 1, "fence": 2**70}, "lost"]
            ]
        },
    ],
    ids=lambda value: str(value)[:24],
)
def test_an_inventory_beyond_a_bound_is_refused_and_changes_nothing(
    handler, records, sign, inventory
):
    good = {
        "slots": 1,
        "validation_slots": 1,
        "runtime": "docker",
        "agent_version": "1",
        "cpus": 1,
        "memory_mib": 1,
        "gpus": [{"index": 0, "name": "L4", "memory_mib": 24_000, "uuid": "u", "more": {"a": 1}}],
    }
    handler.handle(sign({"kind": "heartbeat", "inventory": good}))
    before = read_fields(records, "local")
    assert "more" not in before["inventory"]["gpus"][0]

    with pytest.raises(MessageRefused):
        handler.handle(sign({"kind": "heartbeat", "inventory": good | inventory}))

    assert read_fields(records, "local") == before


@pytest.mark.parametrize(
    ("purpose", "want"),
    [
        ("output", {"path": "a\\b"}),
        ("output", {"path": "a\nb"}),
        ("output", {"path": "x" * 600}),
        ("output", {"path": "/a"}),
        ("output", {"path": "a", "sha256": "x"}),
        ("output", {"path": "a", "size": 6 * 1024**3}),
        ("console", {"path": "000000000000", "size": 1024**3}),
        ("console", {"path": "00000000000x"}),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_want_that_is_none_is_refused_by_name(
    handler, agent, make_event, make_task, purpose, want
):
    """Not the message: an agent that hears nothing asks again for ever."""
    ref = make_task()
    asked = Want(**({"sha256": "0" * 64, "size": 3} | want))

    handler.handle(make_event(GrantsWanted(ref=ref, purpose=purpose, wants=(asked,))))

    [answer] = agent.commands(Grants)
    assert list(answer.refused) == [asked.path]
    assert answer.grants == {}


@pytest.mark.parametrize(
    ("purpose", "path"), [("output", "predictions.csv"), ("console", "000000000000")]
)
def test_no_file_of_private_data_is_taken_though_its_server_asks(
    handler, agent, records, make_event, make_task, purpose, path
):
    ref = make_task()
    data = PinnedData(
        name="prices",
        version="1",
        digest="d" * 64,
        sha256="",
        size=0,
        validation_from=date(2017, 10, 1),
        test_from=date(2017, 12, 1),
        bars_per_year=252,
        is_private=True,
    )
    spec = records.get_task("s-1", "i5").spec.model_copy(update={"data": data})
    change_fields(records, "s-1", "i5", config=spec.model_dump(mode="json"))
    asked = Want(path=path, sha256="0" * 64, size=3)

    handler.handle(make_event(GrantsWanted(ref=ref, purpose=purpose, wants=(asked,))))

    [answer] = agent.commands(Grants)
    assert answer.grants == {}
    assert "private data" in answer.refused[path]


def test_an_end_as_an_older_agent_tells_it_is_read(handler, records, make_event, make_task, clock):
    """It sends all that was in verdict.json, its files once more among it."""
    ref = make_task()
    verdict = {**GOOD, "contract": 1, "reason": None, "files": [FILE], "added_later": {"x": 1}}
    details = {"exit_code": 0, "oom_killed": False, "verdict": verdict, "files": [FILE]}

    handler.handle(
        make_event(PhaseChanged(ref=ref, phase=AttemptPhase.EXITED, at=clock(), details=details))
    )

    task = records.get_task("s-1", "i5")
    assert task.newest.outcome == "succeeded"
    assert [file.dump() for file in task.newest.files] == [FILE]
    assert "files" not in task.newest.verdict, "they have a place of their own"
