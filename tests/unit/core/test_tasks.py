"""The command that an attempt runs."""

from __future__ import annotations

import datetime as dt
from datetime import UTC, datetime

import pytest

from touchstone.core.conf import System
from touchstone.core.data_sets import PinnedData
from touchstone.core.judging import build_rules, find_other_rows
from touchstone.core.schedule import Schedule
from touchstone.core.tasks import (
    Checkout,
    TaskSpec,
    build_argv,
    build_environment,
    build_pod_start,
    build_start,
    build_training_specs,
    build_validation_spec,
    list_inputs,
)
from touchstone_agent.protocol.messages import AttemptRef, Grant, Limits, SlotClass

GRANTS = {
    folder: Grant(
        method="GET", url=f"http://store/{folder}", expires_at=datetime(2026, 1, 1, tzinfo=UTC)
    )
    for folder in ("content", "data", "elnigma")
}
DATA = PinnedData(
    name="eurusd-hourly",
    version="2018-02",
    digest="e" * 64,
    sha256="f" * 64,
    size=11,
    validation_from=dt.date(2017, 10, 1),
    test_from=dt.date(2017, 12, 1),
    bars_per_year=6240,
)


def make_validation(system=System.FEATURE_SET, data=None):
    return build_validation_spec(
        "s-1",
        system=system,
        image="trainer:1",
        content_sha256="a" * 64,
        content_size=9,
        limits=Limits(),
        data=data,
    )


def make_trainings(
    system=System.FEATURE_SET, *, commit=None, image_cuda=None, data=None, **schedule
):
    return build_training_specs(
        make_validation(system, data),
        Schedule(**({"intervals": "1,5"} | schedule)),
        limits=Limits(cpus=2),
        image_cuda=image_cuda,
        elnigma=commit and Checkout(commit=commit, sha256="d" * 64, size=7),
    )


def make_ref(task_id):
    return AttemptRef(submission_id="s-1", task_id=task_id, attempt=1, fence=4)


def test_one_training_per_interval():
    specs = make_trainings()

    assert [(spec.task_id, spec.interval) for spec in specs] == [("i1", 1), ("i5", 5)]


def test_every_field_of_the_schedule_arrives_verbatim_in_the_arguments():
    spec = make_trainings(
        config_file="deep/fast.toml",
        fetched_data_end_to=dt.date(2018, 6, 30),
        config_overrides=("model.units=8",),
        passthrough_args=("--epochs 3", "--note 'two words'"),
    )[1]

    assert build_argv(spec) == (
        *("train", "--config", "deep/fast.toml", "--feature-set", "{in}/content"),
        *("--prediction-interval", "5", "--fetched-data-end-to", "2018-06-30"),
        *("--out", "{out}", "--config_override", "model.units=8"),
        *("--", "--epochs", "3", "--note", "two words"),
    )


def test_a_data_set_is_unpacked_beside_the_content_of_validation_and_training():
    for spec in (make_validation(data=DATA), make_trainings(data=DATA, commit="c" * 40)[0]):
        start = build_start(spec, make_ref(spec.task_id), GRANTS)
        pod = build_pod_start(spec, make_ref(spec.task_id), GRANTS)

        (found,) = [item for item in start.inputs if item.path == "data"]
        assert (found.sha256, found.size, found.unpack) == ("f" * 64, 11, True)
        assert found.grant == GRANTS["data"]
        assert pod.inputs == start.inputs
    # What is prepared with the network never gets it.
    assert start.prepare.inputs == ("elnigma",)
    for spec in (make_validation(), make_trainings()[0]):
        start = build_start(spec, make_ref(spec.task_id), GRANTS)
        assert [item.path for item in start.inputs] == ["content"]


def test_the_rows_of_an_event_come_before_what_a_schedule_overrides():
    data = DATA.model_copy(update={"test_to": dt.date(2018, 1, 31)})
    spec = make_trainings(data=data, config_overrides=("split.test_from=2018-01-01",))[0]

    argv = build_argv(spec)

    assert argv[argv.index("{out}") + 1 :] == (
        *("--config_override", "split.validation_from=2017-10-01"),
        *("--config_override", "split.test_from=2017-12-01"),
        *("--config_override", "split.test_to=2018-01-31"),
        *("--config_override", "split.test_from=2018-01-01"),
    )
    assert "--config_override" not in build_argv(make_validation(data=data))
    rules = build_rules(data)
    assert find_other_rows(spec, rules) == (
        "other rows (split.test_from is 2018-01-01, the rules say 2017-12-01)"
    )
    plain, costs = (
        make_trainings(data=data, config_overrides=each)[0]
        for each in ((), ("backtest.bars_per_year=252",))
    )
    assert find_other_rows(plain, rules) is None
    assert find_other_rows(costs, rules) == (
        "other rules (backtest.bars_per_year is 252, the rules say 6240)"
    )


