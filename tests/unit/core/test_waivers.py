"""Columns that are waived: what a run may carry, what a trainer is told, what an event takes."""

from __future__ import annotations

import pytest

from fakes.submissions import build_submission
from fakes.tasks import build_spec
from touchstone.core.conf import Source, build_conf, parse_conf
from touchstone.core.event_rules import find_fixed_change, find_refused_waivers, takes_waivers
from touchstone.core.events import BUILT_IN, Event, parse_event
from touchstone.core.manifest import build_conf as build_job_conf
from touchstone.core.manifest import build_submission_id, parse_manifest
from touchstone.core.tasks import TaskSpec, build_argv, build_training_specs
from touchstone.core.waivers import MAX_COLUMN, MAX_WAIVED, add_waivers, find_other_waivers
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.protocol.messages import Limits, SlotClass

GIT = "https://example.org/sets.git"
SMALL = 'schema_version = 1\ntitle = "Sharpe"\n'


def parse(columns, **others):
    return parse_conf({"source": GIT, "waived_columns": columns} | others)


def test_a_new_submission_names_the_columns_that_are_waived():
    conf = parse(["target", "a b", "-x", ""], intervals="1")

    assert conf.source.waived_columns == ("target", "a b", "-x")
    assert build_conf(conf)["waived_columns"] == ["target", "a b", "-x"]
    assert parse_conf(build_conf(conf)) == conf


@pytest.mark.parametrize("none", [None, [], [""], ["", "  "]])
def test_without_any_a_conf_is_what_it_was_before_there_were_waivers(none):
    assert "waived_columns" not in build_conf(parse(none))


def test_the_most_and_longest_names_are_taken():
    names = [f"{number:03}" + "~" * (MAX_COLUMN - 3) for number in range(MAX_WAIVED)]

    assert parse(names).source.waived_columns == tuple(names)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([f"c{number}" for number in range(MAX_WAIVED + 1)], "waived_columns: "),
        (["x" * (MAX_COLUMN + 1)], "waived_columns.0: "),
        (["a", "b\n"], "waived_columns.1: 'b\\n' has other characters than printable ASCII"),
        (["\x1b[2J"], "waived_columns.0: "),
        (["a\0"], "waived_columns.0: "),
        (["spr\u00e4d"], "waived_columns.0: 'spr\\xe4d' has other characters"),
        (["\ud800"], "waived_columns.0: "),
        (["{in}/x"], "waived_columns.0: '{in}/x' has {in} or {out} in it"),
        (["{out}"], "waived_columns.0: "),
        (["a", "b", "a"], "waived_columns: 'a' stands there twice; keep one"),
        ("target", "waived_columns: "),
        ({"a": 1}, "waived_columns: "),
        ([1], "waived_columns.0: "),
        ([None], "waived_columns.0: "),
        ([["a"]], "waived_columns.0: "),
        (True, "waived_columns: "),
    ],
)
def test_what_is_no_list_of_names_is_refused_by_its_name(columns, message):
    with pytest.raises(ConfigurationError) as refused:
        parse(columns)

    assert str(refused.value).startswith(message)
    assert len(str(refused.value)) < 1000


def test_a_model_structure_has_no_columns():
    with pytest.raises(ConfigurationError, match=r"^waived_columns: a model structure has no col"):
        parse(["a"], system="model_structure")
    assert parse([], system="model_structure").source.waived_columns == ()


@pytest.mark.parametrize("conf", [{"submission_id": "abc", "intervals": "1"}, {"replay": "abc/i1"}])
def test_what_is_on_record_already_gets_no_waivers_later(conf):
    parse_conf(conf | {"waived_columns": []})

    with pytest.raises(ConfigurationError, match=r"^waived_columns: columns are waived where a su"):
        parse_conf(conf | {"waived_columns": ["a"]})


def test_another_list_is_another_source():
    found = build_submission(
        source_url=GIT, source_path=".", system="feature_set", waived_columns=["a"]
    )

    assert found.is_from(Source(url=GIT, waived_columns=["a"]))
    assert not found.is_from(Source(url=GIT))
    assert not found.is_from(Source(url=GIT, waived_columns=["a", "b"]))
    assert build_submission(source_url=GIT, source_path=".", system="feature_set").is_from(
        Source(url=GIT)
    )


# --- what a trainer is told -----------------------------------------------------------------------


