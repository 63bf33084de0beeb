"""What a run may carry, as the form, REST and CI send it."""

from __future__ import annotations

import datetime as dt

import pytest

from touchstone.core.conf import System, build_conf, parse_conf
from touchstone.core.schedule import Platform, Schedule
from touchstone.core.tasks import TaskSpec, build_start
from touchstone_agent.protocol.envelope import (
    SQS_LIMIT_BYTES,
    CommandMessage,
    Header,
    generate_key,
    load_private_key,
    seal,
)
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.protocol.messages import AttemptRef, Grant, Limits

GIT = "https://example.org/sets.git"
NOW = dt.datetime(2026, 11, 29, tzinfo=dt.UTC)


def test_a_form_that_fills_every_field_becomes_a_source_and_a_schedule():
    conf = parse_conf(
        {
            "source": GIT,
            "system": "model_structure",
            "ref": "main",
            "path": "sets/momentum",
            "intervals": "1, 5,20",
            "config_file": "fast.toml",
            "branch": "feature/x",
            "fetched_data_end_to": "2018-06-30",
            "platform": "on-prem",
            "config_overrides": ["training.epochs=3", ""],
            "passthrough_args": ["--config_override a.b='x y'"],
            "seed": 7,
            "baseline": None,
            "submission_id": None,
            "notes": None,
        }
    )

    assert conf.source is not None
    assert conf.source.system is System.MODEL_STRUCTURE
    assert conf.schedule is not None
    assert conf.schedule.intervals == (1, 5, 20)
    assert conf.schedule.fetched_data_end_to == dt.date(2018, 6, 30)
    assert conf.schedule.platform is Platform.ON_PREM
    assert conf.schedule.config_overrides == ("training.epochs=3",)
    assert conf.schedule.passthrough_argv == ("--config_override", "a.b=x y")


def test_without_intervals_there_is_no_schedule():
    assert parse_conf({"source": GIT, "config_file": "default.toml"}).schedule is None


def test_repeated_intervals_are_trained_once():
    conf = parse_conf({"source": GIT, "intervals": "5,1,5"})

    assert conf.schedule is not None
    assert conf.schedule.intervals == (5, 1)


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"source": GIT, "sauce": 1}, "sauce: unknown field"),
        ({"source": GIT, "intervals": ""}, "intervals: is empty"),
        ({"source": GIT, "intervals": []}, "intervals: "),
        ({"source": GIT, "intervals": "1,x"}, "intervals: '1,x' is not a list"),
        ({"source": GIT, "intervals": "0"}, "intervals: '0' is not a list"),
        ({"source": GIT, "intervals": [0]}, "intervals: an interval is"),
        ({"source": GIT, "intervals": [251]}, "intervals: an interval is"),
        ({"source": GIT, "intervals": list(range(1, 60))}, "intervals: 59 intervals"),
        ({"source": GIT, "intervals": "1", "config_file": "../x"}, "config_file: "),
        ({"source": GIT, "intervals": "1", "config_file": "/etc/x"}, "config_file: "),
        ({"source": GIT, "intervals": "1", "branch": "--upload-pack=x"}, "branch: "),
        ({"source": GIT, "intervals": "1", "config_overrides": ["epochs"]}, "config_overrides: "),
        ({"source": GIT, "intervals": "1", "passthrough_args": ["'a"]}, "passthrough_args: "),
        ({"source": GIT, "intervals": "1", "platform": "moon"}, "platform: "),
        ({"source": GIT, "intervals": "1", "seed": -1}, "seed: "),
        ({"source": GIT, "intervals": "1", "max_price": 0}, "max_price: "),
        ({"source": GIT, "intervals": "1", "budget": "much"}, "budget: "),
        ({"source": GIT, "intervals": "1", "max_hours": 0}, "max_hours: "),
        ({"source": GIT, "intervals": "1", "cloud": "nine"}, "cloud: "),
        ({"source": GIT, "intervals": "1", "fetched_data_end_to": "soon"}, "fetched_data_end_to: "),
        ({"source": GIT, "path": "../.."}, "path: "),
        ({"source": GIT, "ref": "-x"}, "ref: "),
        ({"source": GIT, "system": "poem"}, "system: "),
        ({"source": "--upload-pack=touch /tmp/x"}, "source: "),
        ({"source": "upload:abc"}, "source: "),
        ({"source": "https://me:secret@example.org/x.git"}, "source: a user name, "),
        ({"source": GIT, "submission_id": "abc"}, "source: give either"),
        ({}, "source: give either"),
        ({"submission_id": "abc"}, "intervals: scheduling"),
        ({"submission_id": "A B", "intervals": "1"}, "submission_id: "),
        ({"source": 5}, "source: "),
    ],
)
def test_a_wrong_field_is_refused_by_its_name(conf, message):
    with pytest.raises(ConfigurationError) as refused:
        parse_conf(conf)

    assert str(refused.value).startswith(message)