def test_a_specification_keeps_its_data_set_and_is_written_as_before_without_one():
    spec = make_trainings(data=DATA)[0]

    assert TaskSpec.model_validate_json(spec.model_dump_json()).data == DATA
    assert "data" not in make_trainings()[0].model_dump()


def test_the_archive_of_a_data_set_has_a_key_of_its_own():
    spec = make_trainings(data=DATA)[0]
    inputs = list_inputs(spec)
    assert inputs["data"].key == f"data/{'f' * 64}.tar.gz"
    assert inputs["content"].key == f"content/{spec.content_sha256}.tar.gz"
    assert all(each.is_archive for each in inputs.values())


def test_a_model_structure_is_trained_on_the_reference_features():
    argv = build_argv(make_trainings(System.MODEL_STRUCTURE)[0])

    assert argv[3:7] == (
        *("--feature-set", "elnigma.features.reference"),
        *("--model-structure", "{in}/content"),
    )


@pytest.mark.parametrize("system", list(System))
def test_a_validation_has_neither_network_nor_schedule(system):
    start = build_start(make_validation(system), make_ref("validation"), GRANTS)

    assert start.slot_class is SlotClass.VALIDATION
    assert not start.network
    assert start.argv[:3] == ("validate", "--system", system.value)


def test_a_validation_may_run_wherever_validations_are_taken():
    assert make_validation().schedule.platform == "any"


def test_submitted_code_never_has_the_network_and_a_branch_is_prepared_without_it():
    """A branch's trainings had the network until their end, only to install what it requires."""
    plain, branch = make_trainings()[0], make_trainings(commit="c" * 40)[0]

    assert build_start(plain, make_ref("i1"), GRANTS).prepare is None
    start = build_start(branch, make_ref("i1"), GRANTS)
    assert not start.network
    assert start.prepare is not None
    assert start.prepare.argv == ("prepare",)
    assert start.prepare.inputs == ("elnigma",)
    assert build_pod_start(branch, make_ref("i1"), GRANTS).prepare == start.prepare
    assert build_environment(branch, make_ref("i1"))["TOUCHSTONE_ELNIGMA_COMMIT"] == "c" * 40


def test_a_branch_is_handed_over_beside_the_content():
    plain, branch = make_trainings()[0], make_trainings(commit="c" * 40)[0]

    assert [item.path for item in build_start(plain, make_ref("i1"), GRANTS).inputs] == ["content"]
    content, checkout = build_start(branch, make_ref("i1"), GRANTS).inputs
    assert (content.path, content.sha256, content.size) == ("content", "a" * 64, 9)
    assert (checkout.path, checkout.sha256, checkout.size) == ("elnigma", "d" * 64, 7)
    assert checkout.grant == GRANTS["elnigma"]
    assert content.unpack
    assert checkout.unpack


def test_the_environment_names_the_attempt_and_holds_no_grant():
    start = build_start(make_trainings(seed=3)[0], make_ref("i1"), GRANTS)

    assert start.environment["TOUCHSTONE_ATTEMPT"] == "1-4"
    assert start.environment["TOUCHSTONE_SEED"] == "3"
    assert start.environment["TOUCHSTONE_THREADS"] == "2"
    assert not any("http" in value for value in start.environment.values())


def test_only_a_schedule_that_requires_cuda_makes_a_start_require_a_gpu():
    plain, strict = make_trainings()[0], make_trainings(require_cuda=True)[0]

    assert not build_start(plain, make_ref("i1"), GRANTS, gpus=1).requires_gpu
    assert build_start(strict, make_ref("i1"), GRANTS, gpus=1).requires_gpu
    # The agent says what it has handed over.
    assert "TOUCHSTONE_CUDA" not in build_start(strict, make_ref("i1"), GRANTS).environment


def test_a_pod_is_told_what_its_gpu_is_for():
    def find(spec):
        environment = build_pod_start(spec, make_ref("i1"), GRANTS).environment
        return environment["TOUCHSTONE_CUDA"], environment.get("TOUCHSTONE_GPU_SHARE")

    assert find(make_trainings()[0]) == ("preferred", "1")
    assert find(make_trainings(require_cuda=True)[0]) == ("required", "1")
    assert find(make_validation()) == ("none", None)


# --- the image that fits what an attempt is given -----------------------------------------------


