"""What is mended when something died in between."""

from __future__ import annotations

import pytest

from fakes.servers import store_server, write_fields
from fakes.tasks import change_fields, read_stored, with_fields, write_task
from touchstone.core.answers.acts import Ended
from touchstone.dispatcher.reconcile import Reconciler
from touchstone.hooks.agent import cancel_task
from touchstone.services.cancel import cancel_submission, retract_submission
from touchstone.services.troubles import Troubles
from touchstone.settings import Settings
from touchstone.stores.tables import RecordNotFound
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.messages import Cancel

NOW = "2026-11-22T12:00:00+00:00"


class FakeAirflow:
    """Runs and task instances by hand; ended runs and released instances are counted."""

    def __init__(self):
        self.run_states = {}
        self.users = {}
        self.ended_instances = set()
        self.failed = []

    def find_run_states(self, run_ids):
        return {run: self.run_states[run] for run in run_ids if run in self.run_states}

    def read_users(self, run_ids):
        return {run: self.users[run] for run in run_ids if run in self.users}

    def find_ended_instances(self, run_ids):
        return {item for item in self.ended_instances if item[0] in set(run_ids)}

    def release_suspended(self):
        return 0

    def fail_runs(self, run_ids):
        self.failed += run_ids
        return list(run_ids)


@pytest.fixture
def airflow():
    return FakeAirflow()


@pytest.fixture
def hearing():
    return {"now": True}


@pytest.fixture
def ended_pods():
    return []


@pytest.fixture
def reconciler(records, agent, settings, clock, airflow, hearing, ended_pods):
    return Reconciler(
        records=records,
        agent=agent,
        settings=settings,
        airflow=airflow,
        clock=clock,
        is_hearing=lambda: hearing["now"],
        on_pod_end=lambda record: ended_pods.append(record.task_id),
    )


def cancel(records, agent, **changes):
    return cancel_task(
        records,
        agent,
        **({"submission_id": "s-1", "task_id": "i5", "by": "ann", "reason": "enough"} | changes),
    )


def test_a_cancel_is_sent_again_until_the_agent_answers(reconciler, records, agent, make_task):
    make_task()
    cancel(records, agent)

    reconciler.run()
    reconciler.run()
    change_fields(records, "s-1", "i5", status="cancelled")
    reconciler.run()

    assert len(agent.commands(Cancel)) == 3


def test_a_kill_meant_for_an_older_attempt_leaves_the_newer_one_alone(records, agent, make_task):
    make_task(attempt=2)

    record = cancel(records, agent, only_fence=1)

    assert record.newest.cancel is None
    assert agent.sent == []


def test_cancelling_what_has_ended_is_success(records, agent, make_task):
    make_task(status="success")

    assert cancel(records, agent).status == "success"
    assert agent.sent == []


@pytest.fixture
def silent_server(records, server_key, make_task, clock):
    """A server that took a task and was last heard of a lease ago."""
    make_task(phase="running", status="running")
    write_fields(records, "local", {"heartbeat_at": clock().isoformat()})
    clock.advance(seconds=910)


def status(records):
    return records.get_task("s-1", "i5").status


def test_a_server_silent_for_the_lease_and_while_we_listen_loses_its_tasks(
    reconciler, records, silent_server, clock
):
    reconciler.run()
    assert status(records) == "running"

    clock.advance(seconds=130)
    reconciler.run()
    assert status(records) == "lost"
    assert "silent" in records.get_task("s-1", "i5").newest.reason


def test_a_dispatcher_that_was_away_itself_gives_servers_time_to_be_heard(
    reconciler, records, silent_server, clock, hearing
):
    hearing["now"] = False
    for _ in range(3):
        reconciler.run()
        clock.advance(seconds=130)
    hearing["now"] = True
    reconciler.run()
    assert status(records) == "running"

    write_fields(records, "local", {"heartbeat_at": clock().isoformat()})
    clock.advance(seconds=130)
    reconciler.run()
    assert status(records) == "running"


def test_a_start_that_nobody_took_and_nobody_may_take_any_more_is_lost(
    reconciler, records, make_task, clock
):
    make_task()
    clock.advance(minutes=50)
    reconciler.run()
    assert status(records) == "queued"

    clock.advance(minutes=15)
    reconciler.run()
    assert status(records) == "lost"
    assert records.get_task("s-1", "i5").newest.is_retriable