def test_the_canonical_conf_parses_to_itself():
    conf = parse_conf(
        {"source": GIT, "intervals": "1,5", "fetched_data_end_to": "2018-01-02", "notes": "hello"}
    )

    assert parse_conf(build_conf(conf)) == conf


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_price": "", "budget": None, "max_hours": None, "gpu_models": [""]},
        {
            "max_price": 0.8,
            "budget": "20",
            "max_hours": 1.5,
            "gpu_models": ["RTX 4090", "L4"],
            "cloud": "secure",
            "fetched_data_end_to": "2018-01-02",
        },
    ],
)
def test_a_schedule_on_record_is_read_as_it_was_written(fields):
    schedule = parse_conf({"source": GIT, "intervals": "1", **fields}).schedule

    assert schedule is not None
    assert Schedule.model_validate(schedule.model_dump(mode="json")) == schedule


# --- every field has an end --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("config_overrides", ["a.b=" + "x" * 2000]),
        ("config_overrides", ["a.b=1"] * 201),
        ("config_overrides", ["a.b=1\0"]),
        ("passthrough_args", ["x" * 2001]),
        ("passthrough_args", ["x"] * 201),
        ("allowed_hosts", ["x" * 61]),
        ("allowed_hosts", ["x"] * 101),
        ("gpu_models", ["x" * 101]),
        ("gpu_models", ["x"] * 21),
        ("config_file", "x" * 501),
        ("branch", "x" * 201),
        ("baseline", "x" * 49),
        ("job", "x" * 101),
        ("intervals", "1" + " " * 500),
        ("fetched_data_end_to", "2018-01-01" * 1000),
        ("source", "https://example.org/" + "x" * 2000),
        ("ref", "x" * 201),
        ("path", "x" * 501),
        ("notes", "x" * 4001),
        ("max_price", 10**7),
        ("config_overrides", ["a.b=" + "x" * 1900] * 20),
        ("notes", "\u65e5" * 3999 + "\ud800"),
        ("x" * 200_000, 1),
        ("submission_id", "x" * 200_000),
        ("seed", 10**4000),
        ("platform", "x" * 200_000),
    ],
)
def test_what_is_too_long_is_told_by_its_name_and_not_repeated(field, value):
    conf = {"source": GIT, "intervals": "1"} | {field: value}
    if field == "submission_id":
        del conf["source"]

    with pytest.raises(ConfigurationError) as refused:
        parse_conf(conf)

    assert str(refused.value).startswith((field[:40], "'xxx"))
    assert len(str(refused.value)) < 1000


def test_all_fields_together_have_an_end_that_names_the_longest():
    with pytest.raises(ConfigurationError, match=r"^passthrough_args: .* 32768 bytes together"):
        parse_conf({"source": GIT, "intervals": "1", "passthrough_args": ["--a " * 300] * 30})


def test_a_conf_that_is_nested_without_end_is_refused_by_its_field():
    value: list = []
    for _ in range(100_000):
        value = [value]

    with pytest.raises(ConfigurationError, match=r"^notes: "):
        parse_conf({"source": GIT, "notes": value})


def test_the_longest_conf_that_is_taken_fits_into_a_start():
    """Every quote in it is four characters there, and a queue takes a megabyte."""
    conf = {"source": GIT, "intervals": "1", "config_overrides": ['a.b="' + '"' * 80] * 190}
    schedule = parse_conf(conf).schedule
    ref = AttemptRef(submission_id="s" * 48, task_id="i250", attempt=99, fence=999_999)
    spec = TaskSpec(
        submission_id=ref.submission_id,
        task_id=ref.task_id,
        kind="training",
        system="feature_set",
        image="i" * 300,
        content_sha256="a" * 64,
        content_size=1,
        limits=Limits(),
        interval=250,
        schedule={"config_overrides": schedule.config_overrides},
    )
    grant = Grant(method="GET", url="u" * 8000, expires_at=NOW)
    header = Header(message_id="m", env="dev", server="s", issued_at=NOW, expires_at=NOW)
    message = CommandMessage(header=header, body=build_start(spec, ref, {"content": grant}))

    assert len(seal(message, "control", load_private_key(generate_key()[0]))) < SQS_LIMIT_BYTES / 2
