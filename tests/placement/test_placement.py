"""Many tasks over servers of several sizes; slots edited, servers drained, agents lost."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import threading
import time
from collections import Counter

import docker
import pytest

from placement.conftest import LEASE_SECONDS, SERVERS
from system.installation import EXAMPLES
from touchstone.client.packing import pack
from touchstone.core.states import TASK_TERMINAL
from waiting import wait_for

MODULE = EXAMPLES / "momentum"
CROWD = 32
HEARTBEAT_SECONDS = 5
"""What the lease is counted from may be so old already when a server falls silent."""


class ContainerLog:
    """What the engine itself says of containers' starts and ends, while it listens."""

    def __init__(self, env):
        self._prefix = f"touchstone-{env}-"
        self._client = docker.from_env()
        self.events = []

    def __enter__(self):
        self._since = time.time()
        self._stream = self._client.events(
            decode=True,
            since=int(self._since),
            filters={"type": "container", "event": ["start", "die"]},
        )
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *error):
        self._stream.close()

    def _listen(self):
        with contextlib.suppress(Exception):
            for event in self._stream:
                name = event["Actor"]["Attributes"].get("name", "")
                if name.startswith(self._prefix):
                    self.events.append((event["timeNano"], event["Action"], name))

    def count_at_once(self, server_of):
        """Return the most containers that ever ran at once, by server."""
        running, most = Counter(), Counter()
        for _, action, name in sorted(self.events):
            server = server_of(name)
            if server is None:
                continue
            running[server] += 1 if action == "start" else -1
            most[server] = max(most[server], running[server])
        return most


@pytest.fixture
def containers(fleet):
    with ContainerLog(fleet.settings.env) as log:
        yield log


def start(installation, intervals, *behaviour):
    listed = ",".join(map(str, intervals))
    done = installation.run(
        "submit", str(MODULE), "--intervals", listed, "--json", "--", *behaviour
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)["submission_id"]


@pytest.fixture
def submit(fleet):
    """Submit trainings; what goes on in the end is cancelled, whatever became of the test."""
    started = []

    def submit_one(intervals, *behaviour):
        started.append(start(fleet, intervals, *behaviour))
        return started[-1]

    yield submit_one
    for submission_id in started:
        fleet.cancel_what_goes_on(submission_id)


def show(installation, submission_id):
    done = installation.run("show", submission_id, "--json")
    return json.loads(done.stdout) if done.returncode == 0 else {"tasks": []}


def trainings(installation, submission_id):
    return [task for task in installation.tasks(submission_id) if task["kind"] == "training"]


def count_running(installation, submission_id):
    """Return how many tasks run, by server."""
    tasks = trainings(installation, submission_id)
    return Counter(task["server"] for task in tasks if task["status"] == "running")


def let_go_on(installation, submission_id):
    """Let all tasks go on that wait for it, and those that begin meanwhile."""

    def let_all_go_and_look():
        installation.let_all_go(submission_id)
        return installation.find_end(submission_id)

    wait_for("all have ended", let_all_go_and_look, every=0.5)


def attempts_of(task):
    return [*task["attempts"], task]


def test_no_server_ever_runs_more_than_its_slots_and_none_idles_while_tasks_wait(
    fleet, containers, submit
):
    """Fourteen tasks over servers of one, two and three slots, by the engine's own log."""
    submission_id = submit(range(1, 15), "until=go")
    wait_for("all slots are in use", lambda: count_running(fleet, submission_id) == SERVERS)
    let_go_on(fleet, submission_id)

    submission = fleet.wait_for_submission(submission_id, "success")

    tasks = trainings(fleet, submission_id)
    assert submission["status"] == "success"
    assert len(tasks) == 14
    assert all(len(attempts_of(task)) == 1 for task in tasks), "every task ran once"
    placed = {task["container"]: task["server"] for task in tasks}
    most = containers.count_at_once(placed.get)
    assert most == SERVERS, "never more than the slots, and all of them in use at once"
    assert any(task["placement"]["was_on_deck"] for task in tasks)