def test_files_are_waited_for_longer_than_a_container(reconciler, records, silent_server, clock):
    change_fields(records, "s-1", "i5", status="uploading", exited_at=clock().isoformat())
    for _ in range(2):
        clock.advance(seconds=130)
        reconciler.run()
    assert status(records) == "uploading"

    clock.advance(hours=6)
    reconciler.run()
    assert status(records) == "lost"


def test_an_attempt_whose_airflow_task_has_ended_is_an_orphan(
    reconciler, records, agent, airflow, make_task, clock
):
    make_task(phase="running", status="running")
    airflow.ended_instances = {("s-1", "train", 0)}
    reconciler.run()
    assert agent.commands(Cancel) == []

    clock.advance(seconds=31)
    reconciler.run()
    assert [command.ref.fence for command in agent.commands(Cancel)] == [1]


def test_an_attempt_that_is_waited_for_is_none(reconciler, agent, airflow, make_task, clock):
    make_task(phase="running", status="running")
    airflow.ended_instances = {("s-1", "train", 1), ("s-2", "train", 0), ("s-1", "validate", -1)}
    clock.advance(seconds=60)

    reconciler.run()

    assert agent.commands(Cancel) == []


def test_a_cancel_that_was_only_written_down_is_carried_out(
    reconciler, records, airflow, make_submission, make_task
):
    make_submission("running", cancel={"by": "ann", "at": NOW, "reason": "cancelled by ann"})
    make_task(attempt=0)

    reconciler.run()

    assert airflow.failed == ["s-1"]
    assert records.get_submission("s-1").status == "cancelled"
    assert records.get_submission("s-1").reason == "cancelled by ann"
    assert status(records) == "cancelled"


def test_a_run_ended_by_hand_cancels_its_tasks_and_then_closes_the_submission(
    reconciler, records, agent, airflow, make_submission, make_task
):
    make_submission("running")
    make_task()
    airflow.run_states["s-1"] = "failed"

    reconciler.run()
    assert records.get_submission("s-1").status == "running"
    assert len(agent.commands(Cancel)) >= 1

    change_fields(records, "s-1", "i5", status="cancelled", outcome="cancelled")
    reconciler.run()
    assert records.get_submission("s-1").status == "cancelled"


@pytest.mark.parametrize(("user", "is_touched"), [("eve", False), ("ann", True), ("admin", True)])
def test_a_strangers_run_of_the_same_id_ends_nothing_of_the_one_on_record(
    reconciler, agent, airflow, make_submission, make_task, clock, records, user, is_touched
):
    """Somebody deleted a run, and another triggered one of its id, which was refused and failed."""
    make_submission("running", submitted_by="ann")
    make_task(phase="running", status="running")
    make_task("validation", kind="validation", phase="running", status="running")
    for task in ("i5", "validation"):
        config = records.get_task("s-1", task).dump()["config"] | {"submitted_by": "ann"}
        change_fields(records, "s-1", task, config=config)
    airflow.run_states["s-1"], airflow.users["s-1"] = "failed", user
    airflow.ended_instances = {("s-1", "validate", -1), ("s-1", "train", 0)}
    clock.advance(seconds=60)

    reconciler.run()

    assert bool(agent.commands(Cancel)) is is_touched
    assert records.get_submission("s-1").status == "running"


def test_a_run_that_failed_by_a_fault_makes_the_submission_an_error(
    reconciler, records, airflow, make_submission, make_task
):
    make_submission("running")
    make_task(status="lost", outcome="lost", reason="server gone")
    airflow.run_states["s-1"] = "failed"

    reconciler.run()

    assert records.get_submission("s-1").status == "error"
    assert records.get_submission("s-1").reason == "i5: server gone"


def test_a_run_at_work_or_not_there_yet_is_left_alone(
    reconciler, records, airflow, make_submission
):
    make_submission("queued")
    reconciler.run()
    airflow.run_states["s-1"] = "running"
    reconciler.run()

    assert records.get_submission("s-1").status == "queued"


def test_a_submission_is_cancelled_run_first(records, agent, make_submission, make_task):
    make_submission("running")
    make_task("i1")
    make_task("i5", attempt=0)
    make_task("i20", status="success")
    ended = []

    done = cancel_submission(
        "s-1",
        by="ann",
        reason="wrong data",
        records=records,
        agent=agent,
        end_runs=lambda run_ids: ended.extend(run_ids) or ended,
    )

    assert done == Ended(cancelled_tasks=("i1", "i5"), ended_runs=("s-1",))
    assert [command.ref.task_id for command in agent.commands(Cancel)] == ["i1"]
    assert records.get_task("s-1", "i5").status == "cancelled"
    assert records.get_submission("s-1").status == "cancelled"
    assert records.get_submission("s-1").reason == "cancelled by ann: wrong data"


