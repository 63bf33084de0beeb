"""A program of somebody's own DAG: its ids, its specification, how its record changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from touchstone.core import attempts, phases
from touchstone.core.conf import System
from touchstone.core.names import is_submission_id
from touchstone.core.placement_inputs import build_labels
from touchstone.core.program_attempts import (
    close_program,
    find_instance,
    new_program,
    want_program,
)
from touchstone.core.programs import MAX_WORDS, Program, build_program_ids, is_program_id
from touchstone.core.records.tasks import Task
from touchstone.core.schedule import Training
from touchstone.core.states import TaskStatus
from touchstone.core.tasks import TaskSpec, build_pod_start, build_program_spec, build_start
from touchstone_agent.protocol.messages import AttemptPhase, Limits, PhaseChanged
from touchstone_agent.protocol.names import build_container_name, parse_container_name

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PROGRAM = Program(dag_id="nightly", task_id="report", command=("-m", "report", "{out}"))


def build_spec(program=PROGRAM, **fields):
    return build_program_spec(
        program,
        **({"run_id": "r", "map_index": -1, "image": "ours:1", "limits": Limits()} | fields),
        schedule=Training(max_price="0.5"),
    )


def build_record(*, number=1, **fields):
    task = new_program(build_spec(), run_id="r", map_index=-1, now=NOW)
    claimed = attempts.claim_attempt(
        task, attempt=number, server="rio", container_of=lambda _: "c", now=NOW
    )
    return claimed.advance(**fields)


def tell(task, phase, **details):
    event = PhaseChanged(ref=task.ref, phase=phase, at=NOW, details=details)
    return phases.apply_phase(task, event, now=NOW)


# --- ids -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dag_id", ["nightly", "N" * 250, "тест", "a--b", "Nightly.Report_2"])
def test_no_submission_can_have_the_id_of_a_run_of_ones_own_dag(dag_id):
    submission_id, task_id = build_program_ids(dag_id, "manual__2026-11-22T12:00:00", "t", -1)

    assert is_program_id(submission_id)
    assert not is_submission_id(submission_id)
    name = build_container_name("dev", submission_id, task_id, 2, 7)
    assert parse_container_name("dev", name) == (submission_id, task_id, 2, 7)
    assert len(submission_id) <= 48


def test_no_two_instances_have_the_same_record():
    instances = [
        (dag, run, task, index)
        for dag in ("a", "a-b", "A")
        for run in ("r", "b-r")
        for task in ("t", "t1")
        for index in (-1, 0, 1, 10)
    ]

    assert len({build_program_ids(*each) for each in instances}) == len(instances)


# --- what is run ---------------------------------------------------------------------------------


def test_a_program_is_started_with_its_own_command_and_no_content():
    spec = build_spec(PROGRAM.model_copy(update={"executable": "python"}))
    ref = build_record().ref

    start, pod = build_start(spec, ref, {}, gpus=1), build_pod_start(spec, ref, {})

    assert start.argv == pod.argv == ("-m", "report", "{out}")
    assert start.inputs == pod.inputs == ()
    assert (start.image, start.network, start.prepare) == ("ours:1", False, None)
    assert start.environment["TOUCHSTONE_TRAINER"] == "python"
    assert start.environment["TOUCHSTONE_SUBMISSION_ID"] == spec.submission_id


def test_a_program_is_on_its_dags_account_and_none_of_a_systems():
    assert build_labels(build_spec()) == {"program", "user:dag:nightly"}


def test_a_record_of_a_program_is_read_as_it_was_written():
    task = build_record()

    read = Task.load(task.dump())

    assert (read, read.spec) == (task, task.spec)
    assert find_instance(read) == ("nightly", "r", "report", -1)


def test_the_version_before_refuses_a_program_and_reads_all_else():
    """It would train on content that is not there."""
    written = build_spec().model_dump(mode="json")
    assert written["system"] is None, "it must have one, or makes no sense of the record"

    fields = written | {"system": System.FEATURE_SET, "program": None}
    assert "program" not in TaskSpec.model_validate(fields).model_dump(mode="json")


@pytest.mark.parametrize(
    "fields",
    [{"command": []}, {"command": ["x"] * (MAX_WORDS + 1)}, {"command": ["a\0b"]},
     {"command": ["x" * 2001]}, {"dag_id": ""}, {"executable": ""}],
    ids=["none", "many", "zero", "long", "no-dag", "no-executable"],
)  # fmt: skip
def test_what_no_container_can_be_started_with_is_refused(fields):
    with pytest.raises(ValidationError):
        Program.model_validate(PROGRAM.model_dump() | fields)


# --- how its record changes ----------------------------------------------------------------------


def test_another_try_goes_on_with_the_record_and_takes_over_a_changed_dag():
    task = build_record().advance(TaskStatus.ERROR)
    spec = build_spec(PROGRAM.model_copy(update={"command": ("other",)}))

    assert want_program(task, task.spec, attempt=2, run_began_at=NOW) is None
    changed = want_program(task, spec, attempt=2, run_began_at=NOW)
    assert (changed.spec.program.command, changed.fence) == (("other",), 1)


def test_a_try_that_runs_twice_runs_what_it_began_with():
    spec = build_spec(PROGRAM.model_copy(update={"command": ("other",)}))

    assert want_program(build_record(), spec, attempt=1, run_began_at=NOW) is None


def test_a_run_of_the_same_id_that_began_later_is_another_one():
    task = build_record(outcome="succeeded")
    later = NOW + timedelta(hours=1)

    renewed = want_program(task, task.spec, attempt=1, run_began_at=later)

    assert (renewed.newest.number, renewed.fence, renewed.status) == (0, 2, TaskStatus.QUEUED)
    assert [attempt.fence for attempt in renewed.past] == [1]


def test_a_program_has_ended_well_when_its_files_are_stored():
    verdict = {"contract": 1, "exit_code": 0, "outcome": "succeeded", "class": "ok"}
    running = tell(build_record(), AttemptPhase.RUNNING)
    exited = tell(running, AttemptPhase.EXITED, exit_code=0, verdict=verdict)
    assert exited.status is TaskStatus.UPLOADING
    assert close_program(exited, fence=1, now=NOW) is None

    stored = tell(exited, AttemptPhase.UPLOADED)

    assert close_program(stored, fence=2, now=NOW) is None
    closed = close_program(stored, fence=1, now=NOW)
    assert (closed.status, closed.is_at_work) == (TaskStatus.SUCCESS, False)
    assert close_program(closed, fence=1, now=NOW) is None
