"""Reaches verdicts: when a submission's trainings are collected, and when its event is closed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final, Self

from pydantic import JsonValue

from touchstone.confined.judge import find_judge
from touchstone.confined.verdicts import NoVerdict, VerdictAnswer, ask_for_verdicts
from touchstone.core.data_sets import tell_data
from touchstone.core.event_rules import (
    build_seed,
    build_work_digest,
    find_other_folds,
    find_other_seeds,
    find_refused_waivers,
    is_hidden,
)
from touchstone.core.events import FLAT, Event
from touchstone.core.records.actions import add_action
from touchstone.core.records.beside import Beside
from touchstone.core.records.events import (
    Edge,
    Entry,
    EventRecord,
    Figures,
    Series,
    VerdictRecord,
)
from touchstone.core.records.judged import JudgedSeries
from touchstone.core.records.stored import RecordUnreadable, read_time
from touchstone.core.records.submissions import AFTER_CLOSING, NOT_JUDGED, Submission
from touchstone.core.records.tasks import Task
from touchstone.core.verdicts import (
    ARRIVAL,
    BASELINE,
    CLOSING,
    INDEX,
    JoinedSeries,
    NoSeries,
    StoredSeries,
    build_question,
    build_work,
    find_difference,
    find_server_scores,
    find_unjudged,
    has_failed_by_infrastructure,
    join_series,
    tell_not_judged,
)
from touchstone.core.waivers import add_waivers
from touchstone.services.events import INFRASTRUCTURE, find_data
from touchstone.settings import Settings
from touchstone.stores.events import EventStore
from touchstone.stores.parts import Parts, read_published, read_series
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.errors import PermanentError

log = logging.getLogger(__name__)

Asker = Callable[[Mapping[str, JsonValue]], VerdictAnswer]
"""Asks the judge's statistics."""

_MAX_REASON: Final = 400

SCORES_ONLY: Final = (
    "its rows stay at the server that holds the data, so nothing is compared here; its score is of "
    "the judge there"
)
"""Why nothing is judged of an event that shares scores alone."""


class Unreadable(PermanentError):
    """An entry that counts makes no sense, so nobody can say how many there are."""


@dataclass(frozen=True, kw_only=True)
class _Ground:
    """
    What entries are compared on.

    :param baseline: The baseline's name.
    :param series: Its rows; an entry's own where it holds nothing.
    :param rows: What is in them.
    """

    baseline: str
    series: Series
    rows: StoredSeries

    @property
    def is_flat(self) -> bool:
        """Tell whether the baseline holds nothing."""
        return self.baseline == FLAT


@dataclass(frozen=True, kw_only=True)
class Closed:
    """
    What came of closing an event.

    :param judged: Entries that got a verdict.
    :param upgraded: Those of them that are better now and were not before.
    :param waiting: Entries without any verdict: they are at work, and closing again judges them.
    :param baseline: What they were compared with.
    """

    judged: tuple[str, ...]
    upgraded: tuple[str, ...]
    waiting: tuple[str, ...]
    baseline: str