def test_cancelling_twice_changes_nothing_more(records, agent, make_submission):
    make_submission("success")

    cancel_submission("s-1", by="ann", records=records, agent=agent, end_runs=lambda _: [])

    assert records.get_submission("s-1").status == "success"


def test_a_retracted_submission_keeps_its_record(records, agent, make_submission):
    make_submission("success", score=0.5)

    for _ in range(2):
        retract_submission("s-1", by="ann", records=records, agent=agent, end_runs=lambda _: [])

    assert records.get_submission("s-1").status == "retracted"
    assert records.get_submission("s-1").score == 0.5


def test_what_is_retracted_is_replayed_by_nobody(records, agent, make_submission):
    make_submission("success")
    for name, of in (("again", "s-1/i5"), ("theirs", "s-1/i20"), ("other", "s-10/i5")):
        make_submission("running", submission_id=name, run_ids=[name], replay_of=of)
    make_submission("success", submission_id="done", replay_of="s-1/i5")
    ended = []

    def end_runs(run_ids):
        ended.extend(run_ids)
        return list(run_ids)

    done = retract_submission("s-1", by="ann", records=records, agent=agent, end_runs=end_runs)

    statuses = {r: records.get_submission(r).status for r in ("again", "theirs", "other", "done")}
    assert statuses == {
        "again": "cancelled",
        "theirs": "cancelled",
        "other": "running",
        "done": "success",
    }
    assert records.get_submission("again").reason == "cancelled by ann: s-1 was retracted"
    assert ended == list(done.ended_runs) == ["s-1", "again", "theirs"]


def test_a_replay_that_cannot_be_ended_keeps_no_other_and_is_ended_the_next_time(
    records, agent, make_submission
):
    make_submission("success")
    for name in ("again", "theirs"):
        make_submission("running", submission_id=name, run_ids=[name], replay_of="s-1/i5")
    is_away = True

    def end_runs(run_ids):
        if is_away and "again" in run_ids:
            raise TransientError("Airflow's database is away")
        return list(run_ids)

    def retract():
        return retract_submission("s-1", by="ann", records=records, agent=agent, end_runs=end_runs)

    def find_statuses():
        return [records.get_submission(name).status for name in ("s-1", "again", "theirs")]

    with pytest.raises(TransientError, match="away"):
        retract()
    assert find_statuses() == ["retracted", "running", "cancelled"]

    is_away = False
    retract()
    assert find_statuses() == ["retracted", "cancelled", "cancelled"]


def test_an_unknown_submission_cannot_be_cancelled(records, agent):
    with pytest.raises(RecordNotFound):
        cancel_submission("s-9", by="ann", records=records, agent=agent, end_runs=lambda _: [])


@pytest.fixture
def in_pod(records, make_submission, make_task):
    """A training in a rented pod, whose submission was accepted."""
    make_submission("queued", accepted_at="2026-11-22T11:00:00+00:00")
    make_task(platform="runpod", phase="accepted", status="running")


def test_a_submission_runs_as_soon_as_one_of_its_pods_trains(reconciler, records, in_pod):
    change_fields(records, "s-1", "i5", status="preparing")
    reconciler.run()
    assert records.get_submission("s-1").status == "queued"

    change_fields(records, "s-1", "i5", status="running")
    reconciler.run()
    assert records.get_submission("s-1").status == "running"


def test_an_end_in_a_pod_is_told_once(reconciler, records, in_pod, ended_pods):
    reconciler.run()
    assert ended_pods == []

    change_fields(records, "s-1", "i5", status="success", outcome="succeeded")
    reconciler.run()
    reconciler.run()
    assert ended_pods == ["i5"]


def test_a_pod_is_looked_after_by_its_trigger_not_by_silence(
    reconciler, records, agent, in_pod, clock
):
    cancel(records, agent)
    for _ in range(3):
        clock.advance(hours=1)
        reconciler.run()

    assert status(records) == "running"
    assert agent.commands(Cancel) == []


def test_a_validation_in_a_pod_makes_no_submission_run(reconciler, records, in_pod):
    change_fields(records, "s-1", "i5", kind="validation")
    reconciler.run()
    assert records.get_submission("s-1").status == "queued"


