from __future__ import annotations

from datetime import UTC, datetime

from touchstone.stack.crashes import Crash, find_status, summarise

LOG = """\
2026-01-01 10:00:00,000 WARN exited: agent (exit status 1; not expected)
2026-01-01 10:00:01,000 INFO spawned: 'agent' with pid 7
2026-01-01 10:00:02,000 WARN exited: agent (terminated by SIGKILL; not expected)
2026-01-01 10:00:03,000 WARN exited: agent-2 (exit status 9; not expected)
"""


def make_line(part="agent", event="exited", minute=0):
    at = datetime(2026, 1, 1, 10, minute, tzinfo=UTC)
    return Crash(part=part, event=event, status="exit status 1", at=at).model_dump_json()


def test_how_a_part_ended_is_read_from_the_supervisors_log() -> None:
    assert find_status(LOG, "agent") == "terminated by SIGKILL"


def test_a_part_the_log_does_not_know_ended_somehow() -> None:
    assert find_status(LOG, "dispatcher") == "unknown"


def test_ends_are_counted_by_part_since_the_start() -> None:
    lines = [make_line(minute=1), make_line(minute=3), make_line("mlflow", minute=4), "{half a l"]
    counted = summarise(lines, since=datetime(2026, 1, 1, 10, 2, tzinfo=UTC))
    assert {part: summary.count for part, summary in counted.items()} == {"agent": 1, "mlflow": 1}
    assert counted["agent"].last.at.minute == 3


def test_giving_up_is_not_one_more_end() -> None:
    lines = [make_line(event="backoff"), make_line(event="fatal")]
    counted = summarise(lines, since=datetime(2026, 1, 1, tzinfo=UTC))
    assert counted["agent"].count == 1
    assert counted["agent"].last.event == "fatal"
