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
from touchstone.core.events import BUILT_IN, DEFAULT
from touchstone.core.paging import find_week
from touchstone.core.records.actions import Action
from touchstone.core.records.audit import Door, SubjectKind, build_entries
from touchstone.core.records.beside import Beside, BesideFigure
from touchstone.core.records.events import (
    Edge,
    Entry,
    EventRecord,
    VerdictRecord,
    build_entry_key,
)
from touchstone.core.schedule import Schedule
from touchstone.core.tasks import TaskSpec
from touchstone.settings import Settings
from touchstone.stores import meter
from touchstone.stores.tables import VERSION, WEEK, to_item
from touchstone_agent.protocol.messages import Limits

from .money_promises import build_rental

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
USERS = tuple(f"user{number}" for number in range(20))
STATUSES = ("success", "success", "error", "success", "rejected", "cancelled")
INTERVALS = (1, 5, 20, 60, 120, 2, 3, 10, 30, 240)
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
    :param began: When the first submission came.
    :param first: Only from this one on, and as if the others had been written; for a past that is
        written in parts.
    :param last: Only those before this one; ``None`` for all.
    :param event_size: So many submissions enter an event: the newest the built-in one, those before
        them another one each time. 0 for none.
    """

    submissions: int
    tasks: int = 5
    users: tuple[str, ...] = USERS
    minutes: float = 10
    is_lean: bool = False
    began: datetime = BEGAN
    first: int = 0
    last: int | None = None
    event_size: int = 0

    @property
    def numbers(self) -> range:
        """Return the numbers of the submissions that are written, oldest first."""
        return range(self.first, self.submissions if self.last is None else self.last)

    def build_submissions(self) -> Iterator[Item]:
        """Yield the records of the submissions as they are stored, oldest first."""
        plain = to_item({VERSION: 9} if self.is_lean else build_submission(self.tasks))
        for number in self.numbers:
            name, at = build_name(number), self.find_time(number).isoformat()
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
        for number in self.numbers:
            at = self.find_time(number)
            changes = to_item(
                {
                    "submission_id": build_name(number),
                    "run_id": build_name(number),
                    "created_at": at.isoformat(),
                    WEEK: find_week(at.isoformat()),
                    "running_at": at.isoformat(),
                    "exited_at": (at + timedelta(minutes=30)).isoformat(),
                }
            )
            yield from (task | changes for task in plain)

    def build_meters(self) -> Iterator[Item]:
        """Yield the entries of pods, of a tenth as many as submissions, which were all billed."""
        for number in self.numbers:
            if number % 10:
                continue
            began = self.find_time(number)
            rental = build_rental(
                pod=f"pod-{number:06}",
                pod_id=f"id{number}",
                submission_id=build_name(number),
                user=self.users[number % len(self.users)],
                month=f"{began:%Y-%m}",
                started_at=began,
            )
            at = began + timedelta(minutes=30)
            bill = rental.bill(at, 180_000)
            for entry in (rental.open(), rental.close(at, is_useful=True), bill):
                yield meter.to_item(entry.dump())

    def build_events(self) -> Iterator[Item]:
        """Yield the records of events, the built-in one among them, with their entries."""
        plain = to_item(build_entry())
        for name in sorted({self._find_event(number) for number in range(self.submissions)}):
            record = EventRecord(entry=name, definition=BUILT_IN, digest=BUILT_IN.digest)
            yield to_item(record.change(baseline="flat", version=1).dump())
        for number in self.numbers:
            name = build_name(number)
            yield plain | to_item(
                {
                    "event": self._find_event(number),
                    "entry": build_entry_key(name, "1"),
                    "submission_id": name,
                    "run_id": name,
                    "user": self.users[number % len(self.users)],
                    "created_at": self.find_time(number).isoformat(),
                    "score": number * 7919 % 1000 / 1000,
                }
            )

    def build_acts(self) -> Iterator[Item]:
        """Yield the audit of the submissions: each was sent, and cancelled."""
        for number in self.numbers:
            at, by = self.find_time(number), self.users[number % len(self.users)]
            acts = [
                Action(at=at + timedelta(seconds=place), by=by, action=action)
                for place, action in enumerate(("submitted", "cancelled"))
            ]
            entries = build_entries(SubjectKind.SUBMISSION, build_name(number), acts, Door.API)
            yield from (to_item(entry.dump()) for entry in entries)

    def _find_event(self, number: int) -> str:
        age = (self.submissions - 1 - number) // self.event_size
        return f"past-{age}" if age else DEFAULT

    def find_time(self, number: int) -> datetime:
        """Return when a submission came."""
        return self.began + timedelta(minutes=number * self.minutes)

    def write(self, dynamodb: Any, settings: Settings) -> None:
        """Put all of it into an installation's tables."""
        _write(dynamodb, settings.submissions_table, self.build_submissions())
        _write(dynamodb, settings.tasks_table, self.build_tasks())
        _write(dynamodb, settings.meter_table, self.build_meters())
        if self.event_size:
            _write(dynamodb, settings.events_table, self.build_events())
            _write(dynamodb, settings.events_table, self.build_acts())


def build_name(number: int) -> str:
    """Return the id of a submission by its number."""
    return f"past-{number:06}"


def build_entry() -> dict[str, Any]:
    """Return the record of an entry that was judged, and found to be no better than others."""
    edge = Edge(
        difference=0.03,
        low=-0.41,
        high=0.47,
        standard_error=0.22,
        p_own=0.44,
        p_adjusted=0.97,
        compared=118,
        detectable=0.62,
    )
    figure = BesideFigure(value=0.125)
    beside = Beside(
        baseline="flat",
        similarity=figure,
        nearest=figure,
        nearest_name="past-000001:1",
        contribution=figure,
        deflated_sharpe=figure,
        overfitting=figure,
        version=1,
    )
    verdict = VerdictRecord(
        at=BEGAN,
        phase="arrival",
        outcome="no evidence",
        sentence="No evidence that it is better than flat: 0.03 [-0.41, 0.47], p = 0.97 of 118.",
        baseline="flat",
        edge=edge,
        rules_version=1,
        work="d" * 64,
        seed_count=1,
        beside=beside,
    )
    return Entry(
        entry="entry:past:1",
        submission_id="past",
        run_id="past",
        user="ann",
        created_at=BEGAN,
        work="e" * 64,
        score=0.25,
        net_sharpe=0.5,
        verdicts=(verdict,),
        version=3,
    ).dump()


def build_submission(tasks: int) -> dict[str, Any]:
    """Return the record of a submission that has ended."""
    at, intervals = BEGAN.isoformat(), tuple(sorted(INTERVALS[:tasks]))
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
        "schedule": Schedule(intervals=intervals).model_dump(mode="json"),
        "tasks": [f"i{interval}" for interval in intervals],
        "score": 0.25,
        "results": [
            {
                "task_id": f"i{interval}",
                "interval": interval,
                "status": "success",
                "metrics": {"net_sharpe": 0.25, "turnover": 12.5},
            }
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