class Judge:
    """
    Reaches verdicts and writes them down.

    A process that dies in between has written rows that nothing names, or no verdict. Doing it
    again says the same. A verdict is only added, and what was judged once is not judged again.

    :param records: Submissions and tasks.
    :param events: Events and entries.
    :param parts: Rows.
    :param ask: Asks the judge's statistics.
    :param clock: The time, UTC.
    """

    def __init__(
        self,
        records: RecordStore,
        events: EventStore,
        parts: Parts,
        *,
        ask: Asker,
        clock: Callable[[], datetime],
    ) -> None:
        self._records = records
        self._events = events
        self._parts = parts
        self._ask = ask
        self._clock = clock

    @classmethod
    def connect(
        cls, settings: Settings, records: RecordStore, clock: Callable[[], datetime]
    ) -> Self:
        """Return the installation's judge."""
        python = find_judge(settings)
        return cls(
            records,
            EventStore(records, settings.events_table),
            Parts.connect(settings),
            ask=lambda question: ask_for_verdicts(python, question),
            clock=clock,
        )

    # --- one that has arrived ----------------------------------------------------------------

    def judge_arrival(self, entry: Entry, submission: Submission, tasks: Sequence[Task]) -> Entry:
        """
        Judge an entry whose trainings have ended.

        :param entry: On record.
        :param submission: The submission, with the schedule of the entry.
        :param tasks: The trainings of that schedule.
        :return: The entry with its verdict.
        :raises TransientError: If a store does not answer; doing it again goes on.
        """
        event = self._events.get_event(entry.event)
        entry = self._put_waivers(entry, tasks)
        told = [(task, read_published(task, self._parts)) for task in tasks]
        reason = find_unjudged(told)
        if reason is not None:
            fault = INFRASTRUCTURE if has_failed_by_infrastructure(tasks) else None
            return self._put_unjudged(entry, reason, event, fault=fault)
        other = self._find_other_data(event.definition, tasks)
        if other is not None:
            return self._put_unjudged(entry, f"other data: {other}", event)
        # The event may have been written anew since it was let in.
        seeds = find_other_seeds(event.definition, _count_seeds(tasks))
        if seeds is not None:
            return self._put_unjudged(entry, seeds, event)
        refused = find_refused_waivers(event.definition, event.name, entry.waived_columns)
        if refused is not None:
            return self._put_unjudged(entry, refused, event)
        folds = find_other_folds(event.definition, _list_folds(tasks))
        if folds is not None:
            return self._put_unjudged(entry, folds, event)
        if event.definition.shares_scores_only:
            return self._put_unjudged(
                self._put_scores(entry, find_server_scores(told)), SCORES_ONLY, event
            )
        try:
            entry = self._put_series(entry, submission, self._read_series(event.definition, tasks))
        except PermanentError as error:
            return self._put_unjudged(entry, str(error), event)
        if is_hidden(event.definition, closed_at=event.closed_at):
            return self._put_unjudged(entry, AFTER_CLOSING, event)
        return self._compare(event, entry)

    def _compare(self, event: EventRecord, entry: Entry) -> Entry:
        series, baseline = entry.series, event.chosen_baseline
        assert series is not None  # noqa: S101 - it was just put there
        if baseline is None:
            return self._put_unjudged(
                entry,
                "the event has no baseline; an admin sets one with "
                f"`touchstone event baseline {event.name} ID`",
                event,
            )
        work = build_work(ARRIVAL, baseline, series)
        if any(each.work == work for each in entry.verdicts):
            return entry
        try:
            ground = self._find_ground(event, baseline, entry)
            reason = self._find_exclusion(ground, entry)
            if reason is not None:
                return self._put_unjudged(entry, reason, event)
            panel = self._read_panel(event, ground)
            question = self._build_question(event, ground, panel)
            answer = self._ask(
                question | {"arrivals": event.definition.judging.arrivals, "judged": [entry.label]}
            )
        except PermanentError as error:
            return self._put_unjudged(entry, str(error), event)
        self._put_references(event, answer)
        return self._put_answer(entry, answer, phase=ARRIVAL, ground=ground, work=work)

    def _find_exclusion(self, ground: _Ground, entry: Entry) -> str | None:
        series = entry.series
        if entry.submission_id == ground.baseline:
            return "it is the baseline"
        if series is None:
            return "it has no judged rows"
        return find_difference(series, ground.series)

    # --- all of an event ---------------------------------------------------------------------

    def close(self, name: str, *, by: str) -> Closed:
        """
        Close an event, and judge everything in it by step-down over all; that may only upgrade.

        Closing again judges what has come to its end since.

        :raises PermanentError: If the event has no baseline, or cannot be judged.
        """
        event, now = self._events.get_event(name), self._clock()
        if event.chosen_baseline is None and not event.definition.shares_scores_only:
            raise PermanentError(
                f"event: {name!r} has no baseline; `touchstone event baseline {name} ID` sets one"
            )

        def decide(found: EventRecord) -> EventRecord | None:
            if found.closed_at is not None:
                return None
            return found.change(
                closed_at=now,
                actions=add_action(found.actions, at=now, by=by, action="event close"),
            )

        event = self._events.change_event(event, decide)
        entries = self._list_entries(event.name)
        waiting = tuple(entry.label for entry in entries if entry.verdict is None)
        with_rows = [entry for entry in entries if entry.series is not None]
        baseline = event.chosen_baseline or FLAT
        if not with_rows:
            return Closed(judged=(), upgraded=(), waiting=waiting, baseline=baseline)
        judged: list[str] = []
        upgraded: list[str] = []
        left = with_rows
        while left:
            # One round, unless everybody is compared with nothing and the event fixes no rows.
            ground = self._find_ground(event, baseline, left[0])
            panel = self._read_panel(event, ground)
            labels = {entry.label for entry, _ in panel}
            for entry in left:
                if entry.label not in labels and (not ground.is_flat or entry is left[0]):
                    reason = self._find_exclusion(ground, entry)
                    self._put_unjudged(entry, str(reason), event)
            if panel:
                upgraded += self._close_panel(event, ground, panel)
                judged += labels
            done = labels | {left[0].label}
            left = [entry for entry in left if ground.is_flat and entry.label not in done]
        return Closed(
            judged=tuple(sorted(judged)),
            upgraded=tuple(upgraded),
            waiting=waiting,
            baseline=baseline,
        )

    def _close_panel(
        self, event: EventRecord, ground: _Ground, panel: Sequence[tuple[Entry, StoredSeries]]
    ) -> list[str]:
        """Judge entries together, and return those that are better now and were not before."""
        before: dict[str, JsonValue] = {
            entry.label: str(entry.verdict.outcome) for entry, _ in panel if entry.verdict
        }
        answer = self._ask(self._build_question(event, ground, panel) | {"earlier": before})
        self._put_references(event, answer)
        labels = sorted(entry.label for entry, _ in panel)
        upgraded = []
        for entry, _ in panel:
            work = build_work(CLOSING, ground.baseline, entry.series, *labels)
            after = self._put_answer(entry, answer, phase=CLOSING, ground=ground, work=work)
            is_better = after.verdict is not None and after.verdict.outcome == "better"
            if is_better and before.get(entry.label) != "better":
                upgraded.append(entry.label)
        return upgraded

    # --- what is read ------------------------------------------------------------------------

    def _find_other_data(self, event: Event, tasks: Sequence[Task]) -> str | None:
        """Say which training was not on an event's data and rows; ``None`` if all were."""
        wanted = find_data(self._events, event)
        for task in tasks:
            if task.spec.data != wanted:
                return (
                    f"{task.task_id} was trained on {tell_data(task.spec.data)}; the event is on "
                    f"{tell_data(wanted)}"
                )
        return None

    def _read_series(self, event: Event, tasks: Sequence[Task]) -> JoinedSeries:
        series: dict[int, list[JudgedSeries]] = {}
        rules: dict[int, list[str]] = {}
        for task in sorted(tasks, key=lambda each: each.spec.fold.number if each.spec.fold else 0):
            judged = task.newest.published.judged if task.newest.published else None
            if judged is None or judged.rules is None or task.interval is None:
                raise NoSeries(f"{task.task_id}: it has no judged rows")
            series.setdefault(task.interval, []).append(read_series(self._parts, judged))
            rules.setdefault(task.interval, []).append(judged.rules.sha256)
        if not series:
            raise NoSeries("it has no trainings")
        return join_series(event, series, rules)

    def _find_ground(self, event: EventRecord, baseline: str, like: Entry) -> _Ground:
        if baseline == FLAT:
            assert like.series is not None  # noqa: S101 - only such entries are compared
            return _Ground(
                baseline=baseline, series=like.series, rows=self._read_stored(like.series)
            )
        entries = self._events.list_entries(event.name, submission_id=baseline).records
        known = next((each.series for each in reversed(entries) if each.series), None)
        if known is None:
            known = self._store_baseline(event.definition, event.name, baseline)
        return _Ground(baseline=baseline, series=known, rows=self._read_stored(known))

    def _read_stored(self, series: Series) -> StoredSeries:
        return StoredSeries.load(self._parts.get_table(series.part))

    def _store_baseline(self, event: Event, name: str, baseline: str) -> Series:
        """Return the rows of a baseline that was judged in no entry of this event."""
        try:
            submission = self._records.get_submission(baseline)
            listed = [
                entry.read()
                for entry in self._records.list_tasks(baseline)
                if entry.task_id in submission.tasks
            ]
        except PermanentError as error:
            raise NoSeries(f"the baseline {baseline!r} cannot be read: {error}") from error
        told = [(task, read_published(task, self._parts)) for task in listed]
        reason = find_unjudged(told)
        if reason is not None:
            raise NoSeries(f"the baseline {baseline!r} has no judged rows: {reason}")
        other = self._find_other_data(event, listed)
        if other is not None:
            raise NoSeries(f"other data: the baseline's {other}")
        count = _count_seeds(listed)
        seeds = find_other_seeds(event, count)
        if seeds is not None:
            raise NoSeries(f"{seeds}: that is the baseline {baseline!r}")
        refused = find_refused_waivers(event, name, submission.waived_columns)
        if refused is not None:
            raise NoSeries(f"{refused}: that is the baseline {baseline!r}")
        folds = find_other_folds(event, _list_folds(listed))
        if folds is not None:
            raise NoSeries(f"{folds}: that is the baseline {baseline!r}")
        joined = self._read_series(event, listed)
        return self._store_series(baseline, "baseline", joined, seed_count=count)

    def _read_panel(self, event: EventRecord, ground: _Ground) -> list[tuple[Entry, StoredSeries]]:
        """Return everybody's entries on these rows, with what is in them, the oldest first."""
        panel = []
        for entry in self._list_entries(event.name):
            if self._find_exclusion(ground, entry) is not None:
                continue
            assert entry.series is not None  # noqa: S101 - or it would be excluded
            panel.append((entry, self._read_stored(entry.series)))
        return panel

    def _list_entries(self, event: str) -> tuple[Entry, ...]:
        found = self._events.list_entries(event)
        if found.unreadable:
            name, error = next(iter(found.unreadable.items()))
            # It may have been judged: without it N, and every p with it, would be too small.
            raise Unreadable(f"the entry {name} of the event {event!r} cannot be read: {error}")
        return found.records

    def _build_question(
        self, event: EventRecord, ground: _Ground, panel: Sequence[tuple[Entry, StoredSeries]]
    ) -> dict[str, JsonValue]:
        return build_question(
            event,
            baseline=ground.baseline,
            rows=ground.rows,
            like=ground.series,
            series=panel,
            seed=build_seed(event.name, ground.baseline),
        )

    # --- what is written ---------------------------------------------------------------------

    def _store_series(
        self, submission_id: str, name: str, joined: JoinedSeries, *, seed_count: int
    ) -> Series:
        part = self._parts.put(f"series/{submission_id}/{name}/", joined.build_document())
        return Series(
            part=part,
            rows=len(joined.times),
            rows_digest=joined.rows_digest,
            rules=joined.rules,
            intervals=joined.intervals,
            first=read_time(joined.times[0]),
            last=read_time(joined.times[-1]),
            seed_count=seed_count,
            folds=joined.folds,
        )

    def _put_waivers(self, entry: Entry, tasks: Sequence[Task]) -> Entry:
        """
        Write down which columns were waived in what was trained, before anything is said of it.

        What an entry has once waived it has waived for ever.
        """
        waived = dict.fromkeys(name for task in tasks for name in task.spec.waived_columns)

        def decide(found: Entry) -> Entry | None:
            more = [name for name in waived if name not in found.waived_columns]
            return found.change(waived_columns=(*found.waived_columns, *more)) if more else None

        return self._events.change_entry(entry, decide) if waived else entry

    def _put_scores(self, entry: Entry, figures: Figures | None) -> Entry:
        """
        Write down what the servers' judges say of an entry; no rows of it are here.

        The first figures stay, as the first rows do.
        """

        def decide(found: Entry) -> Entry | None:
            if figures is None or found.score is not None:
                return None
            return found.change(score=figures.score, net_sharpe=figures.net_sharpe, fault=None)

        return self._events.change_entry(entry, decide)

    def _put_series(self, entry: Entry, submission: Submission, joined: JoinedSeries) -> Entry:
        """
        Write down an entry's rows before anything is compared: later entries count it.

        The first rows stay. A run that is cleared and trains again is the same entry, and would
        otherwise be another draw that no p value counts.
        """
        schedule = submission.schedule
        assert schedule is not None  # noqa: S101 - it has been trained by it
        elnigma = submission.elnigma
        series = self._store_series(
            entry.submission_id,
            entry.label.rpartition(":")[2],
            joined,
            seed_count=schedule.seed_count,
        )
        work = build_work_digest(
            system=submission.system,
            content_sha256=submission.content_sha256,
            checkout=elnigma.sha256 if elnigma else None,
            schedule=schedule,
        )

        def decide(found: Entry) -> Entry | None:
            if found.series is not None and found.series.rules == series.rules:
                return None
            return found.change(series=series, work=work, fault=None)

        return self._events.change_entry(entry, decide)

    def _put_unjudged(
        self, entry: Entry, reason: str, event: EventRecord, *, fault: str | None = None
    ) -> Entry:
        reason = reason[:_MAX_REASON].rstrip(".")
        verdict = VerdictRecord(
            at=self._clock(),
            phase=ARRIVAL,
            outcome=NOT_JUDGED,
            sentence=add_waivers(tell_not_judged(reason), entry.waived_columns),
            reason=reason,
            baseline=event.chosen_baseline,
            waived_columns=entry.waived_columns,
        )

        def decide(found: Entry) -> Entry | None:
            last = found.verdict
            if last is not None and last.outcome != NOT_JUDGED:
                # It was judged, and stays so: what is missing now was there then.
                return None
            if last is not None and last.reason == reason and found.fault == fault:
                return None
            return found.change(verdicts=found.add_verdict(verdict), fault=fault)

        return self._events.change_entry(entry, decide)

    def _put_answer(
        self, entry: Entry, answer: VerdictAnswer, *, phase: str, ground: _Ground, work: str
    ) -> Entry:
        baseline = ground.baseline
        against = None if ground.is_flat else _read_seed_count(ground.series)
        said, figures = answer.verdicts.get(entry.label), answer.scores.get(entry.label)
        if said is None or figures is None:
            raise NoVerdict(f"the judge said nothing of {entry.label}")
        edge = Edge.load(said.edge.model_dump()) if said.edge else None
        figures_beside = answer.beside.get(entry.label)
        beside = (
            Beside.load({**figures_beside.model_dump(), "baseline": baseline})
            if figures_beside
            else None
        )
        now = self._clock()

        def decide(found: Entry) -> Entry | None:
            if any(each.work == work for each in found.verdicts):
                return None
            last = found.verdict
            is_kept = said.sentence is None
            if is_kept and last is None:
                return None
            verdict = VerdictRecord(
                at=now,
                phase=phase,
                outcome=said.outcome,
                # What closing has not raised stays what it was, by the rules of its time.
                sentence=last.sentence
                if is_kept and last
                else add_waivers(str(said.sentence), found.waived_columns),
                reason=said.reason,
                baseline=last.baseline if is_kept and last else baseline,
                edge=last.edge if is_kept and last else edge,
                rules_version=last.rules_version if is_kept and last else answer.rules_version,
                work=work,
                seed_count=_read_seed_count(found.series),
                baseline_seed_count=last.baseline_seed_count if is_kept and last else against,
                beside=beside,
                waived_columns=found.waived_columns,
            )
            return found.change(
                verdicts=found.add_verdict(verdict),
                score=figures.score,
                net_sharpe=figures.net_sharpe,
            )

        return self._events.change_entry(entry, decide)

    def _put_references(self, event: EventRecord, answer: VerdictAnswer) -> None:
        names = {name: f"#{name}" for name in (FLAT, INDEX, BASELINE)}
        found = {
            name: Figures.load(answer.scores[key].model_dump())
            for name, key in names.items()
            if key in answer.scores
        }

        def decide(record: EventRecord) -> EventRecord | None:
            return None if record.references == found else record.change(references=found)

        self._events.change_event(event, decide)


def _count_seeds(tasks: Sequence[Task]) -> int:
    """Return with how many seeds trainings of one schedule were asked for."""
    return tasks[0].spec.schedule.seed_count


def _list_folds(tasks: Sequence[Task]) -> tuple[date, ...]:
    """Return in which folds trainings of one schedule were asked for, by their first days."""
    return tasks[0].spec.schedule.folds


def _read_seed_count(series: Series | None) -> int | None:
    # Of before one could name several, it is of one.
    return (series.seed_count or 1) if series else None


def find_verdict(events: EventStore, event: str, key: str) -> VerdictRecord | None:
    """Return what holds of an entry; ``None`` if nothing was said of it, or it makes no sense."""
    try:
        entry = events.find_entry(event, key)
    except RecordUnreadable as error:
        log.error("%s", error)
        return None
    return entry.verdict if entry else None