def add_silent_task(records, clock, submission_id="s-2"):
    """Another submission's training, on a server that was last heard of now."""
    store_server(
        records,
        {"server": "dead", "env": "dev", "public_key": "k", "heartbeat_at": clock().isoformat()},
    )
    task = records.get_task("s-1", "i5")
    other = {
        "submission_id": submission_id,
        "server": "dead",
        "cancel": None,
        "phase": "running",
        "status": "running",
    }
    records.create_task(with_fields(task, **other))


def pass_time(reconciler, clock, minutes=20):
    for _ in range(minutes):
        clock.advance(seconds=60)
        reconciler.run()


def test_a_server_without_a_queue_keeps_nothing_of_the_others_from_being_done(
    reconciler, records, agent, airflow, make_task, make_submission, clock, server_key, monkeypatch
):
    """The queue of one server was deleted: nobody's task was lost, closed or orphaned any more."""
    make_task()
    cancel(records, agent)
    add_silent_task(records, clock)
    make_submission("running", submission_id="s-3", run_ids=["s-3"])
    airflow.run_states["s-3"] = "failed"
    sent = agent.send

    def send(server, command, **kwargs):
        if server == "local":
            raise PermanentError("sending cancel to ctl-local.fifo: NonExistentQueue")
        return sent(server, command, **kwargs)

    monkeypatch.setattr(agent, "send", send)
    pass_time(reconciler, clock)

    assert records.get_task("s-2", "i5").status == "lost"
    assert records.get_submission("s-3").status == "cancelled"


def write(records, changes):
    """Change a task as another version would: this one keeps to its own words."""
    write_task(records, ("s-1", "i5"), changes)


ODD_TASKS = [
    {"status": "dancing"},
    {"intent_at": "yesterday"},
    {"intent_at": None, "phase": None},
    {"cancel": {"reason": "x"}},
    {"cancel": "x", "attempt": 1},
    {"config": None, "status": "running", "running_at": "2026-11-22T12:00:00+00:00"},
    {"run_id": None},
    {"kind": None},
    {"last_event_at": 7, "status": "preparing"},
    {"fence": "x"},
]


@pytest.mark.parametrize("odd", ODD_TASKS)
def test_a_task_whose_record_makes_no_sense_keeps_no_other_from_being_lost(
    reconciler, records, make_task, clock, server_key, odd
):
    make_task(phase="running", status="running")
    add_silent_task(records, clock)
    write(records, odd)

    pass_time(reconciler, clock)

    assert records.get_task("s-2", "i5").status == "lost"


@pytest.mark.parametrize("odd", [{"status": "dancing"}, {"kind": None}, {"fence": "x"}])
def test_what_a_record_is_of_that_makes_no_sense_goes_on_whatever_becomes_of_its_run(
    reconciler, records, agent, airflow, make_task, make_submission, clock, server_key, odd
):
    """Left out of a list it would look like one that has ended."""
    make_submission("running")
    make_task(phase="running", status="running")
    write(records, odd)
    airflow.run_states["s-1"] = "failed"
    airflow.ended_instances = {("s-1", "train", 0)}

    pass_time(reconciler, clock)

    assert agent.commands(Cancel) == []
    assert read_stored(records, "s-1", "i5")["phase"] == "running"
    assert records.get_submission("s-1").status == "running"


@pytest.mark.parametrize("odd", [{"heartbeat_at": "never"}, {"heartbeat_at": 7}, {"running": 7}])
def test_a_server_whose_record_makes_no_sense_keeps_no_other_from_being_silent(
    reconciler, records, make_task, clock, server_key, odd
):
    make_task(phase="running", status="running")
    add_silent_task(records, clock)
    write_fields(records, "local", {"heartbeat_at": clock().isoformat(), **odd})

    pass_time(reconciler, clock)

    assert records.get_task("s-2", "i5").status == "lost"


