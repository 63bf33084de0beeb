"""A schedule's fields: each has one home, from which everything that asks for it is made."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from touchstone.core.conf import CONF_KEYS
from touchstone.core.forms import build_params, build_table, find_kinds
from touchstone.core.manifest import Job
from touchstone.core.schedule import FORMS, NEEDS, Schedule, rename_fields
from touchstone.core.tasks import TaskSpec

MANUAL = Path(__file__).parents[3] / "docs" / "operator-manual.md"


def test_every_field_says_how_people_are_asked_for_it():
    assert set(FORMS) == set(Schedule.model_fields) == set(build_params())
    assert set(Schedule.model_fields) <= set(CONF_KEYS)


def test_every_field_reaches_the_task_and_the_manifest():
    training = set(Schedule.model_fields) - {"intervals"}

    assert training == set(TaskSpec.model_fields["schedule"].annotation.model_fields)
    assert training <= set(Job.model_fields)
    assert training == set(find_kinds())


def test_the_manual_has_the_table_that_the_fields_make():
    """If not: paste what `python -m touchstone.core.forms` prints."""
    assert build_table() in MANUAL.read_text(encoding="utf-8")


def test_a_form_allows_null_exactly_where_a_field_may_be_left_empty():
    params = build_params()

    assert params["seed"]["type"] == "integer"
    assert params["seed"]["maximum"] == 2**31 - 1
    assert params["intervals"]["type"] == ["null", "string"]
    assert params["gpu_models"]["type"] == ["null", "array"]
    assert params["max_price"]["type"] == ["null", "number"]
    assert params["platform"]["enum"] == ["any", "on-prem", "runpod"]
    assert params["platform"]["default"] == "any"


def test_what_a_server_must_have_is_what_has_no_option_of_its_own():
    assert set(NEEDS) == {
        *("priority", "require_cuda", "prefer_cuda", "min_vram_gib", "min_ram_gib"),
        *("min_disk_gib", "allowed_hosts", "job"),
    }


@pytest.mark.parametrize("old", [True, False])
def test_a_stored_schedule_is_read_in_the_words_of_either_version(old):
    names = ("overrides", "passthrough") if old else ("config_overrides", "passthrough_args")
    stored = {"intervals": [5], names[0]: ["a.b=1"], names[1]: ["--units 8"], "budget": "20"}

    schedule = Schedule.model_validate(rename_fields(stored))

    assert schedule.config_overrides == ("a.b=1",)
    assert schedule.passthrough_argv == ("--units", "8")
    assert str(schedule.budget) == "20"


@pytest.mark.parametrize("count", [0, 11, -1, "x", 1.5])
def test_the_number_of_seeds_is_bounded(count):
    with pytest.raises(ValidationError):
        Schedule(intervals=[1], seed_count=count)


@pytest.mark.parametrize(
    "fields",
    [
        {"config_overrides": ["training.seed_count=3"]},
        {"passthrough_args": ["--config_override training.seed_count=3"]},
        {"passthrough_args": ["--config_override=training.seed_count=3"]},
        {"passthrough_args": ["--config-override=training.seed_count=3"]},
        {"passthrough_args": ["--config-override", "training.seed_count=3"]},
    ],
)
def test_the_number_of_seeds_is_said_in_its_field_alone(fields):
    with pytest.raises(ValidationError, match="leave it out, and give seed_count"):
        Schedule(intervals=[1], **fields)
    # A key that only begins so is the trainer's to refuse.
    Schedule(intervals=[1], config_overrides=["training.seed_count_=3"])
