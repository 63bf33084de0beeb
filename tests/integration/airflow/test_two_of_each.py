"""
Two schedulers and two dispatchers at work on one PostgreSQL, while dispatchers are killed.

Real: PostgreSQL, Airflow's schedulers and triggerer, the dispatchers, the operator, the queues and
stores. Not real: the executor (threads here run the operator) and the servers (they run no
containers, but answer and keep count as agents do).
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from airflow.api.common.trigger_dag import trigger_dag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
from botocore.config import Config
from sqlalchemy import select

from fakes.submissions import build_submission
from fakes.tasks import read_tasks
from fakes.virtual_agents import VirtualAgents, fail_some_first_attempts
from integration.airflow.dag_for_placement import TASKS
from integration.airflow.database import CONNECTION, migrate, use_database
from integration.airflow.workers import Workers
from touchstone.airflow_db import pools, rows
from touchstone.core import attempts
from touchstone.core.names import build_task_id
from touchstone.core.pools import FINISH_POOL, PRESTAGED_POOL, QUEUE_POOL, UNLIMITED
from touchstone.core.tasks import TaskSpec
from touchstone.hooks.agent import AgentHook
from touchstone.services.starts import Starter
from touchstone.settings import Settings, get_settings
from touchstone.stack.provision import Server, Stores, provision
from touchstone.stores.objects import ObjectStore
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.envelope import generate_key
from touchstone_agent.protocol.messages import Limits
from waiting import wait_for

REPOSITORY = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
ALL = "PLACEMENT_SEEDS" in os.environ
RUNS = 8 if ALL else 4
SLOTS = (1, 1, 2, 2, 3, 3)
KILLS = 4
SEEDS = [int(seed) for seed in os.environ.get("PLACEMENT_SEEDS", "11").split()]
"""When the dispatchers are killed, and what fails; `make test-placement-full` tries several, each
with two hundred tasks, of which CI has half."""


class Program:
    """A process that can be killed, and started again."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        self._command = command
        self._environment = environment
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run(self) -> None:
        """Let it come to its end, which must be a good one."""
        self.start()
        assert self._process is not None
        assert self._process.wait() == 0, self._log.read_text()

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """End it in good order, if it can be had."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            # Nothing is said of how well Airflow's parts end, but they do.
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()


class Installation:
    """
    All parts of it, in a folder.

    :param folder: Settings, logs and DAGs.
    :param database: Address of Airflow's metadata.
    :param endpoint: Address of SQS, S3 and DynamoDB.
    """

    def __init__(self, folder: Path, database: str, endpoint: str) -> None:
        self.folder = folder
        self.endpoint = endpoint
        env = f"p{uuid.uuid4().hex[:6]}"
        self.settings = Settings(env=env, state_dir=folder)
        self.slots = {f"{env}-{number}": slots for number, slots in enumerate(SLOTS)}
        self.keys = {name: generate_key() for name in self.slots}
        self.control = generate_key()
        (folder / "dags").mkdir()
        source = Path(__file__).with_name("dag_for_placement.py")
        (folder / "dags" / "touchstone.py").write_text(source.read_text())
        connections: dict[str, dict[str, Any]] = {
            "TOUCHSTONE_AWS": {
                "conn_type": "aws",
                "login": "test",
                "password": "test",
                "extra": {"endpoint_url": endpoint, "region_name": "us-east-1"},
            },
            "TOUCHSTONE_AGENT": {"conn_type": "touchstone_agent", "password": self.control[0]},
        }
        self.environment = {
            **{f"AIRFLOW_CONN_{name}": json.dumps(item) for name, item in connections.items()},
            CONNECTION: database,
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(folder / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__FERNET_KEY": "",
            "AIRFLOW__CORE__EXECUTOR": "integration.airflow.waiting_executor.WaitingExecutor",
            "AIRFLOW__API_AUTH__JWT_SECRET": uuid.uuid4().hex * 2,
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs"),
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            "AWS_EC2_METADATA_DISABLED": "true",
            "TOUCHSTONE_ENV": env,
            "TOUCHSTONE_STATE_DIR": str(folder),
            # Most of the runs wait suspended for most of the time.
            "TOUCHSTONE_WARM_RUNS": "1",
        }

    def connect(self, service: str) -> Any:
        return boto3.Session().client(
            service,
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(s3={"addressing_style": "path"}),
        )

    def make_program(self, name: str, *command: str) -> Program:
        environment = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "PYTHONPATH": str(REPOSITORY / "tests"),
            **self.environment,
        }
        program = [str(BIN / command[0]), *command[1:]]
        return Program(program, environment, self.folder / f"{name}.log")

    def provision(self) -> RecordStore:
        """Make tables, buckets, queues, servers and pools."""
        stores = Stores(
            dynamodb=self.connect("dynamodb"), s3=self.connect("s3"), sqs=self.connect("sqs")
        )
        servers = [Server(name=name, public_key=key[1]) for name, key in self.keys.items()]
        provision(self.settings, stores, servers)
        system = {QUEUE_POOL: 0, PRESTAGED_POOL: UNLIMITED, FINISH_POOL: UNLIMITED}
        for pool, slots in (system | self.slots).items():
            pools.create_pool(pool, slots, "")
        return RecordStore(self.connect("dynamodb"), self.settings)

    def submit(self, records: RecordStore) -> None:
        """Put submissions and their tasks on record, then start a run for each."""
        for number in range(RUNS):
            now = datetime.now(UTC)
            submission_id = f"{self.settings.env}-s{number}"
            records.create_submission(
                build_submission(
                    submission_id,
                    submitted_by=f"user{number % 2}",
                    accepted_at=now.isoformat(),
                    created_at=now.isoformat(),
                    run_ids=[submission_id],
                    actions=[],
                )
            )
            for index in range(TASKS):
                spec = TaskSpec(
                    submission_id=submission_id,
                    task_id=build_task_id(index + 1),
                    kind="training",
                    system="feature_set",
                    image="none",
                    content_sha256="c" * 64,
                    content_size=1,
                    limits=Limits(),
                    interval=index + 1,
                    submitted_by=f"user{number % 2}",
                )
                task = attempts.new_task(spec, run_id=submission_id, map_index=index, now=now)
                records.create_task(task)
            trigger_dag(
                dag_id=rows.DAG_ID,
                run_id=submission_id,
                triggered_by=DagRunTriggeredByType.TEST,
                triggering_user_name=f"user{number % 2}",
            )

    def count_states(self) -> Counter[str]:
        """Return how many task instances are in which state."""
        with create_session(scoped=False) as session:
            states = session.scalars(
                select(TaskInstance.state).where(
                    TaskInstance.dag_id == rows.DAG_ID, TaskInstance.map_index >= 0
                )
            )
            return Counter(str(state) for state in states)

    def count_suspended(self) -> int:
        """Return how many runs are kept from the scheduler at the moment."""
        with create_session(scoped=False) as session:
            after = session.scalars(select(DagRun.run_after))
            return sum(moment == rows.SUSPENDED_UNTIL for moment in after)

    def wait_for_end(self, killer: Killer, unless: Callable[[], object]) -> int:
        """Wait until all have succeeded; return how many runs were suspended at most."""
        began, most = time.monotonic(), 0

        def look() -> bool:
            nonlocal most
            states, suspended = self.count_states(), self.count_suspended()
            most = max(most, suspended)
            passed = time.monotonic() - began
            print(f"{passed:5.1f} s, {killer.kills} kills, {suspended} suspended: {dict(states)}")
            assert not states.keys() & {"failed", "upstream_failed", "skipped"}, states
            return states["success"] == RUNS * TASKS

        wait_for("all have succeeded", look, unless=unless, every=2)
        return most


@pytest.fixture
def installation(tmp_path, postgres, ministack, monkeypatch) -> Iterator[Installation]:
    """Everything but the processes; this one speaks as part of it, too."""
    database = migrate(postgres.create_database(f"two{uuid.uuid4().hex[:8]}"))
    made = Installation(tmp_path, database, ministack)
    for name, value in made.environment.items():
        if name != "AIRFLOW_HOME":
            monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    with use_database(database):
        yield made
    monkeypatch.undo()
    get_settings.cache_clear()


@pytest.fixture
def records(installation, monkeypatch) -> RecordStore:
    """The stores, filled; the operator's connections are made once, not for each task."""
    records = installation.provision()
    starter = Starter(
        records=records,
        objects=ObjectStore(installation.connect("s3")),
        agent=AgentHook(settings=installation.settings),
        settings=installation.settings,
    )
    monkeypatch.setattr(RecordStore, "connect", lambda _: records)
    monkeypatch.setattr(Starter, "connect", lambda _: starter)
    return records


