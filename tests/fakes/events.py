"""Submissions with judged rows, for tests of events: on whatever stores they are given."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from fakes.submissions import build_submission
from fakes.tasks import build_spec, build_task
from touchstone.confined.verdicts import VerdictAnswer
from touchstone.core.folds import build_folds
from touchstone.core.judging_rules import RULES as CANNED
from touchstone.core.names import build_task_id
from touchstone.core.records.events import Entry
from touchstone.core.records.judged import Judged, JudgedSeries, JudgedStatus
from touchstone.core.schedule import Schedule
from touchstone.services.events import EventKeeper
from touchstone.services.judging import Judge
from touchstone.settings import Settings
from touchstone.stores.events import EventStore
from touchstone.stores.parts import Parts
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.messages import AttemptRef

NOW = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
ROWS = 600
RULES = {"version": 1, "sha256": "1" * 64}
_DRAW = random.Random(0)
MARKET = tuple(_DRAW.gauss(0.0003, 0.01) for _ in range(ROWS))


def build_net(seed: int, edge: float = 0.0, rows: int = ROWS) -> tuple[float, ...]:
    """Return net returns that know nothing of the market, and earn ``edge`` a row."""
    draw = random.Random(seed)
    return tuple(draw.gauss(edge, 0.01) for _ in range(rows))


def build_series(net: Sequence[float], *, begin: datetime = datetime(2014, 1, 1, tzinfo=UTC)):
    """Return judged rows, one a day."""
    times = tuple((begin + timedelta(days=day)).isoformat() for day in range(len(net)))
    return JudgedSeries(
        time=times, net=tuple(net), market=MARKET[: len(net)], score=(0.0,) * len(net)
    )


def cut_fold(series: JudgedSeries, number: int, count: int) -> JudgedSeries:
    """Return the rows of one of so many folds, all of about the same length."""
    begin, end = (len(series.time) * each // count for each in (number, number + 1))
    cut = {name: value and value[begin:end] for name, value in series.model_dump().items()}
    return JudgedSeries.model_validate(cut)


def _build_fold_rules(number: int) -> dict[str, Any]:
    return {"version": 1, "sha256": f"{number}" * 64}


class EventWorld:
    """
    Submissions that enter events, are trained and judged.

    :param records: Submissions and tasks.
    :param parts: Rows.
    :param ask: Asks the judge.
    :param settings: Names of the tables.
    :ivar now: The time; tests move it.
    """

    def __init__(self, records: RecordStore, parts: Parts, ask: Any, settings: Settings) -> None:
        self.records, self.parts, self.now = records, parts, NOW
        self.events = EventStore(records, settings.events_table)
        self.keeper = EventKeeper(records, self.events, lambda: self.now)
        self.judge = Judge(records, self.events, parts, ask=ask, clock=lambda: self.now)

    def enter(
        self, submission_id: str, *, user: str = "ann", waived: Sequence[str] = (), **fields: Any
    ) -> Entry:
        """Let a submission enter its event."""
        schedule = build_schedule(**fields)
        return self.keeper.enter(
            schedule, submission_id=submission_id, run_id=submission_id, user=user, waived=waived
        )

    def train(
        self,
        submission_id: str,
        net: Sequence[float] | None,
        *,
        user: str = "ann",
        content: str = "",
        judged: Mapping[str, Any] | None = None,
        series: JudgedSeries | None = None,
        rules: Mapping[str, Any] = RULES,
        fields: Mapping[str, Any] | None = None,
        waived: Sequence[str] = (),
        **schedule: Any,
    ) -> Entry:
        """Let a submission enter, and put its ended trainings on record."""
        entry = self.enter(submission_id, user=user, waived=waived, **schedule)
        planned = build_schedule(**schedule)
        tasks = [build_task_id(*each) for each in planned.trainings]
        self.records.create_submission(
            build_submission(
                submission_id,
                status="success",
                submitted_by=user,
                accepted_at=NOW.isoformat(),
                run_ids=[submission_id],
                schedule=planned.model_dump(mode="json"),
                schedule_run_id=submission_id,
                content_sha256=content or submission_id,
                system="feature_set",
                waived_columns=list(waived),
                tasks=tasks,
            )
        )
        folds = build_folds(
            planned.folds,
            validation_from=CANNED.validation_from,
            test_from=CANNED.test_from,
            test_to=None,
        )
        for interval, number in planned.trainings:
            task_id = build_task_id(interval, number)
            ref = AttemptRef(submission_id=submission_id, task_id=task_id, attempt=1, fence=1)
            found = series or (build_series(net) if net is not None else None)
            if found is not None and number is not None:
                found, rules = cut_fold(found, number, len(folds)), _build_fold_rules(number)
            told = judged or {"status": JudgedStatus.NOT_JUDGED, "reason": "other rows"}
            if found is not None:
                told = Judged(
                    status=JudgedStatus.JUDGED,
                    rules=rules,
                    rows=len(found.time),
                    rows_digest=found.rows_digest,
                    series=self.parts.put_series(ref, found),
                ).dump()
            spec = build_spec(
                submission_id=submission_id,
                task_id=task_id,
                interval=interval,
                fold=None if number is None else folds[number],
                schedule=planned.model_dump(mode="json", exclude={"intervals"}),
                waived_columns=list(waived),
            )
            self.records.create_task(
                build_task(
                    spec,
                    **(
                        {"status": "success", "outcome": "succeeded", "published": {"judged": told}}
                        | dict(fields or {})
                    ),
                )
            )
        return entry

    def arrive(self, submission_id: str, net: Sequence[float] | None, **fields: Any) -> Entry:
        """Let a submission enter, train it, and judge it."""
        return self.judge_again(self.train(submission_id, net, **fields))

    def judge_again(self, entry: Entry) -> Entry:
        """Judge an entry as the step of its run does."""
        submission = self.records.get_submission(entry.submission_id)
        tasks = [each.read() for each in self.records.list_tasks(entry.submission_id)]
        return self.judge.judge_arrival(entry, submission, tasks)


def build_schedule(**fields: Any) -> Schedule:
    """Return a schedule; whatever a test does not say is as for most of them."""
    return Schedule.model_validate({"intervals": [1, 5], **fields})


def build_beside(**others: Any) -> dict[str, Any]:
    """Return what stands beside a verdict, in the judge's form; a note for a figure's want."""
    figures = {
        "similarity": 0.5,
        "nearest": 0.75,
        "contribution": 0.125,
        "baseline_correlation": 0.0625,
        "contributivity": "it is told when the event is closed",
        "deflated_sharpe": 0.875,
        "overfitting": 0.25,
        "leading": "it is told when the event is closed",
    } | others
    told = {
        name: {"value": None, "note": value} if isinstance(value, str) else {"value": value}
        for name, value in figures.items()
        if name not in {"nearest_name", "equal_share"}
    }
    names = {name: others.get(name) for name in ("nearest_name", "equal_share")}
    return {**told, **names, "version": 2}


class FakeJudge:
    """
    Gives the answers that it was told to, in the judge's form.

    :ivar questions: What it was asked.
    :ivar outcomes: What it says, by the label's submission; ``not distinguishable`` otherwise.
    :ivar beside: What it says to stand beside every verdict; ``None`` for a judge of before.
    """

    def __init__(self) -> None:
        self.questions: list[dict[str, Any]] = []
        self.outcomes: dict[str, str] = {}
        self.rules_version = 1
        self.beside: dict[str, Any] | None = build_beside()

    def __call__(self, question: Mapping[str, Any]) -> VerdictAnswer:
        """Answer."""
        self.questions.append(dict(question))
        names = [each["name"] for each in question["series"]]
        wanted = names if "earlier" in question else question["judged"]
        figures = {"score": 0.5, "net_sharpe": 0.75}
        return VerdictAnswer.model_validate(
            {
                "rules_version": self.rules_version,
                "verdicts": {name: self._say(name, question) for name in wanted},
                "scores": dict.fromkeys((*names, "#flat", "#index", "#baseline"), figures),
                "beside": dict.fromkeys(wanted, self.beside) if self.beside else {},
            }
        )

    def _say(self, name: str, question: Mapping[str, Any]) -> dict[str, Any]:
        outcome = self.outcomes.get(name.partition(":")[0], "not distinguishable")
        edge = dict.fromkeys(
            ("difference", "low", "high", "standard_error", "p_own", "p_adjusted", "detectable"),
            0.25,
        )
        return {
            "outcome": outcome,
            "sentence": f"{outcome.capitalize()}: `{question['baseline']}`.",
            "edge": edge | {"compared": len(question["series"])},
        }