def test_slots_set_to_zero_let_what_runs_end_and_send_the_rest_elsewhere(fleet, containers, submit):
    submission_id = submit(range(1, 11), "until=go")
    wait_for("all slots are in use", lambda: count_running(fleet, submission_id) == SERVERS)

    fleet.set_slots("c", 0)
    for task in trainings(fleet, submission_id):
        if task["server"] == "c":
            fleet.let_go(task)
    wait_for("c has ended what it had", lambda: is_empty(fleet, submission_id, "c"))
    # What was under way to the server in that very moment has arrived and ended by now.
    emptied_at = time.time_ns()
    time.sleep(3)
    placed = {task["container"]: task["server"] for task in trainings(fleet, submission_id)}
    late = [
        name
        for at, action, name in containers.events
        if action == "start" and placed.get(name) == "c" and at > emptied_at
    ]
    assert late == []

    fleet.set_slots("c", 3)
    wait_for("c is used again", lambda: count_running(fleet, submission_id)["c"] == 3)
    let_go_on(fleet, submission_id)
    assert fleet.wait_for_submission(submission_id, "success")
    assert all(len(attempts_of(task)) == 1 for task in trainings(fleet, submission_id))


def is_empty(installation, submission_id, server):
    """Return whether a server has no task, by the records and by Airflow's pool."""
    pool = installation.airflow.get(f"/pools/{server}").json()
    held = pool["occupied_slots"] + pool["scheduled_slots"]
    tasks = [
        task
        for task in trainings(installation, submission_id)
        if task["server"] == server and task["status"] not in TASK_TERMINAL
    ]
    return not held and not tasks


def test_draining_remembers_the_slots_and_attaching_gives_them_back(fleet, submit):
    assert fleet.run("fleet", "drain", "c", "--as", "admin").returncode == 0
    try:
        pools = {p["name"]: p["slots"] for p in fleet.airflow.get("/pools").json()["pools"]}
        assert (pools["c"], pools["c_validation"]) == (0, 0)
        submission_id = submit((1, 2, 3, 4), "seconds=1")
        assert fleet.wait_for_submission(submission_id, "success")
        assert {t["server"] for t in trainings(fleet, submission_id)} <= {"a", "b"}
    finally:
        assert fleet.run("fleet", "attach", "c", "--as", "admin").returncode == 0
    pools = {p["name"]: p["slots"] for p in fleet.airflow.get("/pools").json()["pools"]}
    assert (pools["c"], pools["c_validation"]) == (3, 1)


def test_a_task_that_waits_tells_why_and_a_pause_is_told_loudly(fleet, submit):
    assert fleet.run("pause", "--reason", "power cut", "--as", "admin").returncode == 0
    try:
        submission_id = submit((7,), "seconds=1")
        validation = wait_for(
            "the validation waits, and says so",
            lambda: next((t for t in show(fleet, submission_id)["tasks"] if t["waiting"]), None),
        )
        assert fleet.run("list").stderr.count("paused") == 1
        assert validation["waiting"]["position"] >= 1
        assert "paused" in validation["waiting"]["reason"]
    finally:
        assert fleet.run("resume", "--as", "admin").returncode == 0
    assert fleet.wait_for_submission(submission_id, "success")


@pytest.fixture(scope="module")
def failing(installation):
    """Trainings that fail in each way, all under way at once: they mostly wait for retries."""
    behaviours = ("exit=2", "exit=3", "exit=4", "first-exit=75", "eat=48", "exit=1")
    return {behaviour: start(installation, (5,), behaviour) for behaviour in behaviours}


@pytest.mark.parametrize("code", [2, 3, 4])
def test_a_deterministic_failure_is_tried_once(fleet, failing, code):
    submission_id = failing[f"exit={code}"]

    submission = fleet.wait_for_submission(submission_id, "error")

    (task,) = trainings(fleet, submission_id)
    assert len(attempts_of(task)) == 1
    assert task["reason"] in submission["reason"]


def test_a_temporary_failure_is_tried_on_another_server(fleet, failing):
    submission_id = failing["first-exit=75"]

    assert fleet.wait_for_submission(submission_id, "success")

    (task,) = trainings(fleet, submission_id)
    first, second = attempts_of(task)
    assert first["outcome"] == "failed(infrastructure)"
    assert first["server"] != second["server"]
    assert second["fence"] > first["fence"]


def test_out_of_memory_is_tried_once_more_with_twice_as_much(fleet, failing):
    submission_id = failing["eat=48"]

    assert fleet.wait_for_submission(submission_id, "success")

    (task,) = trainings(fleet, submission_id)
    first, _ = attempts_of(task)
    assert first["failure_class"] == "oom"
    assert len(attempts_of(task)) == 2


