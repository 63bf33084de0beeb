"""
The past of an installation: submissions and trainings that have ended, as they are on record.

Written past the record store, many at a time, for whoever wants to know what a long past costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from touchstone.core import attempts
from touchstone.core.schedule import Schedule
from touchstone.core.tasks import TaskSpec
from touchstone.settings import Settings
from touchstone.stores import meter
from touchstone.stores.tables import VERSION, to_item
from touchstone_agent.protocol.messages import Limits

from .money_promises import build_rental

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
USERS = tuple(f"user{number}" for number in range(20))
STATUSES = ("success", "success", "error", "success", "rejected", "cancelled")
INTERVALS = (1, 5, 20, 60, 120)
_LEAN = (
    *("task_id", "kind", "status", "phase", "outcome", "fence", "attempt", "map_index"),
    *("config", VERSION),
)
_AT_ONCE = 25

Item = dict[str, Any]
"""A record as DynamoDB has it."""


@dataclass(frozen=True, kw_only=True)
class History:
    """
    What has been.

    :param submissions: How many.
    :param tasks: Tasks of each; at most one for each of :data:`INTERVALS`.
    :param users: Whose they are, in turn.
    :param minutes: Between one submission and the next.
    :param is_lean: Whether records have but what lists and estimates need: they are written in a
        quarter of the time.
    """

    submissions: int
    tasks: int = 5
    users: tuple[str, ...] = USERS
    minutes: float = 10
    is_lean: bool = False

    def build_submissions(self) -> Iterator[Item]:
        """Yield the records of the submissions as they are stored, oldest first."""
        plain = to_item({VERSION: 9} if self.is_lean else build_submission(self.tasks))
        for number in range(self.submissions):
            name, at = self._name(number), self._find_time(number).isoformat()
            yield plain | to_item(
                {
                    "submission_id": name,
                    "status": STATUSES[number % len(STATUSES)],
                    "submitted_by": self.users[number % len(self.users)],
                    "created_at": at,
                    "ended_at": at,
                    "run_ids": [name],
                }
            )

    def build_tasks(self) -> Iterator[Item]:
        """Yield the records of the tasks, each after one attempt that ended."""
        records = [build_task(interval) for interval in INTERVALS[: self.tasks]]
        if self.is_lean:
            records = [{name: record[name] for name in _LEAN} for record in records]
        plain = [to_item(record) for record in records]
        for number in range(self.submissions):
            at = self._find_time(number)
            changes = to_item(
                {
                    "submission_id": self._name(number),
                    "run_id": self._name(number),
                    "created_at": at.isoformat(),
                    "running_at": at.isoformat(),
                    "exited_at": (at + timedelta(minutes=30)).isoformat(),
                }
            )
            yield from (task | changes for task in plain)

    def build_meters(self) -> Iterator[Item]:
        """Yield the entries of pods, of a tenth as many as submissions, which were all billed."""
        for number in range(0, self.submissions, 10):
            rental = build_rental(pod=f"pod-{number:06}", pod_id=f"id{number}")
            at = rental.started_at + timedelta(minutes=30)
            bill = rental.bill(at, 180_000)
            for entry in (rental.open(), rental.close(at, is_useful=True), bill):
                yield meter.to_item(entry.dump())

    def _name(self, number: int) -> str:
        return f"past-{number:06}"

    def _find_time(self, number: int) -> datetime:
        return BEGAN + timedelta(minutes=number * self.minutes)

    def write(self, dynamodb: Any, settings: Settings) -> None:
        """Put all of it into an installation's tables."""
        _write(dynamodb, settings.submissions_table, self.build_submissions())
        _write(dynamodb, settings.tasks_table, self.build_tasks())
        _write(dynamodb, settings.meter_table, self.build_meters())


def build_submission(tasks: int) -> dict[str, Any]:
    """Return the record of a submission that has ended."""
    at, intervals = BEGAN.isoformat(), INTERVALS[:tasks]
    return {
        "submission_id": "past",
        "system": "feature_set",
        "status": "success",
        "submitted_by": "ann",
        "created_at": at,
        "ended_at": at,
        "accepted_at": at,
        "queued_at": at,
        "notes": "a few words of what is different this time",
        "run_ids": ["past"],
        "source_url": "https://git.example/team/features",
        "content_sha256": "c" * 64,
        "model_group_id": "past",
        "schedule": Schedule(intervals=INTERVALS).model_dump(mode="json"),
        "tasks": [f"i{interval}" for interval in intervals],
        "score": 0.25,
        "results": [
            {"task_id": f"i{interval}", "metrics": {"net_sharpe": 0.25, "turnover": 12.5}}
            for interval in intervals
        ],
        "actions": [{"at": at, "by": "ann", "action": "submitted"}],
        VERSION: 9,
    }


def build_task(interval: int) -> dict[str, Any]:
    """Return the record of a training that has ended well."""
    at = BEGAN.isoformat()
    spec = TaskSpec(
        submission_id="past",
        task_id=f"i{interval}",
        kind="training",
        system="feature_set",
        image="trainer:1",
        content_sha256="c" * 64,
        content_size=10_000,
        limits=Limits(),
        interval=interval,
        config_file="default.toml",
        submitted_by="ann",
    )
    task = attempts.new_task(spec, run_id="past", map_index=0, now=BEGAN)
    claimed = attempts.claim_attempt(
        task, attempt=1, server="rio", container_of=lambda ref: ref.task_key, now=BEGAN
    )
    return {
        **claimed.dump(),
        "status": "success",
        "phase": "uploaded",
        "outcome": "succeeded",
        "running_at": at,
        "exited_at": at,
        "uploaded_at": at,
        "ended_at": at,
        "verdict": {"contract": 1, "exit_code": 0, "outcome": "succeeded"},
        "files": [{"path": f"file{i}", "sha256": "a" * 64, "size": 9} for i in range(6)],
        VERSION: 12,
    }


def _write(dynamodb: Any, table: str, items: Iterable[Mapping[str, Any]]) -> None:
    waiting: list[dict[str, Any]] = []
    for item in items:
        waiting.append({"PutRequest": {"Item": item}})
        if len(waiting) == _AT_ONCE:
            waiting = _send(dynamodb, table, waiting)
    while waiting:
        waiting = _send(dynamodb, table, waiting)


def _send(dynamodb: Any, table: str, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    answer = dynamodb.batch_write_item(RequestItems={table: requests})
    left: list[dict[str, Any]] = answer.get("UnprocessedItems", {}).get(table, [])
    return left
