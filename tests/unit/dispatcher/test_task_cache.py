"""Which record is behind which task instance, and what is kept of it."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from fakes.airflow_pools import FakeAirflow
from fakes.tasks import change_fields, with_fields, write_task
from touchstone.core import attempts
from touchstone.core.tasks import TaskSpec
from touchstone.dispatcher.task_cache import TaskCache
from touchstone_agent.protocol.messages import Limits, SlotClass

GIB = 1024


@pytest.fixture
def airflow(clock):
    return FakeAirflow(clock)


@pytest.fixture
def book(records):
    return TaskCache(records)


@pytest.fixture
def reads(records, monkeypatch):
    """How often each way of reading tasks was used."""
    counted = Counter()
    for name in ("list_tasks", "find_task"):
        original = getattr(records, name)

        def count(*args, name=name, original=original):
            counted[name] += 1
            return original(*args)

        monkeypatch.setattr(records, name, count)
    return counted


@pytest.fixture
def enter(airflow, records, clock):
    """Let a task become pending: its record, and the instance that waits for it."""

    def make(submission_id="s-1", interval=5, *, run_id=None, index=0, **fields):
        is_validation = interval is None
        spec = TaskSpec(
            **{
                "submission_id": submission_id,
                "task_id": "validation" if is_validation else f"i{interval}",
                "kind": "validation" if is_validation else "training",
                "system": "feature_set",
                "image": "trainer",
                "content_sha256": "c" * 64,
                "content_size": 10,
                "limits": Limits(),
                "interval": interval,
                "submitted_by": "ann",
                **fields,
            }
        )
        run_id = run_id or submission_id
        records.create_task(
            attempts.new_task(
                spec, run_id=run_id, map_index=-1 if is_validation else index, now=clock()
            )
        )
        task_id, map_index = ("validate", -1) if is_validation else ("train", index)
        return airflow.instances[airflow.add(run_id, task_id, map_index)]

    return make


def end_attempt(records, clock, task_id="i5", **facts):
    def decide(record):
        claimed = attempts.claim_attempt(
            record,
            attempt=record.newest.number + 1,
            server="rio",
            container_of=lambda _: "c",
            now=clock(),
        )
        return with_fields(
            claimed, **({"status": "error", "ended_at": clock().isoformat()} | facts)
        )

    records.change_task("s-1", task_id, decide)


def test_a_training_is_found_by_its_map_index_and_a_validation_by_its_run(book, airflow, enter):
    first, second = enter(interval=1, index=0), enter(interval=5, index=1)
    validation = enter(interval=None)

    book.load(airflow.read_instances())

    assert book.get_requirements(first).key == ("s-1", "i1")
    assert book.get_requirements(second).key == ("s-1", "i5")
    assert book.get_requirements(validation).key == ("s-1", "validation")
    assert book.get_requirements(validation).needs.kind is SlotClass.VALIDATION


def test_a_later_run_of_a_submission_is_found_by_its_own_id(book, airflow, enter):
    instance = enter(run_id="s-1--2")

    book.load(airflow.read_instances())

    assert book.get_requirements(instance).key == ("s-1", "i5")


def test_an_instance_of_a_run_whose_task_a_newer_run_took_over_has_no_demand(
    book, airflow, enter, records
):
    instance = enter()
    change_fields(records, "s-1", "i5", run_id="s-1--2")

    book.load(airflow.read_instances())

    assert book.get_requirements(instance) is None


def test_a_record_that_is_written_later_is_found_then(book, airflow, enter):
    key = airflow.add("s-1", map_index=0)
    book.load(airflow.read_instances())
    assert book.get_requirements(airflow.instances[key]) is None

    enter()
    book.load(airflow.read_instances())

    assert book.get_requirements(airflow.instances[key]) is not None


def test_what_is_known_is_not_read_again(book, airflow, enter, reads):
    instance = enter()
    for _ in range(5):
        book.load(airflow.read_instances())
        book.get_requirements(instance)

    assert reads == {"list_tasks": 1}


def test_unknown_runs_are_read_by_themselves_however_long_the_history_is(
    book, airflow, enter, reads
):
    """All records there are were read as soon as ten runs were new."""
    for number in range(20):
        enter(f"s-{number}")

    book.load(airflow.read_instances())

    assert reads == {"list_tasks": 20}
    assert all(book.get_requirements(instance) for instance in airflow.read_instances())


def test_a_new_try_is_read_again_for_what_the_last_one_ran_into(
    book, airflow, enter, records, clock
):
    instance = enter()
    book.load(airflow.read_instances())
    assert book.get_requirements(instance).avoid == frozenset()
    clock.advance(seconds=100)
    end_attempt(records, clock, outcome="failed(infrastructure)", failure_class="temporary")
    airflow.change(instance.key, try_number=2)

    again = airflow.instances[instance.key]
    book.load(airflow.read_instances())

    requirements = book.get_requirements(again)
    assert requirements.avoid == {"rio"}
    assert requirements.failed_at == clock()
    assert requirements.since == clock() - timedelta(seconds=100)  # it keeps its place in the queue


def test_memory_that_ran_out_is_doubled_in_what_the_next_try_asks_for(
    book, airflow, enter, records, clock
):
    instance = enter(limits=Limits(memory_mib=4 * GIB), min_ram_gib=2)
    book.load(airflow.read_instances())
    assert book.get_requirements(instance).needs.placement.min_ram_gib == 2
    end_attempt(records, clock, outcome="failed(infrastructure)", failure_class="oom")
    airflow.change(instance.key, try_number=2)

    book.load(airflow.read_instances())

    requirements = book.get_requirements(airflow.instances[instance.key])
    assert requirements.needs.placement.min_ram_gib == 8
    assert requirements.avoid == frozenset()


def test_equal_needs_are_one_object(book, airflow, enter):
    """Planning tells needs apart by identity first; 5,000 equal ones must not cost 5,000 times."""
    one, other, different = enter("s-1"), enter("s-2"), enter("s-3", require_cuda=True)

    book.load(airflow.read_instances())

    assert book.get_requirements(one).needs is book.get_requirements(other).needs
    assert book.get_requirements(one).needs != book.get_requirements(different).needs


def test_what_waits_no_more_is_forgotten(book, airflow, enter):
    instance = enter()
    book.load(airflow.read_instances())
    airflow.end(instance.key)

    book.load(airflow.read_instances())

    assert book.find(instance) is None


def test_needs_are_forgotten_with_the_last_task_that_has_them(book, airflow, enter):
    """They were kept for as long as the process lived, one for each job that ever waited."""
    one, other = enter("s-1", job="a"), enter("s-2", job="a")
    for number in range(3, 50):
        enter(f"s-{number}", job=f"job-{number}")
    instances = airflow.read_instances()
    book.load(instances)
    needs = {id(book.get_requirements(instance).needs) for instance in instances}
    assert len(needs) == len(book._needs) == 48

    for instance in instances:
        if instance.key != other.key:
            airflow.end(instance.key)
    book.load(airflow.read_instances())

    assert list(book._needs) == [book.get_requirements(other).needs]
    assert book.get_requirements(one) is None


def test_needs_of_an_earlier_try_are_forgotten_too(book, airflow, enter, records, clock):
    instance = enter(limits=Limits(memory_mib=4 * GIB))
    book.load(airflow.read_instances())
    book.get_requirements(instance)
    end_attempt(records, clock, outcome="failed(infrastructure)", failure_class="oom")
    airflow.change(instance.key, try_number=2)
    again = airflow.instances[instance.key]

    for _ in range(2):
        book.load(airflow.read_instances())
        book.get_requirements(again)

    assert list(book._needs) == [book.get_requirements(again).needs]


def test_a_record_is_read_as_it_is_when_that_matters(book, airflow, enter, records):
    instance = enter()
    book.load(airflow.read_instances())
    change_fields(records, "s-1", "i5", phase="running")

    assert book.find(instance).newest.phase is None
    assert book.read(instance).newest.phase == "running"
    assert book.find(instance).newest.phase == "running"


def test_an_instance_without_a_record_is_read_as_none(book, airflow):
    key = airflow.add("s-1", map_index=0)

    assert book.read(airflow.instances[key]) is None


def test_priority_submitter_and_likeness_come_from_the_schedule(book, airflow, enter):
    instance = enter(priority=7, submitted_by="bob", config_file="deep.toml", interval=20)

    book.load(airflow.read_instances())

    requirements = book.get_requirements(instance)
    assert (requirements.priority, requirements.submitter) == (7, "bob")
    assert (requirements.duration_key.config_file, requirements.duration_key.interval) == (
        "deep.toml",
        20,
    )
    assert requirements.needs.labels == {"feature_set", "user:bob"}


def test_a_record_that_makes_no_sense_is_told_of_once_and_holds_up_nobody(
    book, airflow, enter, records, caplog
):
    """A worker of another version had written it: nothing at all was placed any more."""
    odd, good = enter("s-1"), enter("s-2")
    config = records.get_task("s-1", "i5").dump()["config"] | {"kind": "?"}
    write_task(records, ("s-1", "i5"), {"config": config})

    for _ in range(3):
        book.load(airflow.read_instances())
        assert book.get_requirements(odd) is None
        assert book.get_requirements(good) is not None

    assert [record.message.split(":")[0] for record in caplog.records] == ["could not read s-1/i5"]


def test_a_field_that_a_newer_version_has_added_is_no_obstacle(book, airflow, enter, records):
    instance = enter("s-1")
    config = records.get_task("s-1", "i5").dump()["config"] | {"new": 1}
    write_task(records, ("s-1", "i5"), {"config": config})

    book.load(airflow.read_instances())

    assert book.get_requirements(instance) is not None


def test_a_run_of_any_id_is_found_by_the_submission_that_its_conf_names(airflow, enter, records):
    """What the form triggers has an id of Airflow's own: its trainings waited for ever."""
    instance = enter("s-1", run_id="manual__2026-11-22")
    asked = []

    def read_named(run_ids):
        asked.append(set(run_ids))
        return {"manual__2026-11-22": "s-1"}

    book = TaskCache(records, read_named)
    for _ in range(3):
        book.load(airflow.read_instances())

    assert book.get_requirements(instance).key == ("s-1", "i5")
    assert asked == [{"manual__2026-11-22"}] * 1


@pytest.mark.parametrize("named", ["other", "../s-1", ["s-1"], {"a": 1}, 5, ""])
def test_what_a_run_names_gives_it_none_of_the_tasks_that_are_not_its_own(
    airflow, enter, records, named
):
    enter("s-1")
    stranger = airflow.instances[airflow.add("s-1--2", map_index=0)]
    book = TaskCache(records, lambda _: {"s-1--2": named})

    book.load(airflow.read_instances())

    assert book.find(stranger) is None
    assert book.get_requirements(stranger) is None