def test_a_third_failure_of_the_user_is_the_end_with_the_first_error_line(fleet, failing):
    submission_id = failing["exit=1"]

    submission = fleet.wait_for_submission(submission_id, "error")

    (task,) = trainings(fleet, submission_id)
    assert len(attempts_of(task)) == 3
    assert submission["reason"] == "i5: unknown: it raised"


def test_what_no_server_could_ever_run_is_refused_at_once(fleet):
    done = fleet.run(
        "submit", str(MODULE), "--intervals", "5", "--needs", "min_vram_gib=24", "--wait"
    )

    assert done.returncode == 2
    assert "min_vram_gib" in done.stdout + done.stderr


def test_somebodys_many_submissions_do_not_keep_anothers_first_from_beginning(fleet):
    """In Airflow's own queue of runs it would stand behind all of them."""
    crowd = [f"crowd-{secrets.token_hex(4)}" for _ in range(CROWD)]
    admin = fleet.client("admin")
    source = admin.upload(pack(MODULE, 1 << 20))
    for submission_id in crowd:
        admin.submit_as(submission_id, {"source": source})
    try:
        guest = fleet.submit(MODULE)
        fleet.wait_for_submission(guest, "accepted")
        registered = [item for item in crowd if fleet.submission(item)]
        assert 0 < len(registered) < CROWD, "it took its turn among all of them"
    finally:
        for submission_id in crowd:
            fleet.end_run(submission_id)


def test_a_lost_agents_tasks_run_elsewhere_and_what_it_brings_back_is_refused_or_ended(
    fleet, submit, containers
):
    """
    Silent for good, and back when nobody expects it any more: one result per task.

    One of its attempts has ended meanwhile. The other one trained on beside its successor, and
    whatever came to its slot after it was refused as full.
    """
    for name, slots in {"a": 0, "b": 0, "c": 2}.items():
        fleet.set_slots(name, slots)
    ended, outranked = submit((5,), "until=go"), submit((5,), "seconds=1200")
    before = {each: fleet.wait_for_task(each, "i5", "running") for each in (ended, outranked)}
    assert {task["server"] for task in before.values()} == {"c"}
    fleet.set_slots("b", 2)

    pid = fleet.part("agent-c")["pid"]
    os.kill(pid, signal.SIGSTOP)  # as good as killed for everybody else, and it comes back
    try:
        lost_at = time.monotonic()
        again = {each: wait_for_attempt_on(fleet, each, "b") for each in before}
        assert time.monotonic() - lost_at > LEASE_SECONDS - HEARTBEAT_SECONDS
        assert all(again[each]["fence"] > before[each]["fence"] for each in before)
        next_one = submit((5,), "seconds=2")
        wait_for(
            "the next one waits for a slot",
            lambda: fleet.task(next_one, "i5").get("status") == "queued",
        )
        # It has its result, and nobody to tell it, before its agent is back.
        fleet.let_go(before[ended])
        wait_for("it has ended", lambda: has_exited(before[ended]["container"]))
    finally:
        os.kill(pid, signal.SIGCONT)

    # Long before it ends by itself.
    fleet.wait_until_gone(before[outranked]["container"])
    assert fleet.wait_for_submission(next_one, "success")
    (other,) = trainings(fleet, next_one)
    assert other["server"] == "c"
    assert len(attempts_of(other)) == 1, "it was refused nowhere"
    on_c = {task["container"]: "c" for task in (*before.values(), other)}
    assert containers.count_at_once(on_c.get)["c"] == 2

    fleet.let_go(again[ended])
    assert fleet.wait_for_submission(ended, "success")
    first, second = attempts_of(fleet.task(ended, "i5"))
    assert first["outcome"] == "lost"
    assert (second["server"], second["fence"]) == ("b", again[ended]["fence"])
    rows = fleet.records.list_evaluations(ended)
    assert {row.fence for row in rows} == {again[ended]["fence"]}
    fleet.wait_until_gone(before[ended]["container"])

    newest = fleet.task(outranked, "i5")
    assert (newest["server"], newest["status"]) == ("b", "running")
    assert fleet.run("cancel", outranked).returncode == 0


def wait_for_attempt_on(installation, submission_id, server):
    """Return a submission's training once it runs on a server."""

    def find():
        task = installation.task(submission_id, "i5")
        return task if (task["server"], task["status"]) == (server, "running") else None

    return wait_for(
        f"an attempt of {submission_id} runs on {server}",
        find,
        unless=lambda: installation.find_end(submission_id),
    )


def has_exited(container):
    return docker.from_env().containers.get(container).status == "exited"
