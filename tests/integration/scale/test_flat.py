"""
What is read does not grow with what has been: counted after 100 and after 10,000 submissions.

A sample of the campaign has 2,000 of them.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from fakes.servers import write_fields

# Airflow writes its configuration on import; never into the home of whoever runs the tests.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="touchstone-airflow-"))

import pytest
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import get_user
from fastapi.testclient import TestClient

from campaigns import ALL_CAMPAIGNS
from fakes.agents import FakeAgentHook
from fakes.history import History as Past
from fakes.money import FakeBudgets
from fakes.money_promises import build_rental
from fakes.placement_world import World
from fakes.submissions import build_submission
from touchstone.core.durations import ErrorLog, History
from touchstone.core.names import build_console_key
from touchstone.core.paging import TaskListPlace
from touchstone.core.records.notes import TaskWeeks
from touchstone.dispatcher.duration_recorder import DurationRecorder
from touchstone.dispatcher.events import EventHandler
from touchstone.dispatcher.publishing import Publisher
from touchstone.dispatcher.reconcile import Reconciler
from touchstone.services.pods.ledger import Ledger, build_limits
from touchstone.settings import Settings
from touchstone.stores.consoles import find_end
from touchstone.stores.meter import Meter
from touchstone.stores.objects import ObjectStore
from touchstone.stores.records import RecordStore
from touchstone.ui import dependencies
from touchstone.ui.app import build_app
from touchstone.ui.waiting import QueueReader
from touchstone_agent.protocol.envelope import (
    EventMessage,
    Header,
    generate_key,
    load_private_key,
    seal,
)
from touchstone_agent.protocol.messages import (
    AttemptPhase,
    Hello,
    Inventory,
    PhaseChanged,
    Sync,
)

# The long past is made once, by one worker.
pytestmark = pytest.mark.xdist_group("scale")
SIZES = (100, 10_000 if ALL_CAMPAIGNS else 2_000)
CHUNKS = (20, 200)
"""Of a console, which are objects and take longer to write; a unit test has 10,000."""
CHUNK = 32 * 1024
LEARNT = 50
USERS = ("bob", "cyd", "dan", "eve")
INVENTORY = Inventory(
    slots=2, validation_slots=1, runtime="docker", agent_version="1", cpus=2, memory_mib=4096
)


class Runs:
    """Airflow's runs, all of which go on."""

    def find_run_states(self, run_ids: Any) -> dict[str, str]:
        return {}

    def read_users(self, run_ids: Any) -> dict[str, str]:
        return {}

    def find_ended_instances(self, run_ids: Any) -> set[tuple[str, str, int]]:
        return set()

    def release_suspended(self) -> int:
        return 0

    def fail_runs(self, run_ids: Any) -> list[str]:
        return []


