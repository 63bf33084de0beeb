"""What an event takes, refuses and fixes of a submission. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime, timedelta

from pydantic import (
    ValidationError,
)

from touchstone.core.data_sets import (
    CANNED,
    CANNED_BARS,
    CANNED_FIRST,
    CANNED_LAST,
    DataSet,
)
from touchstone.core.documents import explain
from touchstone.core.events import DEFAULT, KNOWN_KEYS, NO_FOLDS_THERE, Event, Rows
from touchstone.core.folds import (
    Fold,
    build_folds,
    find_fold_fault,
    tell_days,
)
from touchstone.core.judging_rules import RULES
from touchstone.core.schedule import (
    Schedule,
)
from touchstone.core.waivers import tell_columns
from touchstone_agent.protocol.errors import ConfigurationError


def find_objection(
    event: Event,
    name: str,
    *,
    user: str,
    uses: Collection[datetime],
    closed_at: datetime | None,
    now: datetime,
) -> str | None:
    """
    Say why an event does not take a submission now, and from when on it does; ``None`` if it does.

    :param user: Whose submission it is.
    :param uses: When this user has come, as far as it counts.
    :param closed_at: When an admin has closed the event; ``None`` if nobody has.
    :param now: The time, UTC.
    """
    if event.participants and user not in event.participants:
        return f"{user} does not take part in the event {name!r}; an admin may add them"
    if closed_at is not None or (event.closes_at is not None and now >= event.closes_at):
        ended = min(filter(None, (closed_at, event.closes_at)))
        return f"the event {name!r} has been closed since {_tell(ended)}; it opens no more"
    if event.opens_at is not None and now < event.opens_at:
        return f"the event {name!r} opens at {_tell(event.opens_at)}"
    if event.quota is None:
        return None
    window = timedelta(hours=event.quota.hours)
    recent = sorted(at for at in uses if at > now - window)
    if len(recent) < event.quota.submissions:
        return None
    # When so many have left the window that one more fits.
    allowed = recent[len(recent) - event.quota.submissions] + window
    return (
        f"{user} has used the quota of the event {name!r}: {event.quota.submissions} in "
        f"{event.quota.hours:g} hours, cancelled and deleted ones included; the next one may come "
        f"at {_tell(allowed)}"
    )


def find_mismatch(event: Event, name: str, schedule: Schedule) -> str | None:
    """Return which field of a schedule an event does not allow, and why; ``None`` for none."""
    wanted = event.judging.intervals
    if wanted and set(schedule.intervals) != set(wanted):
        told = ",".join(str(each) for each in wanted)
        return f"intervals: the event {name!r} is judged over {told}; give exactly these"
    count = event.judging.seed_count
    if count is not None and schedule.seed_count != count:
        told = "a single seed" if count == 1 else f"{count} seeds"
        return f"seed_count: the event {name!r} is judged with {told}; give exactly {count}"
    seeds = event.judging.seeds
    if seeds and schedule.seed not in event.judging.list_first_seeds(schedule.seed_count):
        told = ", ".join(str(each) for each in seeds)
        last = schedule.seed + schedule.seed_count - 1
        several = f", and not {schedule.seed} to {last}" if schedule.seed_count > 1 else ""
        return f"seed: the event {name!r} takes the seeds {told} only{several}"
    return _find_fold_mismatch(event, name, schedule.folds)


def _find_fold_mismatch(event: Event, name: str, folds: Sequence[date]) -> str | None:
    wanted = event.rows.folds
    if wanted is not None and tuple(folds) != wanted:
        return f"folds: the event {name!r} is judged on the folds {tell_days(wanted)}; give these"
    if not folds:
        return None
    if event.shares_scores_only:
        return f"folds: {NO_FOLDS_THERE}; leave them out"
    fault = _find_fold_fault(event, folds)
    return f"folds: {fault}" if fault else None


def _find_fold_fault(event: Event, folds: Sequence[date]) -> str | None:
    """
    Say why folds cannot be trained on an event's data; ``None`` if nothing speaks for that.

    :param event: With all that follows from its data set.
    """
    rows = event.rows
    is_canned = event.data.name == CANNED
    if rows.test_to is not None and rows.test_to < folds[-1]:
        return (
            f"the last one begins on {folds[-1]}, and the event's rows end on {rows.test_to}; "
            "leave it out"
        )
    return find_fold_fault(
        build_event_folds(event, folds),
        bars_per_year=event.judging.bars_per_year or CANNED_BARS,
        first_day=CANNED_FIRST if is_canned else None,
        last_day=CANNED_LAST if is_canned else rows.test_to,
        # Of the built-in data validations see all rows.
        open_until=None if is_canned else rows.validation_from,
    )


def build_event_folds(event: Event, days: Sequence[date]) -> tuple[Fold, ...]:
    """Return the folds of a training in an event, by the first judged day of each."""
    rows = event.rows
    if event.data.name == CANNED or rows.validation_from is None or rows.test_from is None:
        # The event's own days of built-in data only choose among what is judged.
        rules = RULES
        return build_folds(
            days,
            validation_from=rules.validation_from,
            test_from=rules.test_from,
            test_to=rules.test_to,
        )
    return build_folds(
        days,
        validation_from=rows.validation_from,
        test_from=rows.test_from,
        test_to=rows.test_to,
    )


def find_other_folds(event: Event, folds: Sequence[date]) -> str | None:
    """Return why something trained in such folds is not judged; ``None`` if it is."""
    wanted = event.rows.folds
    if wanted is None or tuple(folds) == wanted:
        return None
    return (
        f"other rows: it was trained on the folds {tell_days(folds)}, and the event is judged on "
        f"{tell_days(wanted)}"
    )


def takes_waivers(event: Event, name: str) -> bool:
    """Tell whether an event takes submissions with waived columns."""
    return name == DEFAULT if event.waivers is None else event.waivers


def find_refused_waivers(event: Event, name: str, waived: Sequence[str]) -> str | None:
    """
    Return why an event does not take a submission for its waived columns; ``None`` if it does.

    :param waived: The columns.
    """
    if not waived or takes_waivers(event, name):
        return None
    return (
        f"waived_columns: the event {name!r} takes no submission with waived columns, and "
        f"{tell_columns(waived)} {'is' if len(waived) == 1 else 'are'}; submit it without them"
    )


def find_other_seeds(event: Event, seed_count: int) -> str | None:
    """Return why something trained with so many seeds is not judged; ``None`` if it is."""
    wanted = event.judging.seed_count
    if wanted is None or seed_count == wanted:
        return None
    return f"other seeds: it was trained with {seed_count}, and the event is judged with {wanted}"


def is_judged_row(event: Event, time: str) -> bool:
    """
    Tell whether a row is one of an event's.

    :param time: When, ISO 8601 in UTC.
    """
    rows, day = event.rows, time[:10]
    return (rows.test_from is None or rows.test_from.isoformat() <= day) and (
        rows.test_to is None or day <= rows.test_to.isoformat()
    )


def settle_event(
    event: Event, name: str, data: DataSet | None, *, is_private: bool = False
) -> Event:
    """
    Return an event with all that follows from its data set: version, rows, bars a year.

    :param event: As its file has it.
    :param data: The data set; ``None`` for the built-in one.
    :param is_private: Whether the data set is at the servers that hold it alone.
    :raises ConfigurationError: Naming the key that does not go with the data set.
    """
    what, rows = f"event {name}", event.rows
    _check_share(what, event, data, is_private=is_private)
    if data is None:
        for key, value in (
            ("data.version", event.data.version),
            ("rows.validation_from", rows.validation_from),
        ):
            if value is not None:
                raise ConfigurationError(
                    f"{what}: {key}: the data set {CANNED!r} is built in and has but one; "
                    "leave it out"
                )
    bars = CANNED_BARS if data is None else data.bars_per_year
    asked = event.judging.bars_per_year
    if asked is not None and asked != bars:
        raise ConfigurationError(
            f"{what}: judging.bars_per_year: {asked:g} does not go with {event.data.name!r}, whose "
            f"calendar has {bars}; leave it out"
        )
    judging = event.judging.model_copy(update={"bars_per_year": float(bars)})
    settled = event.model_copy(update={"judging": judging})
    if data is None:
        return _check_settled_folds(what, settled)
    first = data.rows.validation_from
    if rows.validation_from is not None and rows.validation_from < first:
        # A validation shows its submitter the rows before the data set's own first day.
        raise ConfigurationError(
            f"{what}: rows.validation_from: {rows.validation_from} is before {first}, up to which "
            f"validations may see {data.label}; name that day or a later one, or add a version of "
            "the data set with an earlier one"
        )
    found = {
        "validation_from": rows.validation_from or first,
        "test_from": rows.test_from or (rows.folds[0] if rows.folds else data.rows.test_from),
        "test_to": rows.test_to,
        "folds": rows.folds,
        "closed_from": rows.closed_from,
    }
    try:
        settled_rows = Rows.model_validate(found)
    except ValidationError as error:
        raise ConfigurationError(
            f"{what}: rows: {explain(error, known=KNOWN_KEYS)}; {data.label} has validation_from "
            f"{first} and test_from {data.rows.test_from}"
        ) from error
    pinned = event.data.model_copy(update={"version": data.version})
    return _check_settled_folds(
        what, settled.model_copy(update={"data": pinned, "rows": settled_rows})
    )


def _check_settled_folds(what: str, event: Event) -> Event:
    """Return an event whose folds its data set can hold."""
    fault = _find_fold_fault(event, event.rows.folds) if event.rows.folds else None
    if fault is not None:
        raise ConfigurationError(f"{what}: rows.folds: {fault}")
    return event


def _check_share(what: str, event: Event, data: DataSet | None, *, is_private: bool) -> None:
    """Refuse an event that would share more of its data than those allow, or cannot share less."""
    if is_private and not event.shares_scores_only:
        raise ConfigurationError(
            f"{what}: share: {event.data.name!r} is private, so no prediction leaves the servers "
            'that hold it; write share = "scores"'
        )
    if not event.shares_scores_only:
        return
    if not is_private:
        raise ConfigurationError(
            f"{what}: share: {event.data.name!r} is not private: servers fetch it, and everybody "
            'has it by now; write share = "predictions", or name a data set that was added with '
            "`touchstone data add DIR --private`"
        )
    for key in ("validation_from", "test_from"):
        asked = getattr(event.rows, key)
        if data is not None and asked is not None and asked != getattr(data.rows, key):
            raise ConfigurationError(
                f"{what}: rows.{key}: the servers that hold {data.label} judge its own rows alone, "
                f"from {getattr(data.rows, key)}; leave it out"
            )


_FIXED = ("intervals", "seed_count", "arrivals", "bars_per_year")


def find_fixed_change(before: Event, after: Event) -> str | None:
    """Return what may not change once rows were judged, and does; ``None`` for nothing."""
    # Without a version it is the built-in one, whatever people have called it.
    if (before.data.version or after.data.version) and before.data != after.data:
        return "data"
    if before.rows != after.rows:
        return "rows"
    changed = (
        name for name in _FIXED if getattr(before.judging, name) != getattr(after.judging, name)
    )
    name = next(changed, None)
    return f"judging.{name}" if name else None


def is_hidden(event: Event, *, closed_at: datetime | None) -> bool:
    """Tell whether nothing may be told yet of what is judged."""
    return event.rows.closed_from is not None and closed_at is None


def build_try(run_id: str, schedule: Schedule) -> str:
    """Return what tells one try of a submission from another: its run, and how it trains."""
    text = json.dumps([run_id, schedule.model_dump(mode="json")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


_WORK = ("config_file", "fetched_data_end_to", "config_overrides", "passthrough_args")


def build_work_digest(
    *, system: str | None, content_sha256: str | None, checkout: str | None, schedule: Schedule
) -> str:
    """
    Return a digest that is the same for the same idea: content and configuration, not the seeds.

    :param checkout: Digest of the trainer's own branch; ``None`` for the image's trainer.
    """
    asked = schedule.model_dump(mode="json", include=set(_WORK))
    work = [system, content_sha256, checkout, sorted(schedule.intervals), asked]
    return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()


def build_seed(name: str, baseline: str) -> int:
    """Return the seed of all drawing in an event: the same question gives the same answer."""
    return int(hashlib.sha256(f"{name} {baseline}".encode()).hexdigest()[:8], 16)


def _tell(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