@pytest.fixture(params=SEEDS)
def seed(request) -> int:
    return int(request.param)


@pytest.fixture
def agents(installation, seed) -> Iterator[VirtualAgents]:
    chance = random.Random(seed)
    made = VirtualAgents(
        env=installation.settings.env,
        slots=installation.slots,
        private_keys={name: key[0] for name, key in installation.keys.items()},
        control_key=installation.control[1],
        connect=lambda: installation.connect("sqs"),
        seconds=lambda: chance.uniform(0.3, 1.2),
        fails=fail_some_first_attempts(0.1, seed),
    )
    yield made
    made.stop()


@pytest.fixture
def programs(installation) -> Iterator[dict[str, Program]]:
    commands = {
        "scheduler-1": ("airflow", "scheduler", "--skip-serve-logs"),
        "scheduler-2": ("airflow", "scheduler", "--skip-serve-logs"),
        "triggerer": ("airflow", "triggerer", "--skip-serve-logs"),
        "dispatcher-1": ("touchstone", "dispatcher"),
        "dispatcher-2": ("touchstone", "dispatcher"),
    }
    made = {name: installation.make_program(name, *command) for name, command in commands.items()}
    try:
        yield made
    finally:
        for program in made.values():
            program.stop()


class Killer:
    """Kills one of the dispatchers somewhere around a container's end, again and again."""

    def __init__(self, agents: VirtualAgents, dispatchers: list[Program], seed: int) -> None:
        self._dispatchers = dispatchers
        self._random = random.Random(seed)
        self._ended = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.kills = 0
        agents.on_exit = self._ended.release

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """Wait until it has killed as often as it should, and all are started again."""
        self._thread.join()

    def _run(self) -> None:
        while self.kills < KILLS:
            for _ in range(self._random.randint(12, 30)):
                self._ended.acquire()
            # The first half second after an end is when there is most to leave half done.
            time.sleep(self._random.uniform(0, 0.5))
            victim = self._random.choice(self._dispatchers)
            victim.kill()
            self.kills += 1
            time.sleep(self._random.uniform(0, 2))
            victim.start()


