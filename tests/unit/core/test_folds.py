"""Forward folds: how people ask for them, which rows each has, and what a task gets of it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from pydantic import ValidationError

from fakes.tasks import build_spec, build_task
from touchstone.core.conf import build_conf, parse_conf
from touchstone.core.data_sets import PinnedData
from touchstone.core.durations import DurationKey, History, describe_task
from touchstone.core.event_rules import (
    build_try,
    build_work_digest,
    find_fixed_change,
    find_mismatch,
    find_other_folds,
    settle_event,
)
from touchstone.core.events import BUILT_IN, parse_event
from touchstone.core.folds import Fold, build_folds, find_fold_fault
from touchstone.core.judging_rules import RULES, build_rules
from touchstone.core.manifest import build_conf as build_job_conf
from touchstone.core.manifest import build_submission_id, parse_manifest
from touchstone.core.names import build_task_id, find_interval_id
from touchstone.core.replay import build_replay_schedule, build_replay_spec
from touchstone.core.results import ResultRefused, check_result
from touchstone.core.schedule import MAX_TRAININGS, Schedule
from touchstone.core.schedule_plan import PlannedSubmission, plan_schedule
from touchstone.core.tasks import (
    Replayed,
    TaskSpec,
    build_argv,
    build_training_specs,
    build_validation_spec,
)
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.protocol.messages import Limits, SlotClass

DAYS = ("2005-01-01", "2008-01-01", "2011-01-01", "2014-01-01", "2016-01-01")
FIRST_TWO = (date(2005, 1, 1), date(2008, 1, 1))
SMALL = 'schema_version = 1\ntitle = "Sharpe"\n'
NOW = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)
HOURLY = PinnedData(
    name="eurusd-hourly",
    version="2018-02",
    digest="e" * 64,
    sha256="f" * 64,
    size=11,
    validation_from=date(2017, 10, 1),
    test_from=date(2017, 12, 1),
    test_to=date(2018, 2, 7),
    bars_per_year=6240,
)


def make_trainings(data=None, **schedule):
    validation = build_validation_spec(
        "s-1",
        system="feature_set",
        image="trainer:1",
        content_sha256="a" * 64,
        content_size=9,
        limits=Limits(),
        data=data,
    )
    fields = {"intervals": "1,5", "folds": DAYS} | schedule
    return build_training_specs(validation, Schedule.model_validate(fields), limits=Limits())


# --- how people ask ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        ["2005-01-01", "2008-01-01"],
        ["2005-01-01, 2008-01-01"],
        "2005-01-01,2008-01-01",
        "2005-01-01,2008-01-01,",
        [date(2005, 1, 1), date(2008, 1, 1)],
    ],
)
def test_days_are_a_list_or_stand_on_one_line(given):
    assert Schedule(intervals=[5], folds=given).folds == FIRST_TWO


@pytest.mark.parametrize("given", [None, [], "", [""], " , "])
def test_no_days_are_no_folds(given):
    schedule = Schedule(intervals=[5], folds=given)

    assert schedule.folds == ()
    assert schedule.trainings == ((5, None),)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["2005-01-01"], "1 day; give 2 to 10, the first judged day of each fold"),
        ([f"{year}-01-01" for year in range(1900, 2000)], "100 days; give 2 to 10"),
        (["2008-01-01", "2005-01-01"], "2005-01-01 does not come after 2008-01-01"),
        (["2005-01-01", "2005-01-01"], "write the first judged day of each fold once"),
        (["2005", "2008"], "'2005' is no day; write it as 2005-01-01"),
        (["2005-02-30", "2008-01-01"], "'2005-02-30' is no day"),
        ([5, 6], "5 is no day"),
        ([True, False], "True is no day"),
        ([datetime(2005, 1, 1, tzinfo=UTC), "2008-01-01"], "is no day"),
        ({"2005-01-01": 1}, ""),
        (7, ""),
        (["0001-01-01", "2005-01-01"], "0001-01-01 is beyond all data"),
        (["2005-01-01; rm -rf /", "2008-01-01"], "is no day"),
    ],
)
def test_days_that_cannot_be_folds_are_refused_by_their_field(given, told):
    with pytest.raises(ConfigurationError) as refused:
        parse_conf({"submission_id": "s-1", "intervals": "5", "folds": given})
    assert str(refused.value).startswith("folds")
    assert told in str(refused.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"config_overrides": ["split.test_from=2010-01-01"]},
        {"config_overrides": ["model.units=4", "split.validation_from=2001-01-01"]},
        {"passthrough_args": ["--config_override split.test_to=2010-01-01"]},
        {"passthrough_args": ["--config-override=split.test_from=2010-01-01"]},
        {"passthrough_args": ["--config_override", "split.test_from=2010-01-01"]},
        {"fetched_data_end_to": "2010-12-31"},
    ],
)
def test_beside_folds_nothing_else_says_which_rows(fields):
    with pytest.raises(ValidationError, match="or the folds"):
        Schedule.model_validate({"intervals": [5], "folds": DAYS, **fields})
    Schedule.model_validate({"intervals": [5], **fields})


def test_a_schedule_is_of_so_many_trainings_at_most():
    wide = {"intervals": list(range(1, 51)), "folds": DAYS[:2]}
    assert len(Schedule.model_validate(wide).trainings) == MAX_TRAININGS
    with pytest.raises(ValidationError, match="50 intervals in 3 folds are 150 trainings; give at"):
        Schedule.model_validate({**wide, "folds": DAYS[:3]})
    # Without folds it is as many as it was.
    assert len(Schedule(intervals=list(range(1, 51))).trainings) == 50


def test_without_folds_a_schedule_is_written_as_before_there_were_any():
    plain, folded = Schedule(intervals=[5]), Schedule(intervals=[5], folds=DAYS)

    assert "folds" not in plain.model_dump(mode="json")
    assert folded.model_dump(mode="json")["folds"] == list(DAYS)
    assert Schedule.model_validate_json(folded.model_dump_json()) == folded
    assert build_try("run", plain) != build_try("run", folded)
    conf = parse_conf({"submission_id": "s-1", "intervals": "5", "folds": ",".join(DAYS)})
    assert parse_conf(build_conf(conf)) == conf


def test_other_folds_are_the_same_work():
    common = {"system": "feature_set", "content_sha256": "a", "checkout": None}
    plain, folded = Schedule(intervals=[5]), Schedule(intervals=[5], folds=DAYS)

    assert build_work_digest(schedule=plain, **common) == build_work_digest(
        schedule=folded, **common
    )


def test_a_job_of_a_manifest_may_have_folds_and_is_another_job_then():
    text = (
        'schema_version = 1\nname = "m"\n[[jobs]]\nname = "a"\nsource = "https://h/r.git"\n'
        "intervals = [5]\n"
    )
    (plain,) = parse_manifest(text).jobs
    (folded,) = parse_manifest(text + "folds = [2005-01-01, 2008-01-01]\n").jobs

    assert folded.folds == FIRST_TWO
    conf = build_job_conf(folded, source="https://h/r.git", notes="")
    assert parse_conf(conf).schedule.folds == FIRST_TWO
    ids = {build_submission_id(job, content="c") for job in (plain, folded)}
    assert len(ids) == 2
    with pytest.raises(ConfigurationError, match=r"jobs\.a\.folds"):
        parse_manifest(text + "folds = [2008-01-01, 2005-01-01]\n")
    with pytest.raises(ConfigurationError, match=r"jobs\.a\..*or the folds"):
        parse_manifest(
            text + 'folds = [2005-01-01, 2008-01-01]\nhyper = {"split.test_to" = "2009-01-01"}\n'
        )


# --- which rows ----------------------------------------------------------------------------------


def test_one_fold_ends_where_the_next_begins_and_each_is_scaled_by_the_year_before():
    folds = [spec.fold for spec in make_trainings() if spec.interval == 5]

    assert [fold.number for fold in folds] == [0, 1, 2, 3, 4]
    assert {fold.count for fold in folds} == {5}
    assert [(str(fold.validation_from), str(fold.test_from)) for fold in folds] == [
        ("2004-01-01", "2005-01-01"),
        ("2007-01-01", "2008-01-01"),
        ("2010-01-01", "2011-01-01"),
        ("2013-01-01", "2014-01-01"),
        ("2015-01-01", "2016-01-01"),
    ]
    assert [str(fold.test_to) for fold in folds] == [
        *("2007-12-31", "2010-12-31", "2013-12-31", "2015-12-31", "None"),
    ]
    assert (folds[0].rows, folds[-1].rows) == ("2005-01-01 to 2007-12-31", "from 2016-01-01")


def test_a_leap_day_has_a_year_before():
    (first, _) = build_folds(
        [date(2008, 2, 29), date(2012, 1, 1)],
        validation_from=date(2011, 1, 1),
        test_from=date(2014, 1, 1),
        test_to=None,
    )

    assert first.validation_from == date(2007, 2, 28)


def test_on_a_data_set_each_is_scaled_by_as_many_days_as_its_event_has():
    days = ("2017-12-01", "2018-01-10")

    first, second = (spec.fold for spec in make_trainings(HOURLY, intervals="5", folds=days))

    assert first.validation_from == date(2017, 10, 1)
    assert second.validation_from == date(2017, 11, 10)
    assert (first.test_to, second.test_to) == (date(2018, 1, 9), date(2018, 2, 7))


def test_each_fold_is_a_task_of_its_own_with_its_rows_and_its_rules():
    specs = make_trainings()

    assert [spec.task_id for spec in specs] == [
        f"i{interval}-f{number}" for interval in (1, 5) for number in range(5)
    ]
    second = specs[1]
    argv = build_argv(second)
    overrides = [argv[at + 1] for at, word in enumerate(argv) if word == "--config_override"]
    assert overrides == [
        *("split.validation_from=2007-01-01", "split.test_from=2008-01-01"),
        "split.test_to=2010-12-31",
    ]
    rules = build_rules(second.data, second.fold)
    assert (rules.validation_from, rules.test_from) == (date(2007, 1, 1), date(2008, 1, 1))
    assert rules.test_to == date(2010, 12, 31)
    assert len({build_rules(None, spec.fold).sha256 for spec in specs}) == 5
    # All else is the built-in rules'.
    assert rules.model_copy(
        update={name: getattr(RULES, name) for name in ("validation_from", "test_from", "test_to")}
    ) == RULES  # fmt: skip


def test_of_a_data_set_only_the_fold_tells_the_trainer_its_rows():
    spec = make_trainings(HOURLY, intervals="5", folds=("2017-12-01", "2018-01-10"))[1]

    told = [word for word in build_argv(spec) if word.startswith("split.")]
    assert told == [
        *("split.validation_from=2017-11-10", "split.test_from=2018-01-10"),
        "split.test_to=2018-02-07",
    ]


def test_without_folds_a_specification_is_written_as_before_there_were_any():
    (plain,) = make_trainings(intervals="5", folds=())
    folded = make_trainings(intervals="5")[2]

    assert plain.task_id == "i5"
    assert "fold" not in plain.model_dump(mode="json")
    assert "folds" not in plain.model_dump(mode="json")["schedule"]
    assert not any(word.startswith("split.") for word in build_argv(plain))
    assert TaskSpec.model_validate(json.loads(folded.model_dump_json())) == folded


def test_a_task_id_says_interval_and_fold_and_nothing_before_says_otherwise():
    assert (build_task_id(5), build_task_id(5, 0)) == ("i5", "i5-f0")
    assert [find_interval_id(each) for each in ("i5", "i5-f0", "i50-f9")] == ["i5", "i5", "i50"]


@pytest.mark.parametrize(("interval", "is_taken"), [(5, True), (50, False), (1, False)])
def test_a_result_is_of_the_interval_that_its_fold_is_of(interval, is_taken):
    result = {
        "contract": 2,
        "submission_id": "s-1",
        "task_id": "i5-f0",
        "prediction_interval": interval,
        "metrics": {"net_sharpe": 0.5},
        "files": [{"path": f"models/{name}.h5"} for name in ("long", "short")],
    }

    if is_taken:
        assert check_result(result, submission_id="s-1", task_id="i5-f0").prediction_interval == 5
    else:
        with pytest.raises(ResultRefused, match="not that of i5-f0"):
            check_result(result, submission_id="s-1", task_id="i5-f0")


def test_a_replay_of_a_fold_trains_that_one_alone():
    (spec,) = (each for each in make_trainings() if each.task_id == "i5-f2")
    file = {"sha256": "0" * 64, "size": 1}
    replayed = Replayed(
        submission_id="s-1",
        task_id="i5-f2",
        key="s-1/i5-f2",
        attempt=1,
        fence=1,
        result=file,
        predictions=file,
    )

    again = build_replay_spec(
        build_task(spec, status="success"), replayed, submission_id="s-2", user="ann"
    )

    assert (again.task_id, again.fold) == ("i5-f2", spec.fold)
    schedule = build_replay_schedule(again)
    assert (schedule.intervals, schedule.folds) == ((5,), ())
    assert parse_conf({"replay": "s-1/i5-f2"}).replay.task_id == "i5-f2"
    for wrong in ("s-1/i5-f", "s-1/i5-f10", "s-1/i5-g1", "s-1/i5-f0/x"):
        with pytest.raises(ConfigurationError, match="is not SUBMISSION/TASK"):
            parse_conf({"replay": wrong})


# --- folds that nobody could train ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "told"),
    [
        (
            ["2001-01-01", "2008-01-01"],
            "before 2000-01-01 there are some 250 rows to learn from, and the first one, which "
            "begins on 2001-01-01, needs 500; begin it later",
        ),
        (["1990-01-01", "2008-01-01"], "there are some 0 rows to learn from"),
        (
            ["2005-01-01", "2005-02-01", "2008-01-01"],
            "the one that begins on 2005-01-01 has some 21 judged rows, and at least 60 are needed",
        ),
        (["2005-01-01", "2018-12-20"], "the one that begins on 2018-12-20 has some 8 judged rows"),
        (["2005-01-01", "2030-01-01"], "the one that begins on 2030-01-01 has some 0 judged rows"),
    ],
)
def test_a_fold_without_enough_rows_is_refused_before_anything_trains(days, told):
    schedule = Schedule(intervals=[5], folds=days)

    found = find_mismatch(BUILT_IN, "default", schedule)

    assert found.startswith("folds: ")
    assert told in found
    assert find_mismatch(BUILT_IN, "default", Schedule(intervals=[5], folds=DAYS)) is None


def test_of_data_whose_days_nobody_here_knows_the_trainer_finds_out():
    folds = build_folds(
        FIRST_TWO, validation_from=date(2004, 1, 1), test_from=date(2005, 1, 1), test_to=None
    )

    assert find_fold_fault(folds, bars_per_year=252, first_day=None, last_day=None) is None


# --- events --------------------------------------------------------------------------------------


def fix(folds, **rows):
    lines = [f"{name} = {value}" for name, value in {"folds": folds, **rows}.items()]
    return parse_event(SMALL + "[rows]\n" + "\n".join(lines), name="x")


def test_an_event_fixes_the_folds():
    event = fix("[2005-01-01, 2008-01-01]")

    assert find_mismatch(event, "x", Schedule(intervals=[1], folds=FIRST_TWO)) is None
    for folds in ((), DAYS):
        assert find_mismatch(event, "x", Schedule(intervals=[1], folds=folds)) == (
            "folds: the event 'x' is judged on the folds 2005-01-01,2008-01-01; give these"
        )
    assert find_other_folds(event, FIRST_TWO) is None
    assert find_other_folds(event, ()) == (
        "other rows: it was trained on the folds none, and the event is judged on "
        "2005-01-01,2008-01-01"
    )
    assert find_other_folds(BUILT_IN, FIRST_TWO) is None


def test_an_event_without_folds_is_written_as_before_there_were_any():
    event, fixed = parse_event(SMALL, name="x"), fix("[2005-01-01, 2008-01-01]")

    assert "folds" not in event.model_dump(mode="json")["rows"]
    assert fixed.model_dump(mode="json")["rows"]["folds"] == ["2005-01-01", "2008-01-01"]
    assert fixed.digest != event.digest
    assert find_fixed_change(event, fixed) == "rows"


@pytest.mark.parametrize(
    ("folds", "others", "told"),
    [
        ("[]", {}, "rows.folds: is empty; give the first judged day of each fold, or leave it out"),
        ("[2005-01-01]", {}, "rows.folds: 1 day; give 2 to 10"),
        ("[2008-01-01, 2005-01-01]", {}, "rows.folds: 2005-01-01 does not come after"),
        ("5", {}, "rows.folds: "),
        ("['2005-01-01', '2008-01-01']", {}, "rows.folds"),
        (
            "[2005-01-01, 2008-01-01]",
            {"test_from": "2006-01-01"},
            "test_from is 2006-01-01, and the first of the folds begins on 2005-01-01; leave",
        ),
        (
            "[2005-01-01, 2008-01-01]",
            {"test_to": "2007-01-01"},
            "test_to is 2007-01-01, before the last of the folds begins, 2008-01-01",
        ),
        (
            "[2005-01-01, 2008-01-01]",
            {"validation_from": "2005-01-01"},
            "validation_from is 2005-01-01, and the first of the folds begins on 2005-01-01",
        ),
    ],
)
def test_folds_that_make_no_sense_are_refused_by_their_key(folds, others, told):
    with pytest.raises(ConfigurationError) as refused:
        fix(folds, **others)
    assert told in str(refused.value)


def test_an_event_whose_folds_have_too_few_rows_is_not_applied():
    with pytest.raises(ConfigurationError, match=r"event x: rows\.folds: before 2000-01-01 there"):
        settle_event(fix("[2001-01-01, 2008-01-01]"), "x", None)


def test_nobody_folds_what_stays_at_its_server():
    text = (
        'share = "scores"\n[data]\nname = "prices"\n[quota]\nsubmissions = 1\n[rows]\n'
        "folds = [2005-01-01, 2008-01-01]"
    )
    with pytest.raises(ConfigurationError, match=r"rows\.folds: the server that holds the data"):
        parse_event(SMALL + text, name="x")
    event = parse_event(SMALL + text.partition("[rows]")[0], name="x")
    assert find_mismatch(event, "x", Schedule(intervals=[1], folds=FIRST_TWO)).startswith(
        "folds: the server that holds the data judges the data set's own rows alone"
    )


def test_no_fold_is_scaled_by_rows_that_a_validation_has_shown():
    event = parse_event(
        SMALL + '[data]\nname = "eurusd-hourly"\nversion = "2018-02"\n'
        "[rows]\nvalidation_from = 2017-10-01\ntest_from = 2017-12-01\n"
        "[judging]\nbars_per_year = 6240",
        name="x",
    )
    early, late = ("2017-11-01", "2018-01-10"), ("2017-12-01", "2018-01-10")

    told = find_mismatch(event, "x", Schedule(intervals=[1], folds=early))
    assert told == (
        "folds: the first one is scaled by rows from 2017-09-01, and up to 2017-10-01 validations "
        "show the data to everybody; begin it later"
    )
    assert find_mismatch(event, "x", Schedule(intervals=[1], folds=late)) is None


# --- plans ---------------------------------------------------------------------------------------


def test_a_plan_has_a_row_for_each_fold_with_what_it_is_judged_on():
    submission = PlannedSubmission(
        submission_id="s-1", submitter="ann", needs=None, system="feature_set"
    )
    schedule = Schedule(intervals=[5, 1], folds=FIRST_TWO)

    found = plan_schedule([submission], schedule, None, wall_seconds=60, now=NOW).tasks

    assert [(task.task_id, task.interval, task.fold, task.rows) for task in found] == [
        ("i5-f0", 5, 0, "2005-01-01 to 2007-12-31"),
        ("i5-f1", 5, 1, "from 2008-01-01"),
        ("i1-f0", 1, 0, "2005-01-01 to 2007-12-31"),
        ("i1-f1", 1, 1, "from 2008-01-01"),
    ]


def test_how_long_a_fold_takes_is_learnt_by_itself():
    fold = Fold(number=1, count=2, validation_from=NOW.date(), test_from=NOW.date())
    folded, plain = describe_task(build_spec(fold=fold)), describe_task(build_spec())
    history = History()

    for _ in range(3):
        history.add(plain, 100)
        history.add(folded, 40)

    assert (folded.fold, plain.fold) == (1, None)
    assert history.expect(folded).p50_seconds == 40
    assert history.expect(plain).p50_seconds == 100
    assert replace(folded, fold=None) == plain
    assert DurationKey(kind=SlotClass.TRAINING) in folded.wider