@pytest.mark.parametrize(
    ("image_cuda", "gpus", "image"),
    [
        ("trainer:1-cuda", 0, "trainer:1"),
        ("trainer:1-cuda", 1, "trainer:1-cuda"),
        (None, 0, "trainer:1"),
        (None, 1, "trainer:1"),
    ],
    ids=["cpu server", "gpu server", "own image, cpu server", "own image, gpu server"],
)
def test_a_training_gets_the_image_for_cuda_where_it_is_given_a_gpu_and_has_one(
    image_cuda, gpus, image
):
    spec = make_trainings(image_cuda=image_cuda)[0]

    assert build_start(spec, make_ref("i1"), GRANTS, gpus=gpus).image == image


def test_a_validation_has_one_image():
    start = build_start(make_validation(), make_ref("validation"), GRANTS)

    assert make_validation().image_cuda is None
    assert start.image == "trainer:1"


def test_a_task_from_before_there_were_two_images_runs_in_its_one():
    document = make_trainings()[0].model_dump(mode="json")
    del document["image_cuda"]
    spec = TaskSpec.model_validate(document)

    assert build_start(spec, make_ref("i1"), GRANTS, gpus=1).image == "trainer:1"


# --- what the version before has written --------------------------------------------------------

FLAT_LIMITS = {
    "cpus": 1.0,
    "memory_mib": 4096,
    "pids": 512,
    "wall_seconds": 21600,
    "cpu_seconds": None,
    "console_bytes": 8388608,
    "output_bytes": 1073741824,
}
FLAT = {
    "submission_id": "s-1",
    "task_id": "i5",
    "kind": "training",
    "system": "feature_set",
    "image": "trainer@sha256:1",
    "image_cuda": "cuda@sha256:3",
    "image_pod": "pod@sha256:2",
    "content_sha256": "a" * 64,
    "content_size": 9,
    "limits": FLAT_LIMITS,
    "interval": 5,
    "config_file": "fast.toml",
    "overrides": ["a.b=x y"],
    "passthrough": ["--units", "8 0"],
    "fetched_data_end_to": "2018-06-30",
    "elnigma": {"commit": "e" * 40, "sha256": "f" * 64, "size": 7},
    "seed": 7,
    "platform": "runpod",
    "submitted_by": "ann",
    "priority": 5,
    "require_cuda": True,
    "prefer_cuda": True,
    "min_vram_gib": 24.0,
    "min_ram_gib": 32.0,
    "allowed_hosts": ["rio"],
    "job": "nightly",
    "pods": {"gpu_models": ["RTX 4090"], "cloud": "secure", "max_price": "0.8", "budget": "20"},
    "replay": None,
}
"""A training's specification as the version before wrote it, with nothing left at its default."""


def test_a_specification_of_the_version_before_runs_what_it_ran():
    spec = TaskSpec.model_validate(FLAT)

    assert build_argv(spec) == (
        *("train", "--config", "fast.toml", "--feature-set", "{in}/content"),
        *("--prediction-interval", "5", "--fetched-data-end-to", "2018-06-30"),
        *("--out", "{out}", "--config_override", "a.b=x y", "--", "--units", "8 0"),
    )
    assert build_environment(spec, make_ref("i5"))["TOUCHSTONE_SEED"] == "7"
    # All of it, also what has stood in other places.
    was = {**FLAT, **FLAT["pods"], "config_overrides": FLAT["overrides"]}
    asked = spec.schedule.model_dump(mode="json")
    assert len(asked.keys() & was.keys()) == 16
    assert {name: asked[name] for name in asked.keys() & was.keys()} == {
        name: was[name] for name in asked.keys() & was.keys()
    }
    assert spec.schedule.passthrough_argv == ("--units", "8 0")
    assert TaskSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_many_further_arguments_of_the_version_before_are_kept_as_they_are():
    words = [f"--note=it's {number} {'x' * 100}" for number in range(900)]

    spec = TaskSpec.model_validate({**FLAT, "passthrough": words})

    assert spec.schedule.passthrough_argv == tuple(words)


def test_the_version_before_refuses_what_it_would_take_for_a_training_by_default():
    """It had a table of that name, and takes its own defaults for what is not there."""
    assert make_trainings(seed=7)[0].model_dump(mode="json")["pods"] is None


def test_several_seeds_are_an_override_and_a_single_one_needs_no_word():
    (alone,) = make_trainings()[:1]
    (several,) = make_trainings(seed=3, seed_count=4, config_overrides=["model.units=4"])[:1]

    assert not any("seed_count" in word for word in build_argv(alone))
    argv = build_argv(several)
    at = argv.index("training.seed_count=4")
    assert argv[at - 1] == "--config_override"
    assert at < argv.index("model.units=4")
