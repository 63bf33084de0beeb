"""Events: their files, their doors, and what tells one try from another."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from touchstone.core.event_rules import (
    build_try,
    build_work_digest,
    find_fixed_change,
    find_mismatch,
    find_objection,
    find_other_seeds,
    is_judged_row,
)
from touchstone.core.events import BUILT_IN, Event, check_event_name, parse_event
from touchstone.core.schedule import Schedule
from touchstone_agent.protocol.errors import ConfigurationError

NOW = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
DOCS = Path(__file__).parents[3] / "docs" / "events.md"
SMALL = 'schema_version = 1\ntitle = "Sharpe"\n'


def object_to(event: Event, *, user="ann", uses=(), closed_at=None, now=NOW):
    return find_objection(event, "sp500", user=user, uses=uses, closed_at=closed_at, now=now)


def test_the_example_of_the_documentation_is_an_event():
    text = re.search(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[1]

    event = parse_event(text, name="sp500-2027")

    # It shows every key that there is.
    assert None not in event.model_dump().values()
    keys = set(re.findall(r"^(\w+) =", text, re.MULTILINE))
    tables = {"data": "name", "rows": "", "judging": "", "quota": ""}
    known = set(Event.model_fields) - set(tables)
    for table in tables:
        kind = Event.model_fields[table].annotation
        kind = kind if hasattr(kind, "model_fields") else kind.__args__[0]
        known |= set(kind.model_fields)
    assert keys == known


def test_every_field_says_in_a_form_what_it_is():
    schema = Event.model_json_schema()
    models = [schema, *schema["$defs"].values()]
    for model in models:
        for name, field in model["properties"].items():
            if name != "schema_version" and "$ref" not in field and name != "quota":
                assert {"title", "description"} <= field.keys(), name


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("title = 'x'", "schema_version: is missing"),
        ("schema_version = 2\ntitle = 'x'", "schema_version: 2"),
        ("schema_version = 1", "title: is missing"),
        (SMALL + "tittle = 'x'", "tittle: unknown key; did you mean title?"),
        (SMALL + "[judging]\nbaselin = 'flat'", "judging.baselin: unknown key"),
        (SMALL + "[judging]\nbaseline = 'a/b'", "judging.baseline: 'a/b' is neither"),
        (SMALL + "[judging]\nintervals = [0]", "judging.intervals.0: 0 is below 1"),
        (SMALL + "[judging]\nintervals = [5, 5]", "judging.intervals: 5 stands there twice"),
        (SMALL + "[judging]\narrivals = 0", "judging.arrivals: 0 is below 1"),
        (SMALL + "[judging]\narrivals = 1e9", "judging.arrivals: 1000000000.0 is not a whole"),
        (SMALL + "[judging]\nbars_per_year = nan", "judging.bars_per_year"),
        (SMALL + "[judging]\nseeds = ['1']", "judging.seeds.0: '1' is not a whole number"),
        (SMALL + "opens_at = 2026-12-01T00:00:00", "opens_at: has no zone"),
        (SMALL + "opens_at = 'soon'", "opens_at"),
        (SMALL + "participants = 'ann'", "participants: 'ann' is not a list"),
        (SMALL + "participants = ['']", "participants.0: is empty"),
        (SMALL + "participants = ['a\\u001b[2J']".replace("'", '"'), "participants.0"),
        (SMALL + 'problem = "\\u001b[2J"', "problem: has characters that cannot be printed"),
        (SMALL + "[quota]\nsubmissions = 0", "quota.submissions: 0 is below 1"),
        (SMALL + "[quota]\nhours = 1", "quota.submissions: is missing"),
        (SMALL + "share = 'scores'", "share"),
        (SMALL + "[rows]\ntest_from = 2020-01-01\ntest_to = 2019-01-01", "rows: test_to is before"),
        (
            SMALL + "opens_at = 2026-12-02T00:00:00Z\ncloses_at = 2026-12-01T00:00:00Z",
            "closes_at is not after opens_at",
        ),
        (SMALL + "rows = 5", "rows"),
        (SMALL + f"problem = '{'x' * 5000}'", "line 3 has"),
        ("x" * 300_000, "300000 characters"),
        ("[" * 100_000, "characters"),
        ("not toml", "not TOML"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_event_and_key(text, told):
    with pytest.raises(ConfigurationError) as caught:
        parse_event(text, name="sp500")

    assert str(caught.value).startswith("event sp500: ")
    assert told in str(caught.value)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", "a--b", "-a", "a" * 41, "#events", "ä"])
def test_a_name_that_could_be_a_path_or_a_key_is_none(name):
    with pytest.raises(ConfigurationError, match="cannot be an event's name"):
        check_event_name(name)
    with pytest.raises(ConfigurationError, match="cannot be an event's name"):
        parse_event(SMALL, name=name)


def test_the_built_in_event_takes_everybody_at_any_time():
    uses = [NOW - HOUR] * 100

    assert object_to(BUILT_IN, user="whoever", uses=uses) is None
    assert BUILT_IN.judging.baseline is None


def test_who_is_early_or_late_is_told_when():
    event = BUILT_IN.model_copy(update={"opens_at": NOW, "closes_at": NOW + HOUR})

    assert "opens at 2026-12-01 12:00 UTC" in object_to(event, now=NOW - HOUR)
    assert object_to(event) is None
    assert "closed since 2026-12-01 13:00 UTC" in object_to(event, now=NOW + HOUR)


def test_what_an_admin_has_closed_takes_nothing_though_its_time_is_not_over():
    event = BUILT_IN.model_copy(update={"closes_at": NOW + HOUR})

    assert "closed since 2026-12-01 11:00 UTC" in object_to(event, closed_at=NOW - HOUR)


def test_who_does_not_take_part_is_told_so_whatever_the_time():
    event = BUILT_IN.model_copy(update={"participants": ("ann",), "opens_at": NOW + HOUR})

    assert "ben does not take part" in object_to(event, user="ben")
    assert "opens at" in object_to(event)


def test_a_used_quota_tells_when_the_next_one_fits():
    event = parse_event(SMALL + "[quota]\nsubmissions = 2\nhours = 24", name="sp500")
    uses = [NOW - 30 * HOUR, NOW - 20 * HOUR, NOW - 2 * HOUR]

    assert "the next one may come at 2026-12-01 16:00 UTC" in object_to(event, uses=uses)
    # The oldest of the two has left the window.
    assert object_to(event, uses=uses, now=NOW + 4 * HOUR) is None


def test_a_quota_that_was_lowered_waits_until_enough_have_left_the_window():
    event = parse_event(SMALL + "[quota]\nsubmissions = 1\nhours = 24", name="sp500")
    uses = [NOW - 20 * HOUR, NOW - 2 * HOUR]

    assert "at 2026-12-02 10:00 UTC" in object_to(event, uses=uses)


def test_a_schedule_that_an_event_does_not_allow_names_its_field():
    event = parse_event(SMALL + "[judging]\nintervals = [1, 5]\nseeds = [3]", name="sp500")

    assert find_mismatch(event, "x", Schedule(intervals=[5, 1], seed=3)) is None
    assert find_mismatch(event, "x", Schedule(intervals=[1], seed=3)).startswith("intervals: ")
    assert find_mismatch(event, "x", Schedule(intervals=[1, 5])).startswith("seed: ")


def test_rows_outside_of_an_events_are_none_of_its():
    text = SMALL + "[rows]\ntest_from = 2020-01-01\ntest_to = 2020-12-31"
    event = parse_event(text, name="sp500")

    days = ("2019-12-31", "2020-01-01", "2020-12-31", "2021-01-01")
    found = [is_judged_row(event, f"{day}T00:00:00+00:00") for day in days]
    assert found == [False, True, True, False]
    assert is_judged_row(BUILT_IN, "1990-01-01T00:00:00+00:00")


def test_what_verdicts_rest_on_is_told_when_it_changes():
    before = parse_event(SMALL, name="sp500")

    assert find_fixed_change(before, parse_event(SMALL + "problem = 'x'", name="x")) is None
    rows = parse_event(SMALL + "[rows]\nclosed_from = 2020-01-01", name="x")
    assert find_fixed_change(before, rows) == "rows"
    arrivals = parse_event(SMALL + "[judging]\narrivals = 7\nbaseline = 'flat'", name="x")
    assert find_fixed_change(before, arrivals) == "judging.arrivals"


def test_another_seed_is_the_same_work_and_another_try():
    one, two = Schedule(intervals=[1, 5], seed=1), Schedule(intervals=[5, 1], seed=2)
    common = {"system": "feature_set", "content_sha256": "a", "checkout": None}

    assert build_work_digest(schedule=one, **common) == build_work_digest(schedule=two, **common)
    assert build_try("run", one) != build_try("run", two)
    assert build_try("run", one) != build_try("other", one)
    other = {**common, "content_sha256": "b"}
    assert build_work_digest(schedule=one, **common) != build_work_digest(schedule=one, **other)


def test_an_event_fixes_the_number_of_seeds():
    event = parse_event(SMALL + "[judging]\nseed_count = 3", name="x")

    assert find_mismatch(event, "x", Schedule(intervals=[1], seed=9, seed_count=3)) is None
    assert find_mismatch(event, "x", Schedule(intervals=[1])) == (
        "seed_count: the event 'x' is judged with 3 seeds; give exactly 3"
    )
    assert find_other_seeds(event, 3) is None
    assert find_other_seeds(event, 1) == (
        "other seeds: it was trained with 1, and the event is judged with 3"
    )
    assert find_other_seeds(BUILT_IN, 7) is None
    single = parse_event(SMALL + "[judging]\nseed_count = 1", name="x")
    assert "with a single seed" in find_mismatch(single, "x", Schedule(intervals=[1], seed_count=2))


def test_every_seed_of_a_schedule_is_one_that_its_event_takes():
    event = parse_event(SMALL + "[judging]\nseeds = [0, 1, 2, 9]", name="x")

    for seed, count in ((0, 1), (0, 3), (1, 2), (9, 1)):
        schedule = Schedule(intervals=[1], seed=seed, seed_count=count)
        assert find_mismatch(event, "x", schedule) is None
    for seed, count in ((1, 3), (9, 2), (3, 1)):
        schedule = Schedule(intervals=[1], seed=seed, seed_count=count)
        assert find_mismatch(event, "x", schedule).startswith("seed: the event 'x' takes the seeds")
    told = find_mismatch(event, "x", Schedule(intervals=[1], seed=1, seed_count=3))
    assert told.endswith("0, 1, 2, 9 only, and not 1 to 3")


@pytest.mark.parametrize(
    ("judging", "told"),
    [
        ("seed_count = 0", "judging.seed_count: "),
        ("seed_count = 11", "judging.seed_count: "),
        ("seed_count = '3'", "judging.seed_count: '3' is not a whole number"),
        ("seeds = [4, 6]\nseed_count = 2", "no 2 in a row; write seeds = [4, 5]"),
    ],
)
def test_a_number_of_seeds_that_nobody_could_train_is_refused(judging, told):
    with pytest.raises(ConfigurationError) as refused:
        parse_event(SMALL + f"[judging]\n{judging}", name="x")
    assert told in str(refused.value)


def test_an_event_without_a_number_of_seeds_is_written_as_before_there_was_one():
    event = parse_event(SMALL, name="x")

    assert "seed_count" not in event.model_dump(mode="json")["judging"]
    fixed = parse_event(SMALL + "[judging]\nseed_count = 3", name="x")
    assert fixed.model_dump(mode="json")["judging"]["seed_count"] == 3
    assert fixed.digest != event.digest
    assert find_fixed_change(event, fixed) == "judging.seed_count"


def test_another_number_of_seeds_is_the_same_work():
    common = {"system": "feature_set", "content_sha256": "a", "checkout": None}
    one, three = Schedule(intervals=[1]), Schedule(intervals=[1], seed_count=3)

    assert build_work_digest(schedule=one, **common) == build_work_digest(schedule=three, **common)
    assert build_try("run", one) != build_try("run", three)