def test_a_time_without_a_zone_is_one_of_utc(reconciler, records, make_task, clock, server_key):
    make_task(phase="running", status="running", intent_at="2026-11-22T12:00:00")
    write_fields(records, "local", {"heartbeat_at": "2026-11-22T12:00:00"})

    pass_time(reconciler, clock)

    assert status(records) == "lost"


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        ({"run_ids": []}, ("find the run of", "s-1")),
        ({"run_ids": None}, ("find the run of", "s-1")),
        ({"cancel": {"reason": "x"}}, ("read the record of", "cancel.by")),
        ({"schedule": {"intervals": [0]}}, ("close", "schedule.intervals")),
    ],
)
def test_a_submission_whose_record_makes_no_sense_keeps_no_other_open(
    reconciler, records, airflow, make_submission, odd, told
):
    table = Settings().submissions_table
    make_submission("running")
    records.put_stored(table, records.get_stored(table, "s-1") | odd)
    before = records.get_stored(table, "s-1")
    make_submission("running", submission_id="s-2", run_ids=["s-2"])
    airflow.run_states |= {"s-1": "failed", "s-2": "failed"}

    reconciler.run()

    assert records.get_submission("s-2").status == "cancelled"
    assert records.get_stored(table, "s-1") == before, "nobody acts as if it were not there"
    (trouble,) = [each for each in reconciler._troubles.summarise() if each.what == told[0]]
    assert told[1] in f"{trouble.item} {trouble.reason}"


def test_a_submission_that_was_mended_is_closed_like_any_other(
    reconciler, records, airflow, make_submission
):
    table = Settings().submissions_table
    make_submission("running")
    good = records.get_stored(table, "s-1")
    records.put_stored(table, good | {"cancel": "x"})
    airflow.run_states["s-1"] = "failed"
    reconciler.run()
    assert [each.what for each in reconciler._troubles.summarise()] == ["read the record of"]

    records.put_stored(table, good)
    reconciler.run()

    assert records.get_submission("s-1").status == "cancelled"
    assert reconciler._troubles.summarise() == ()


@pytest.mark.parametrize("step", ["find_run_states", "find_ended_instances", "release_suspended"])
def test_a_step_that_fails_as_a_whole_keeps_no_other_from_being_made(
    reconciler, records, airflow, silent_server, clock, monkeypatch, step
):
    def fail(*_):
        raise OSError("database is locked")

    monkeypatch.setattr(airflow, step, fail)
    pass_time(reconciler, clock, minutes=4)

    assert status(records) == "lost"


def test_what_could_not_be_done_is_counted_and_told_once(
    records, agent, settings, clock, airflow, make_task, caplog, server_key
):
    troubles = Troubles(clock)
    reconciler = Reconciler(
        records=records,
        agent=agent,
        settings=settings,
        airflow=airflow,
        clock=clock,
        is_hearing=lambda: True,
        troubles=troubles,
    )
    make_task()
    write(records, {"status": "dancing"})

    for _ in range(5):
        reconciler.run()

    (trouble,) = troubles.summarise()
    assert (trouble.what, trouble.item, trouble.times) == ("make sense of", "s-1/i5", 5)
    assert len([record for record in caplog.records if "s-1/i5" in record.message]) == 1


def run_for(reconciler, records, clock, **time):
    """Let time pass on a server that is alive."""
    clock.advance(**time)
    write_fields(records, "local", {"heartbeat_at": clock().isoformat()})
    reconciler.run()


def test_a_heartbeat_renews_nothing_of_an_attempt_that_runs_beyond_its_limit(
    reconciler, records, make_task, clock, server_key
):
    """Its server said that it was alive for ever, and that was all that was asked of it."""
    wall = 86_400
    make_task(phase="running", status="running", running_at=clock().isoformat())

    run_for(reconciler, records, clock, seconds=wall + 600)
    assert status(records) == "running"
    run_for(reconciler, records, clock, seconds=600)

    assert status(records) == "lost"
    assert "beyond its limit of 1 day" in records.get_task("s-1", "i5").newest.reason
    assert records.get_task("s-1", "i5").newest.is_retriable


def test_a_heartbeat_renews_nothing_of_an_attempt_that_never_begins(
    reconciler, records, make_task, clock, server_key
):
    make_task(phase="preparing", status="preparing", last_event_at=clock().isoformat())

    run_for(reconciler, records, clock, minutes=119)
    assert status(records) == "preparing"
    run_for(reconciler, records, clock, minutes=2)

    assert status(records) == "lost"


@pytest.mark.parametrize("odd", [{"declared": 7}, {"drained": 7}, {"heartbeat_at": "never"}])
def test_nothing_is_lost_on_a_server_whose_record_makes_no_sense(
    reconciler, records, agent, clock, silent_server, odd
):
    write_fields(records, "local", odd)

    pass_time(reconciler, clock, minutes=60)

    assert status(records) == "running"
    assert agent.sent == []

    write_fields(
        records, "local", {next(iter(odd)): None, "heartbeat_at": "2026-11-22T12:00:00+00:00"}
    )
    pass_time(reconciler, clock)

    assert status(records) == "lost"
