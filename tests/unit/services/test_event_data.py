"""Events that choose a data set: pinned, fixed once judged, the same for all that is compared."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from fakes.data_sets import add, build_text
from fakes.events import EventWorld, FakeJudge, build_net, build_series
from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.tasks import build_spec, change_fields
from touchstone.core.events import parse_event
from touchstone.core.judging import RULES, build_rules
from touchstone.core.records.events import EventRecord
from touchstone.core.records.judged import Judged, JudgedStatus, JudgedThere
from touchstone.core.verdicts import build_board
from touchstone.services.data_sets import DataKeeper, DataUnusable, fetch_data
from touchstone.services.events import show_event
from touchstone.settings import Settings
from touchstone.stores.parts import Parts
from touchstone_agent.protocol.errors import ConfigurationError, TransientError

SMALL = 'schema_version = 1\ntitle = "Sharpe"\n'
OWN = "[data]\nname = 'eurusd-hourly'\n"
SETTINGS = Settings()


@pytest.fixture
def objects():
    return FakeObjectStore()


@pytest.fixture
def world(objects):
    records = FakeRecordStore(SETTINGS)
    return EventWorld(records, Parts(objects, "content"), FakeJudge(), SETTINGS)


@pytest.fixture
def add_version(world, objects, tmp_path):
    def add_version(version="2018-02", **changes):
        world.now += timedelta(days=1)
        folder = tmp_path / version
        return add(
            world.records, objects, SETTINGS, folder, at=world.now, version=version, **changes
        )

    return add_version


def apply(world, text, name="default"):
    event = parse_event(SMALL + text, name=name)
    return world.keeper.apply(name, event, by="admin")


def put_data(world, submission_id, *intervals, data):
    """Put on record that trainings were on a data set."""
    for interval in intervals:
        spec = build_spec(
            submission_id=submission_id, task_id=f"i{interval}", interval=interval, data=data
        )
        change_fields(
            world.records, submission_id, spec.task_id, config=spec.model_dump(mode="json")
        )


def train(world, submission_id, net, data, **fields):
    series = build_series(net, begin=datetime(2017, 12, 1, tzinfo=UTC))
    entry = world.train(submission_id, net, series=series, **fields)
    put_data(world, submission_id, 1, 5, data=data)
    return entry


# --- what a file says, and what is pinned --------------------------------------------------------


def test_an_event_has_rows_and_bars_of_its_data_set(world, add_version):
    record = add_version()

    event = apply(world, OWN).event.definition

    assert (event.data.name, event.data.version) == ("eurusd-hourly", "2018-02")
    assert (event.rows.validation_from, event.rows.test_from) == (
        date(2017, 10, 1),
        date(2017, 12, 1),
    )
    assert event.judging.bars_per_year == 6240
    data = world.keeper.find_data("default")
    assert (data.digest, data.sha256, data.size) == (record.digest, record.sha256, record.size)
    assert show_event(world.events.get_event("default"))["data"]["version"] == "2018-02"


def test_an_events_own_rows_come_before_those_of_the_data_set(world, add_version):
    add_version()

    apply(
        world,
        OWN + "[rows]\nvalidation_from = 2017-11-01\ntest_from = 2018-01-01\ntest_to = 2018-01-31",
    )

    data = world.keeper.find_data("default")
    assert (data.validation_from, data.test_from, data.test_to) == (
        date(2017, 11, 1),
        date(2018, 1, 1),
        date(2018, 1, 31),
    )
    rules = build_rules(data)
    assert (rules.data_name, rules.data_sha256) == ("eurusd-hourly 2018-02", data.digest)
    assert (rules.test_to, rules.bars_per_year) == (date(2018, 1, 31), 6240)


def test_the_newest_version_is_pinned_and_stays_whatever_comes_later(world, add_version):
    add_version("1")
    add_version("2")
    assert apply(world, OWN).event.definition.data.version == "2"
    add_version("3")

    assert not apply(world, OWN).is_changed
    changed = apply(world, "problem = 'p'\n" + OWN)

    assert changed.is_changed
    assert changed.event.definition.data.version == "2"
    # Another one must be named.
    assert apply(world, OWN + "version = '3'").event.definition.data.version == "3"
    assert world.keeper.find_data("default").version == "3"


def test_the_built_in_data_set_is_as_ever(world):
    event = apply(world, "[data]\nname = 'sp500'\n[rows]\ntest_from = 2015-01-01").event

    assert event.definition.data.version is None
    assert event.definition.judging.bars_per_year == 252
    assert world.keeper.find_data("default") is None
    assert build_rules(None) is RULES


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "[data]\nname = 'gold'",
            "data: there is no data set 'gold'; there are eurusd-hourly, sp500",
        ),
        ("[data]\nname = '../x'", "data: there is no data set '../x'; there are"),
        (OWN + "version = '9'", "data: 'eurusd-hourly' has no version '9'; there are 2018-02"),
        (
            OWN + "[judging]\nbars_per_year = 252",
            "judging.bars_per_year: 252 does not go with 'eurusd-hourly', whose calendar has 6240",
        ),
        ("[judging]\nbars_per_year = 365", "judging.bars_per_year: 365 does not go with 'sp500'"),
        ("[data]\nversion = '1'", "data.version: the data set 'sp500' is built in"),
        ("[rows]\nvalidation_from = 2012-01-01", "rows.validation_from: the data set 'sp500'"),
        (OWN + "[rows]\ntest_from = 2017-09-01", "rows: validation_from is not before test_from"),
        (OWN + "[rows]\ntest_to = 2017-09-01", "rows: test_to is before test_from"),
        (
            OWN + "[rows]\nvalidation_from = 2017-09-30",
            "rows.validation_from: 2017-09-30 is before 2017-10-01, up to which validations may",
        ),
        (OWN + "[rows]\nvalidation_from = 2018-01-01", "eurusd-hourly 2018-02 has validation_from"),
    ],
)
def test_what_does_not_go_with_the_data_is_refused_with_event_and_key(
    world, add_version, text, told
):
    add_version()

    with pytest.raises(ConfigurationError) as caught:
        apply(world, text, name="winter")

    assert str(caught.value).startswith("event winter: ")
    assert told in str(caught.value)


def test_the_bars_of_the_calendar_may_be_said(world, add_version):
    add_version()

    assert apply(world, OWN + "[judging]\nbars_per_year = 6240").is_changed


def test_a_data_set_whose_archive_is_missing_is_nobodys(world, objects, add_version, monkeypatch):
    def fail(*arguments, **options):
        raise TransientError("away")

    monkeypatch.setattr(objects, "put_new", fail)
    with pytest.raises(TransientError):
        add_version()

    with pytest.raises(ConfigurationError, match="was not stored to its end"):
        apply(world, OWN)


def test_an_event_on_record_before_there_were_data_sets_is_read_and_goes_on(world):
    stored = {
        "schema_version": 1,
        "title": "Old",
        "data": {"name": "S&P 500, for people to read"},
        "rows": {"test_from": "2014-01-01", "test_to": None, "closed_from": None},
        "judging": {"bars_per_year": 260.0, "baseline": "flat"},
    }
    old = EventRecord.load({"entry": "old", "definition": stored, "digest": "x"})
    world.records.put_stored(SETTINGS.events_table, {**old.dump(), "version": 1})
    world.judge_again(world.train("s-1", build_net(2), event="old"))

    assert world.keeper.find_data("old") is None
    (question,) = world.judge._ask.questions
    assert question["bars_per_year"] == 260
    # Under the name that it has now the data are the same.
    with pytest.raises(ConfigurationError, match="bars_per_year: verdicts rest"):
        apply(
            world,
            "[data]\nname = 'sp500'\n[rows]\ntest_from = 2014-01-01\n[judging]\nbaseline = 'flat'",
            name="old",
        )


def test_data_stay_what_they_are_once_rows_were_judged(world, add_version):
    add_version("1")
    add_version("2")
    flat = "[judging]\nbaseline = 'flat'"
    apply(world, OWN + "version = '1'\n" + flat)
    # Nobody has come yet.
    apply(world, OWN + "version = '2'\n" + flat)
    entry = train(world, "s-1", build_net(2), world.keeper.find_data("default"))
    world.judge_again(entry)

    for text in (
        OWN + "version = '1'\n" + flat,
        flat,
        OWN + "version = '1'\n[quota]\nsubmissions=1",
    ):
        with pytest.raises(ConfigurationError, match="event default: data: verdicts rest on"):
            apply(world, text)
    with pytest.raises(ConfigurationError, match="event default: rows: verdicts rest on"):
        apply(world, OWN + "[rows]\nvalidation_from = 2017-11-01\n" + flat)
    assert apply(world, "problem = 'p'\n" + OWN + flat).is_changed


# --- what is compared ----------------------------------------------------------------------------


def test_an_entry_on_the_events_data_is_judged(world, add_version):
    add_version()
    apply(world, OWN + "[judging]\nbaseline = 'flat'")

    entry = train(world, "s-1", build_net(2), world.keeper.find_data("default"))

    assert world.judge_again(entry).verdict.outcome == "not distinguishable"


@pytest.mark.parametrize("trained_on", ["sp500", "version 1", "other rows"])
def test_an_entry_on_other_data_is_not_judged(world, add_version, trained_on):
    add_version("1", test_from="2017-12-24")
    apply(world, OWN + "[judging]\nbaseline = 'flat'")
    old = world.keeper.find_data("default")
    add_version("2", test_from="2017-12-24")
    data = {
        "sp500": None,
        "version 1": old,
        "other rows": old.model_copy(update={"test_to": date(2018, 1, 1)}),
    }[trained_on]
    entry = train(world, "s-1", build_net(2), data)
    version = "1" if trained_on == "other rows" else "2"
    # The event was changed while it trained.
    apply(world, OWN + f"version = '{version}'\n[judging]\nbaseline = 'flat'")

    judged = world.judge_again(entry)

    assert judged.verdict.outcome == "not judged"
    assert judged.verdict.reason.startswith("other data: i1 was trained on ")
    assert f"the event is on eurusd-hourly {version}, rows from" in judged.verdict.reason
    # It is no entry that rows are fixed by, or that anybody counts.
    assert judged.series is None


def test_an_entry_on_its_own_data_is_none_of_the_built_in_ones(world, add_version):
    add_version()
    apply(world, OWN, name="own")
    data = world.keeper.find_data("own")
    world.keeper.set_baseline("default", "flat", by="admin")

    judged = world.judge_again(train(world, "s-1", build_net(2), data))

    assert "other data: i1 was trained on eurusd-hourly 2018-02" in judged.verdict.reason
    assert judged.verdict.reason.endswith("the event is on sp500")


def test_a_baseline_on_other_data_compares_with_nothing(world, add_version):
    add_version()
    world.train("ref", build_net(1), event="default")
    apply(world, OWN, name="own")
    world.keeper.set_baseline("own", "ref", by="admin")
    entry = train(world, "s-1", build_net(2), world.keeper.find_data("own"), event="own")

    judged = world.judge_again(entry)

    assert judged.verdict.outcome == "not judged"
    assert judged.verdict.reason.startswith("other data: the baseline's i1 was trained on sp500")
    assert world.judge._ask.questions == []


def test_the_file_of_the_documentation_and_its_data_set_go_together(world, add_version):
    import re
    from pathlib import Path

    page = Path(__file__).parents[3] / "docs" / "events.md"
    text = re.search(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[1]
    add_version()

    applied = world.keeper.apply("eurusd-2027", parse_event(text, name="x"), by="admin")

    assert applied.event.definition.data.version == "2018-02"


# --- data that stay at their servers -------------------------------------------------------------

PRIVATE = "share = 'scores'\n" + OWN + "[quota]\nsubmissions = 5\n"


@pytest.fixture
def private(world, objects):
    keeper = DataKeeper.build(world.records, objects, SETTINGS, lambda: world.now)
    return keeper.add_private(build_text(), "d" * 64, 10, by="admin").record


def put_figures(world, submission_id, *, score, is_judged=True):
    """Put on record that all trainings were judged at the server that holds the data."""
    data = world.keeper.find_data("default")
    for interval in (1, 5):
        spec = build_spec(
            submission_id=submission_id, task_id=f"i{interval}", interval=interval, data=data
        )
        judged = Judged(
            status=JudgedStatus.JUDGED if is_judged else JudgedStatus.NOT_JUDGED,
            reason=None if is_judged else "other rows (by the judge of rio)",
            metrics={"net_sharpe": score + interval} if is_judged else {},
            there=JudgedThere(server="rio", judge="1", active_sharpe=score),
        )
        change_fields(
            world.records,
            submission_id,
            spec.task_id,
            config=spec.model_dump(mode="json"),
            published={"judged": judged.dump(), "metrics": dict(judged.metrics)},
        )


def test_an_event_on_private_data_is_scored_by_its_servers_and_compares_nothing(world, private):
    apply(world, PRIVATE)
    assert world.keeper.find_data("default").is_private
    entry = world.train("s-1", build_net(1))
    put_figures(world, "s-1", score=0.5)

    after = world.judge_again(entry)

    assert (after.score, after.net_sharpe) == (0.5, 3.5)
    assert after.series is None
    assert after.verdict.outcome == "not judged"
    assert "stay at the server" in after.verdict.sentence
    # The first figures stay: a run that is cleared draws no second time.
    put_figures(world, "s-1", score=0.9)
    assert world.judge_again(entry).score == 0.5
    board = build_board(
        world.events.get_event("default"), world.events.list_entries("default").records
    )
    best = board["rows"][0]
    assert (best["name"], best["rank"]) == ("s-1", 1)


def test_one_that_was_not_judged_there_has_no_score(world, private):
    apply(world, PRIVATE)
    entry = world.train("s-1", build_net(1))
    put_figures(world, "s-1", score=0.5, is_judged=False)

    after = world.judge_again(entry)

    assert after.score is None
    assert "by the judge of rio" in after.verdict.reason


def test_such_an_event_has_no_baseline_and_closes_without_one(world, private):
    apply(world, PRIVATE)

    with pytest.raises(ConfigurationError, match="shares scores alone"):
        world.keeper.set_baseline("default", "flat", by="admin")
    closed = world.judge.close("default", by="admin")

    assert (closed.judged, closed.waiting) == ((), ())
    assert world.events.get_event("default").closed_at is not None


def test_what_was_scored_fixes_the_data_of_its_event(world, private, objects):
    apply(world, PRIVATE)
    entry = world.train("s-1", build_net(1))
    put_figures(world, "s-1", score=0.5)
    world.judge_again(entry)
    keeper = DataKeeper.build(world.records, objects, SETTINGS, lambda: world.now)
    keeper.add_private(build_text(version="2"), "e" * 64, 10, by="admin")

    with pytest.raises(ConfigurationError, match="verdicts rest on"):
        apply(world, PRIVATE.replace("[quota]", "version = '2'\n[quota]"))


def test_private_data_are_fetched_by_nobody(world, private, objects):
    apply(world, PRIVATE)

    with pytest.raises(DataUnusable, match="is private"):
        fetch_data(objects, SETTINGS, world.keeper.find_data("default"))