def test_a_trainer_is_told_in_one_word_each_and_an_older_one_has_no_such_argument():
    validation = build_spec(
        kind=SlotClass.VALIDATION, task_id="validation", interval=None, waived_columns=["-x", "a b"]
    )
    (training,) = build_training_specs(
        validation, parse([], intervals="5").schedule, limits=Limits()
    )

    for spec in (validation, training):
        argv = build_argv(spec)
        assert argv[-2:] == ("--waive-column=-x", "--waive-column=a b")
    assert training.waived_columns == ("-x", "a b")


def test_a_specification_without_any_is_written_as_before():
    spec = build_spec()

    assert "waived_columns" not in spec.model_dump(mode="json")
    assert not any("waive" in word for word in build_argv(spec))
    waived = build_spec(waived_columns=["a"])
    assert TaskSpec.model_validate(waived.model_dump(mode="json")) == waived


@pytest.mark.parametrize(
    ("told", "asked", "reason"),
    [
        (None, (), None),
        (None, ("a",), None),
        ((), ("a",), None),
        (("a",), ("a", "b"), None),
        (("a",), (), "other checks (the column 'a' was waived, and not by the submission)"),
        (("a", "b"), ("a",), "other checks (the column 'b' was waived, and not by the submission)"),
    ],
)
def test_a_trainer_that_waives_more_than_it_was_told_is_found_out(told, asked, reason):
    assert find_other_waivers(told, asked) == reason


def test_a_verdicts_sentence_says_how_many_are_waived():
    assert add_waivers("Better.", ()) == "Better."
    one, two = add_waivers("Better.", ("a",)), add_waivers("Better.", ("a", "b"))
    assert one == "Better. 1 column is waived from the checks for look-ahead."
    assert two == "Better. 2 columns are waived from the checks for look-ahead."


# --- events and manifests -------------------------------------------------------------------------


def test_an_event_refuses_waivers_unless_its_file_takes_them():
    silent, taking, refusing = (
        parse_event(SMALL + line, name="x") for line in ("", "waivers = true", "waivers = false")
    )

    reason = find_refused_waivers(silent, "x", ("a", "b"))
    assert reason == (
        "waived_columns: the event 'x' takes no submission with waived columns, and 'a', 'b' are; "
        "submit it without them"
    )
    assert find_refused_waivers(refusing, "x", ("a",)) is not None
    assert find_refused_waivers(taking, "x", ("a",)) is None
    assert find_refused_waivers(silent, "x", ()) is None


def test_the_event_default_takes_them_unless_a_file_says_otherwise():
    assert takes_waivers(BUILT_IN, "default")
    assert takes_waivers(parse_event(SMALL, name="default"), "default")
    assert not takes_waivers(parse_event(SMALL + "waivers = false", name="default"), "default")


@pytest.mark.parametrize("value", ["1", "'true'", "[]", "0.0"])
def test_an_event_says_true_or_false(value):
    with pytest.raises(ConfigurationError, match="event x: waivers: "):
        parse_event(SMALL + f"waivers = {value}", name="x")


def test_an_event_that_says_nothing_is_what_it_was_before_there_were_waivers():
    event = parse_event(SMALL, name="x")

    assert "waivers" not in event.model_dump(mode="json")
    told = parse_event(SMALL + "waivers = true", name="x")
    assert told.digest != event.digest
    assert Event.model_validate_json(told.model_dump_json()) == told
    assert find_fixed_change(event, told) is None


MANIFEST = """
schema_version = 1
name = "m"
[[jobs]]
name = "a"
source = "https://example.org/sets.git"
intervals = [5]
{}
"""


def test_a_job_waives_columns_and_is_other_work_then():
    (plain,) = parse_manifest(MANIFEST.format("")).jobs
    (job,) = parse_manifest(MANIFEST.format('waived_columns = ["target"]')).jobs

    assert build_job_conf(job, source=job.source, notes="")["waived_columns"] == ["target"]
    assert "waived_columns" not in build_job_conf(plain, source=job.source, notes="")
    assert build_submission_id(job, content="c") != build_submission_id(plain, content="c")


def test_a_job_with_an_odd_name_is_refused_by_the_jobs_name():
    with pytest.raises(ConfigurationError, match=r"jobs\.a\.waived_columns\.0: "):
        parse_manifest(MANIFEST.format('waived_columns = ["spr\u00e4d"]'))
