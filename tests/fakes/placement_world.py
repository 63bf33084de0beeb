"""Everything around the placement loop, in memory: Airflow, records, queues, workers and agents."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException, TaskDeferred

from fakes.agents import FakeAgentHook
from fakes.airflow_pools import FakeAirflow, Key, Pool
from fakes.servers import store_server, write_fields
from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.submissions import build_submission
from touchstone.airflow_db.rows import TRAINING, VALIDATION
from touchstone.core import attempts, retries
from touchstone.core.durations import History
from touchstone.core.pools import build_validation_pool
from touchstone.core.records.tasks import Task
from touchstone.core.retries import WaitEnd
from touchstone.core.tasks import TaskSpec
from touchstone.dispatcher.events import EventHandler
from touchstone.dispatcher.placing import Placer
from touchstone.dispatcher.runpod_watcher import RunPodWatcher
from touchstone.dispatcher.task_cache import TaskCache
from touchstone.operators.agent import PlacedOperator
from touchstone.services.control import read_control
from touchstone.services.starts import Starter
from touchstone.settings import Settings
from touchstone.stores.records import RecordStore
from touchstone.stores.tables import RecordExists
from touchstone_agent.protocol.envelope import EventMessage, Header
from touchstone_agent.protocol.messages import AttemptPhase, AttemptRef, Limits, PhaseChanged, Start

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
GOOD = {"outcome": "succeeded", "class": "ok", "exit_code": 0}


class World:
    """
    One installation, moved by hand.

    The operator, the starter, the records' rules and the placement loop are the real ones;
    queues, stores and Airflow's tables are in memory.

    :param patch: Pytest's ``monkeypatch.setattr``: the operator finds its stores by itself.
    :param records: Real records, which are then not in memory.
    """

    def __init__(
        self, patch: Callable[..., None], *, records: RecordStore | None = None, **settings: Any
    ) -> None:
        self.now = NOON
        self.settings = Settings(env="dev", **settings)
        self.airflow = FakeAirflow(self.clock)
        self.records = records or FakeRecordStore(self.settings)
        self.objects = FakeObjectStore(self.clock)
        self.agent = FakeAgentHook()
        self.starter = Starter(
            records=self.records,
            objects=self.objects,
            agent=self.agent,  # type: ignore[arg-type]
            settings=self.settings,
        )
        self.runpod: Any = None
        self.runpod_watcher = RunPodWatcher(
            settings=self.settings,
            pools=self.airflow,
            notes=self.records,
            clock=self.clock,
            find=lambda _: self.runpod,
        )
        self.history = History()
        self.dispatchers: list[Placer] = []
        self.dispatcher = self.make_dispatcher()
        # What agents say is taken in by the real handler, past signatures and queues.
        self.handler = EventHandler(
            records=self.records,
            objects=self.objects,
            agent=self.agent,  # type: ignore[arg-type]
            settings=self.settings,
            clock=self.clock,
        )
        self.fences: dict[Key, int] = {}
        self.keys: dict[tuple[str, str], Key] = {}
        patch("touchstone.stores.records.RecordStore.connect", lambda _: self.records)
        patch("touchstone.services.starts.Starter.connect", lambda _: self.starter)
        patch("touchstone.hooks.agent.AgentHook", lambda **_: self.agent)
        patch("touchstone.operators.agent.get_settings", lambda: self.settings)
        patch("touchstone.operators.agent.datetime", SimpleNamespace(now=lambda _: self.now))
        patch("touchstone.services.starts.datetime", SimpleNamespace(now=lambda _: self.now))

    def clock(self) -> datetime:
        """Return the time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time go by; servers that are alive are heard of."""
        self.now += timedelta(seconds=seconds)
        for entry in self.records.list_servers():
            if not entry.stored.get("is_silent"):
                write_fields(self.records, entry.name, {"heartbeat_at": self.now.isoformat()})

    def make_dispatcher(self, starter: Any = None) -> Placer:
        """Return one more dispatcher's placement loop, which knows nothing yet."""
        made = Placer(
            airflow=self.airflow,
            book=TaskCache(self.records),
            servers=self.records.list_servers,
            control=lambda: read_control(self.records),
            starter=starter or self.starter,
            runpod_watcher=self.runpod_watcher,
            history=self.history,
            settings=self.settings,
            clock=self.clock,
            get_key=lambda: self.agent.placement_key,
        )
        self.dispatchers.append(made)
        return made

    # --- what there is ---------------------------------------------------------------------

    def add_server(
        self,
        name: str,
        *,
        slots: int = 1,
        validation_slots: int = 1,
        vram_gib: float = 0,
        ram_gib: float = 64,
        takes: int | None = None,
        **declared: Any,
    ) -> None:
        """
        Enrol a server that is heard of, with pools.

        :param takes: Trainings that its agent takes at a time; ``None`` to leave that open.
        """
        gpus = [{"name": "gpu", "memory_mib": int(vram_gib * 1024)}] if vram_gib else []
        store_server(
            self.records,
            {
                "server": name,
                "public_key": "key",
                "heartbeat_at": self.now.isoformat(),
                "inventory": {
                    "memory_mib": int(ram_gib * 1024),
                    "gpus": gpus,
                    **({} if takes is None else {"slots": takes}),
                },
                "declared": declared,
            },
        )
        self.airflow.pools[name] = Pool(slots=slots)
        self.airflow.pools[build_validation_pool(name)] = Pool(slots=validation_slots)

    def silence(self, name: str) -> None:
        """Let a server say nothing more."""
        write_fields(self.records, name, {"is_silent": True})

    def revive(self, name: str) -> None:
        """Let a server be heard of again."""
        write_fields(self.records, name, {"is_silent": False, "heartbeat_at": self.now.isoformat()})

    def show(self, name: str, *running: tuple[AttemptRef, str]) -> None:
        """Let a server's heartbeat tell what it runs: attempts with their phases."""
        listed = [[ref.model_dump(mode="json"), phase] for ref, phase in running]
        write_fields(self.records, name, {"running": listed, "heartbeat_at": self.now.isoformat()})

    def submit(self, submission_id: str, *intervals: int, **spec: Any) -> list[Key]:
        """Plan a submission's trainings: they become pending."""
        return [
            self._enter(submission_id, f"i{interval}", index, interval=interval, **spec)
            for index, interval in enumerate(intervals)
        ]

    def validate(self, submission_id: str, **spec: Any) -> Key:
        """Register a submission: its validation becomes pending."""
        return self._enter(submission_id, "validation", -1, **spec)

    def _enter(
        self,
        submission_id: str,
        task_id: str,
        map_index: int,
        *,
        run_id: str | None = None,
        **fields: Any,
    ) -> Key:
        is_validation = task_id == "validation"
        spec = TaskSpec(
            **{
                "submission_id": submission_id,
                "task_id": task_id,
                "kind": "validation" if is_validation else "training",
                "system": "feature_set",
                "image": "trainer",
                "content_sha256": "c" * 64,
                "content_size": 10,
                "limits": Limits(),
                "submitted_by": "ann",
                **fields,
            }
        )
        run_id = run_id or submission_id
        self._put_on_record(submission_id, run_id, spec.submitted_by)
        self.records.create_task(
            attempts.new_task(spec, run_id=run_id, map_index=map_index, now=self.now)
        )
        airflow_task = VALIDATION if is_validation else TRAINING
        key = self.airflow.add(run_id, airflow_task, map_index)
        self.keys[submission_id, task_id] = key
        return key

    def _put_on_record(self, submission_id: str, run_id: str, owner: str) -> None:
        with contextlib.suppress(RecordExists):
            self.records.create_submission(
                build_submission(submission_id, submitted_by=owner, run_ids=[run_id])
            )

    # --- what happens ----------------------------------------------------------------------

    def tick(self, dispatcher: Placer | None = None) -> None:
        """Let a dispatcher make one round of decisions."""
        (dispatcher or self.dispatcher).tick()

    def run_airflow(self) -> None:
        """Let the scheduler queue what it may, and workers begin it."""
        for key in self.airflow.run_scheduler():
            self.work(key)

    def settle(self) -> None:
        """Tick and let Airflow act until nothing changes any more."""
        before = None
        while before != self.airflow.instances:
            before = dict(self.airflow.instances)
            self.tick()
            self.run_airflow()

    def work(self, key: Key) -> None:
        """Let a worker run the operator of a queued task instance."""
        placement = self.airflow.begin(key)
        instance, task = self.airflow.instances[key], self.record(key)
        operator = PlacedOperator(task_id=instance.task_id, interval=task.interval)
        run = SimpleNamespace(
            run_id=instance.run_id,
            conf={"submission_id": task.submission_id},
            triggering_user_name=task.spec.submitted_by,
        )
        ti = SimpleNamespace(
            id=instance.id,
            run_id=instance.run_id,
            try_number=instance.try_number,
            map_index=instance.map_index,
            max_tries=instance.max_tries,
        )
        try:
            store = {"placement": placement}
            operator.execute({"dag_run": run, "ti": ti, "task_state_store": store})  # type: ignore[typeddict-unknown-key,typeddict-item]
        except TaskDeferred as deferral:
            self.fences[key] = deferral.trigger.fence
            self.airflow.defer(key)
        except AirflowRescheduleException:
            self.airflow.end(key, "up_for_reschedule")
        except AirflowFailException:
            self.airflow.end(key, "failed")
        else:
            self.airflow.end(key)

    def exit(self, key: Key, code: int = 0, **details: Any) -> Task:
        """Let the container of a task's newest attempt end; every dispatcher's peer hears it."""
        verdict = GOOD if code == 0 else {"outcome": "failed", "class": "temporary"}
        return self.report(
            key, AttemptPhase.EXITED, exit_code=code, verdict=verdict, files=[], **details
        )

    def report(
        self, key: Key, phase: AttemptPhase, reason: str | None = None, **details: Any
    ) -> Task:
        """Let an agent tell of a task's newest attempt."""
        record = self.record(key)
        event = PhaseChanged(
            ref=record.ref, phase=phase, at=self.now, reason=reason, details=details
        )
        server = record.newest.server
        header = Header(
            message_id="", env="dev", server=server, issued_at=self.now, expires_at=self.now
        )
        self.handler.take(EventMessage(header=header, body=event))
        return self.record(key)

    def trigger(self, key: Key) -> None:
        """Let a deferred task's trigger look at the record, and end the task as it does."""
        instance = self.airflow.instances[key]
        end = retries.find_end(self.record(key), fence=self.fences[key], run_id=instance.run_id)
        if end is WaitEnd.SUCCEED:
            self.airflow.end(key)
        elif end is WaitEnd.RETRY:
            self.airflow.fail(key)
        elif end is WaitEnd.FAIL:
            self.airflow.resume(key)

    # --- what can be seen ------------------------------------------------------------------

    def record(self, key: Key) -> Task:
        """Return the record of the task that an instance waits for."""
        submission_id, task_id = next(name for name, known in self.keys.items() if known == key)
        return self.records.get_task(submission_id, task_id)

    def pool(self, key: Key) -> str:
        """Return the pool that an instance is in."""
        return self.airflow.instances[key].pool

    def state(self, key: Key) -> str:
        """Return an instance's state."""
        return self.airflow.instances[key].state

    def note(self, key: Key) -> dict[str, Any]:
        """Return what was decided last for an instance."""
        return dict(self.airflow.instances[key].placement or {})

    def starts(self, key: Key | None = None) -> list[tuple[str, int]]:
        """Return what was started, in order: the server and the fence of each START."""
        return [
            (server, command.ref.fence)
            for server, command, _ in self.agent.sent
            if isinstance(command, Start)
            and (
                key is None
                or self.keys.get((command.ref.submission_id, command.ref.task_id)) == key
            )
        ]
