"""What a run may carry, as the form, REST and CI send it."""

from __future__ import annotations

import datetime as dt

import pytest

from touchstone.core.conf import Platform, Schedule, System, build_conf, parse_conf
from touchstone_agent.protocol.errors import ConfigurationError

GIT = "https://example.org/sets.git"


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
    assert conf.schedule.overrides == ("training.epochs=3",)
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