class Installation:
    """
    An installation with a past, and a present that is always the same: two tasks run, one waits.

    :param size: Submissions of its past.
    :param chunks: Chunks of the console of one that runs.
    """

    def __init__(
        self, dynamodb: Any, s3: Any, settings: Settings, *, size: int, chunks: int
    ) -> None:
        self.settings = settings
        self.records = RecordStore(dynamodb, settings)
        self.objects = ObjectStore(s3)
        self.meter = Meter(dynamodb, settings)
        self.now = datetime(2027, 1, 1, tzinfo=UTC)
        self.records.put_note(TaskWeeks(first="2000-01-03"))
        Past(submissions=size, tasks=1, users=USERS, is_lean=True).write(dynamodb, settings)
        private, public = generate_key()
        self.key = load_private_key(private)
        self._public_key = public
        self.agent = FakeAgentHook()
        self.handler = EventHandler(
            records=self.records,
            objects=self.objects,
            agent=self.agent,
            settings=settings,
            clock=lambda: self.now,
        )
        self._make_present(chunks)
        self.end = chunks * CHUNK

    def _make_present(self, chunks: int) -> None:
        with pytest.MonkeyPatch.context() as patch:
            tables = {
                name: getattr(self.settings, name)
                for name in ("submissions_table", "tasks_table", "servers_table")
            }
            world = self.world = World(patch.setattr, records=self.records, **tables)
            world.now = self.now
            world.settings = self.settings
            world.add_server("rio", slots=2)
            write_fields(self.records, "rio", {"public_key": self._public_key})
            for number in range(3):
                self.records.create_submission(
                    build_submission(
                        f"now-{number}",
                        accepted_at=self.now.isoformat(),
                        created_at=(self.now + timedelta(seconds=number)).isoformat(),
                        run_ids=[f"now-{number}"],
                        actions=[],
                    )
                )
                world.submit(f"now-{number}", 5, submitted_by="ann")
            world.settle()
        self.running = []
        for entry in self.records.list_tasks_at_work():
            ref = entry.read().ref
            self.say(PhaseChanged(ref=ref, phase=AttemptPhase.RUNNING, at=self.now))
            self.running.append(ref)
        assert len(self.running) == 2
        for number in range(chunks):
            key = build_console_key(self.running[0], number * CHUNK)
            assert self.objects.put_new(self.settings.logs_bucket, key, bytes(CHUNK))
        for number in range(2):
            rental = build_rental(pod=f"now-{number}", pod_id=f"now{number}")
            self.meter.open(rental)
            self.meter.close(rental, at=rental.started_at + timedelta(hours=1), is_useful=True)

    def say(self, body: Any) -> None:
        """Let the server say something, and the dispatcher hear it."""
        header = Header(
            message_id="m",
            env=self.settings.env,
            server="rio",
            issued_at=self.now,
            expires_at=self.now + timedelta(days=1),
        )
        self.handler.handle(seal(EventMessage(header=header, body=body), "rio", self.key))

    def ask(self, path: str, user: str = "ann", role: str = "user", **query: Any) -> Any:
        """Ask the API as somebody, and return the answer."""
        app = build_app()
        app.dependency_overrides |= {
            get_user: lambda: SimpleAuthManagerUser(username=user, role=role),
            dependencies.read_settings: lambda: self.settings,
            dependencies.get_records: lambda: self.records,
            dependencies.get_objects: lambda: self.objects,
            dependencies.get_queue_reader: lambda: QueueReader(self.objects, self.settings),
            dependencies.get_clock: lambda: lambda: self.now,
            dependencies.get_authority: SimpleAuthManager,
        }
        answer = TestClient(app).get(f"/api/v1/{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    # --- what is looked at ------------------------------------------------------------------

    def hello(self) -> None:
        self.say(Hello(inventory=INVENTORY))
        assert set(self.agent.commands(Sync)[-1].expected) == set(self.running)

    def list_all(self) -> None:
        found = self.ask("submissions", "chief", "admin", limit=5)
        assert [each["submitted_by"] for each in found["submissions"][:4]][:3] == ["ann"] * 3

    def list_second_page(self) -> None:
        first = self.ask("submissions", "chief", "admin", limit=5)
        second = self.ask("submissions", "chief", "admin", limit=5, cursor=first["next"])
        assert len(second["submissions"]) == 5

    def list_own(self) -> None:
        assert len(self.ask("submissions", "cyd", limit=5)["submissions"]) == 5

    def list_status(self) -> None:
        found = self.ask("submissions", "chief", "admin", limit=5, status="error")
        assert {each["status"] for each in found["submissions"]} == {"error"}

    def list_own_status(self) -> None:
        found = self.ask("submissions", "dan", limit=1, status="error")
        assert [each["status"] for each in found["submissions"]] == ["error"]

    def list_rare_status(self) -> None:
        found = self.ask("submissions", "ann", limit=5, status="running")
        assert len(found["submissions"]) == 2

    def list_tasks(self) -> None:
        found = self.ask("tasks", "chief", "admin", limit=50)
        assert [each["submitted_by"] for each in found["tasks"][:4]][:3] == ["ann"] * 3
        assert len(found["tasks"]) == 50

    def list_tasks_of_a_status(self) -> None:
        found = self.ask("tasks", "chief", "admin", limit=50, status="success")
        assert len(found["tasks"]) == 50

    def list_tasks_of_a_week(self) -> None:
        cursor = TaskListPlace("2026-01-01T15:00:00+00:00", "s", "i").to_cursor()
        found = self.ask("tasks", "chief", "admin", limit=50, status="success", cursor=cursor)
        assert len(found["tasks"]) == 50

    def queue(self) -> None:
        self.publish()
        assert len(self.ask("queue")["waiting"]) == 1

    def show(self) -> None:
        assert self.ask("submissions/now-0")["tasks"]

    def publish(self) -> None:
        self.world.dispatcher.tick()
        Publisher(
            placer=self.world.dispatcher,
            objects=self.objects,
            settings=self.settings,
            errors=ErrorLog(),
            clock=lambda: self.now,
        ).publish(tick_seconds=0)

    def start(self) -> None:
        history = History()
        recorder = DurationRecorder(history=history, errors=ErrorLog())
        recorder.learn_all(self.records.list_ended_tasks(LEARNT))
        assert len(max(history._seconds.values(), key=len)) == LEARNT

    def reconcile(self) -> None:
        Reconciler(
            records=self.records,
            agent=self.agent,
            settings=self.settings,
            airflow=Runs(),
            clock=lambda: self.now,
            is_hearing=lambda: True,
        ).run()

    def find_bills(self) -> None:
        ledger = Ledger(FakeBudgets(), self.meter, build_limits(self.settings))
        now = build_rental().started_at + timedelta(hours=2)
        assert len(ledger.list_unbilled(now)) == 2

    def follow(self) -> None:
        ref = self.running[0]
        path = f"submissions/{ref.submission_id}/tasks/{ref.task_id}/log"
        assert self.ask(path, offset=self.end)["text"] == ""
        page = self.ask(path, offset=self.end - CHUNK)
        assert page["next_offset"] == self.end

    def find_console_end(self) -> None:
        found = find_end(self.objects, self.settings.logs_bucket, self.running[0])
        assert found == self.end


WORK: dict[str, Callable[[Installation], None]] = {
    "a HELLO": Installation.hello,
    "the list of all": Installation.list_all,
    "its second page": Installation.list_second_page,
    "the list of one's own": Installation.list_own,
    "the list of a status": Installation.list_status,
    "the list of one's own in a status": Installation.list_own_status,
    "the list of few among many": Installation.list_rare_status,
    "the list of tasks": Installation.list_tasks,
    "the list of tasks in a status": Installation.list_tasks_of_a_status,
    "the list of tasks of a week": Installation.list_tasks_of_a_week,
    "the queue": Installation.queue,
    "a submission": Installation.show,
    "a tick and its publication": Installation.publish,
    "the start of a dispatcher": Installation.start,
    "a round of the reconciler": Installation.reconcile,
    "the search for bills": Installation.find_bills,
    "a poll of a console": Installation.follow,
}


@pytest.fixture(scope="module")
def installations(
    dynamodb: Any, s3: Any, make_settings: Callable[..., Settings]
) -> list[Installation]:
    """One with a short past and one with a long one."""
    return [
        Installation(dynamodb, s3, make_settings(), size=size, chunks=chunks)
        for size, chunks in zip(SIZES, CHUNKS, strict=True)
    ]


@pytest.mark.parametrize("name", WORK)
def test_as_much_is_read_after_a_long_past_as_after_a_short_one(installations, reads, name) -> None:
    short, long = (reads.of(lambda each=each: WORK[name](each)) for each in installations)
    assert short == long


def test_the_end_of_a_console_is_found_in_few_readings(installations, reads) -> None:
    """Twice as far each time: ten times as long a console takes a few more looks."""
    short, long = (reads.of(each.find_console_end) for each in installations)
    assert long <= short + 10


def test_a_new_dispatcher_reads_no_more_than_it_learns_from(installations, reads) -> None:
    long = installations[-1]
    assert reads.of(lambda: list(long.records.list_ended_tasks(2_000))) <= 3 * 2_002