def test_every_task_runs_once_while_dispatchers_are_killed(
    installation, records, agents, programs, seed
):
    installation.make_program("reserialize", "airflow", "dags", "reserialize").run()
    installation.submit(records)
    for program in programs.values():
        program.start()
    workers = Workers()
    killer = Killer(agents, [programs["dispatcher-1"], programs["dispatcher-2"]], seed)
    agents.start()
    workers.start()
    killer.start()

    def find_fault() -> object:
        ended = [
            name
            for name, program in programs.items()
            if not name.startswith("dispatcher") and not program.is_alive
        ]
        return agents.faults or workers.faults or (ended and f"ended by themselves: {ended}")

    most_suspended = installation.wait_for_end(killer, unless=find_fault)
    killer.join()
    workers.stop()

    assert agents.faults == []
    assert workers.faults == []
    assert installation.count_states() == {"success": RUNS * TASKS}
    assert killer.kills == KILLS
    assert most_suspended > 0
    assert installation.count_suspended() == 0
    assert all(programs[name].is_alive for name in programs), "a part has ended by itself"
    runs = Counter(container.ref.task_key for container in agents.containers)
    retried = [task for task, count in runs.items() if count > 1]
    assert len(runs) == RUNS * TASKS
    assert 0 < len(retried) < RUNS * TASKS / 4
    assert set(runs.values()) == {1, 2}
    assert agents.most == Counter(installation.slots), "some slots were never used"
    submissions = [f"{installation.settings.env}-s{number}" for number in range(RUNS)]
    ours = [task for each in submissions for task in read_tasks(records, each)]
    assert Counter(task.newest.outcome for task in ours) == {"succeeded": RUNS * TASKS}
