"""The process ``touchstone dispatcher``: composition root and loops."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from types import FrameType

from pydantic import JsonValue

from touchstone.airflow_db import acts, pools, programs, runs
from touchstone.cache import Cached
from touchstone.core.durations import ErrorLog, History
from touchstone.core.records.tasks import Task
from touchstone.core.schedule import Platform
from touchstone.core.throttling import decide_throttling
from touchstone.dispatcher.acting import Chronicler
from touchstone.dispatcher.alarms import Alarms
from touchstone.dispatcher.duration_recorder import DurationRecorder
from touchstone.dispatcher.events import EventHandler
from touchstone.dispatcher.health import serve_health
from touchstone.dispatcher.hearing import EventLoop
from touchstone.dispatcher.placing import Placer
from touchstone.dispatcher.programs import ProgramReconciler
from touchstone.dispatcher.publishing import PUBLISH_SECONDS, Publisher
from touchstone.dispatcher.reaping import ReaperLoop
from touchstone.dispatcher.reconcile import Reconciler
from touchstone.dispatcher.runpod_watcher import RunPodWatcher
from touchstone.dispatcher.staging import ImageStaging
from touchstone.dispatcher.task_cache import TaskCache
from touchstone.dispatcher.welcoming import Welcomer
from touchstone.hooks.agent import AgentHook
from touchstone.hooks.letters import DeadLetters
from touchstone.memory import spare_collector
from touchstone.services.control import read_control
from touchstone.services.fleet import FleetKeeper, find_fleet_file, load_fleet
from touchstone.services.fleet_status import list_warnings
from touchstone.services.starts import Starter
from touchstone.services.troubles import Troubles
from touchstone.settings import Settings, get_settings
from touchstone.stores.aws import build_client
from touchstone.stores.objects import ObjectStore
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.errors import TouchstoneError
from touchstone_agent.protocol.messages import AttemptPhase, SlotClass
from touchstone_agent.protocol.names import build_event_queue

log = logging.getLogger(__name__)

THROTTLE_SECONDS = 1.0
RECONCILE_SECONDS = 5.0
"""How soon what a crash left undone is done."""
TICK_SECONDS = 0.5
"""Between two rounds of placement when nothing happens; events wake it at once."""
BUSY_SECONDS = 0.05
"""After which the pools are asked for again when a scheduler holds them."""
FACTS_SECONDS = 1.0
"""How old heartbeats and pauses may be that placement goes by."""
WELCOME_SECONDS = 3.0
"""Between two looks at servers that join and leave; somebody waits for each."""
FLEET_SECONDS = 30.0
"""Between two looks for servers that were enrolled meanwhile and have no pools yet."""
RENTAL_SECONDS = 20.0
"""Between two looks at what RunPod has."""
CHRONICLE_SECONDS = 5.0
"""Between two looks at what people have done in Airflow."""
REAP_LOOK_SECONDS = 5.0
"""Between two looks whether it is time for the reaper; how often it is, the settings say."""
STAGE_SECONDS = 10.0
"""Between two looks at which images servers are going to need."""
ALARM_SECONDS = 30.0
"""Between two looks for what admins must be told."""
LEARN_AGAIN_SECONDS = 30.0
"""After which the past is read again, if it could not be read."""
FIRST_ROUND_SECONDS = 10.0
"""For which the other loops leave the processor to the first round of placement."""
STUCK_SECONDS = 60.0
"""Without a round of placement for so long, the process is not well."""
LEARNT_TASKS = 2_000
"""Ended tasks, the newest, from which a new process learns how long tasks take."""


class Dispatcher:
    """
    The loops of one process: events, placement, publishing, reconciling, reaping and more.

    Each runs in a thread of its own, because each waits for something else; what one of them
    leaves undone in a fault is done in its next round.

    :param settings: Names and limits of the installation.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.stopping = threading.Event()
        self._wake = threading.Event()
        self._ticked_at = time.monotonic()
        self._has_ticked = threading.Event()
        self._tick_seconds = 0.0
        self._finished: set[str] = set()
        records, agent = RecordStore.connect(settings), AgentHook(settings=settings)
        objects = ObjectStore.connect(settings)
        history, errors = History(), ErrorLog()
        self._troubles = troubles = Troubles(_now)
        self._records = records
        self._servers = Cached(records.list_servers, seconds=FACTS_SECONDS)
        self._runpod_watcher = RunPodWatcher(
            settings=settings, pools=pools, notes=records, clock=_now
        )
        self._recorder = DurationRecorder(history=history, errors=errors, troubles=troubles)
        self._placer = Placer(
            airflow=pools,
            book=TaskCache(records, runs.read_named_submissions, troubles),
            servers=self._servers,
            control=Cached(partial(read_control, records), seconds=FACTS_SECONDS),
            starter=Starter(records=records, objects=objects, agent=agent, settings=settings),
            runpod_watcher=self._runpod_watcher,
            history=history,
            settings=settings,
            clock=_now,
            get_key=lambda: agent.placement_key,
            troubles=troubles,
        )
        self._publisher = Publisher(
            placer=self._placer,
            objects=objects,
            settings=settings,
            errors=errors,
            clock=_now,
            history=history,
            troubles=troubles,
        )
        sqs = build_client("sqs", settings.aws_conn_id)
        self._events = EventLoop(
            sqs,
            build_event_queue(settings.env),
            EventHandler(
                records=records,
                objects=objects,
                agent=agent,
                settings=settings,
                clock=_now,
                on_end=self._on_end,
                troubles=troubles,
            ),
            self.stopping,
            troubles=troubles,
        )
        self._reconciler = Reconciler(
            records=records,
            agent=agent,
            settings=settings,
            airflow=runs,
            clock=_now,
            is_hearing=lambda: self._events.is_hearing,
            on_pod_end=self._recorder.learn,
            end_programs=ProgramReconciler(
                records=records, agent=agent, airflow=programs, clock=_now, troubles=troubles
            ).end_orphans,
            troubles=troubles,
        )
        self._alarms = Alarms(
            records=records,
            letters=DeadLetters(sqs),
            settings=settings,
            clock=_now,
            troubles=troubles,
        )
        self._staging = ImageStaging(
            records=records,
            agent=agent,
            view=lambda: self._placer.view,
            clock=_now,
            troubles=troubles,
        )
        self._keeper = FleetKeeper(
            records=records, pools=pools, settings=settings, clock=_now, troubles=troubles
        )
        self._welcomer = Welcomer(
            records=records, pools=pools, settings=settings, clock=_now, troubles=troubles
        )
        self._reaper = ReaperLoop(records=records, settings=settings, clock=_now)
        self._chronicler = Chronicler(airflow=acts, records=records, clock=_now)

    def run(self) -> None:
        """
        Work until told to stop.

        :raises SystemExit: If one of the loops has ended by itself: the supervisor restarts a
            process that ends, while half a dispatcher would go unnoticed.
        """
        self.load_fleet()
        threads = [
            threading.Thread(target=target, name=name, daemon=True)
            for name, target in (
                ("events", self._events.run),
                ("placing", self._place),
                ("throttling", partial(self._repeat, self._throttle_runs, THROTTLE_SECONDS)),
                ("publishing", partial(self._repeat, self._publish, PUBLISH_SECONDS)),
                ("reconciling", partial(self._repeat, self._reconciler.run, RECONCILE_SECONDS)),
                ("fleet", partial(self._repeat, self._welcome, FLEET_SECONDS)),
                ("welcoming", partial(self._repeat, self._welcomer.run, WELCOME_SECONDS)),
                ("rental", partial(self._repeat, self._runpod_watcher.refresh, RENTAL_SECONDS)),
                ("reaping", partial(self._repeat, self._reaper.run, REAP_LOOK_SECONDS)),
                ("chronicle", partial(self._repeat, self._chronicler.run, CHRONICLE_SECONDS)),
                ("staging", partial(self._repeat, self._staging.run, STAGE_SECONDS)),
                ("alarms", partial(self._repeat, self._alarms.look, ALARM_SECONDS)),
                ("learning", self._learn),
            )
        ]
        for thread in threads:
            thread.start()
        log.info("dispatcher of environment %s is at work", self._settings.env)
        while not self.stopping.wait(1.0):
            ended = [
                thread.name
                for thread in threads
                if not thread.is_alive() and thread.name not in self._finished
            ]
            if ended:
                raise SystemExit(f"the loop {ended[0]!r} has ended")

    def load_fleet(self) -> None:
        """Apply the fleet file, if there is one; a wrong one is reported and changes nothing."""
        with self._troubles.guard("apply", "the fleet file"):
            self._load_fleet()

    def _load_fleet(self) -> None:
        path = find_fleet_file(self._settings)
        try:
            if path is None:
                return
            report = self._keeper.apply_fleet(load_fleet(path), by="dispatcher")
        except TouchstoneError as error:
            log.error("fleet file %s is not applied: %s", path, error)
            return
        for line in (*report.refused, *report.differences, *report.warnings):
            log.warning("fleet file %s: %s", path, line)
        log.info("fleet file %s is applied; pools created: %s", path, len(report.created))

    def _welcome(self) -> None:
        """Give servers of the fleet file that have spoken for the first time their pools."""
        path = find_fleet_file(self._settings)
        if path is None:
            return
        fleet = load_fleet(path)
        if self._keeper.check_fleet(fleet).created:
            report = self._keeper.apply_fleet(fleet, by="dispatcher")
            log.info("fleet file %s: pools created: %s", path, ", ".join(report.created))

    def report_health(self) -> tuple[bool, dict[str, JsonValue]]:
        """Tell whether events are heard and placements made, and since when not."""
        silent = time.monotonic() - self._ticked_at
        is_well = silent < STUCK_SECONDS and self._events.is_hearing
        return is_well, {
            "env": self._settings.env,
            "is_hearing": self._events.is_hearing,
            "seconds_since_tick": round(silent, 1),
            "tick_seconds": round(self._tick_seconds, 4),
            "is_paused": self._placer.view.is_paused,
            "waiting": len(self._placer.view.waiting),
            "warnings": [
                line
                for resource in self._placer.view.resources
                if resource.platform is Platform.ON_PREM
                for line in list_warnings(
                    resource.name,
                    resource.kinds,
                    resource.capability,
                    resource.fit,
                    self._settings,
                )
            ],
            "troubles": [trouble.model_dump(mode="json") for trouble in self._troubles.summarise()],
        }

    def _on_end(self, task: Task) -> None:
        """A container has ended, or an attempt: its slot may be had."""
        if task.newest.phase is AttemptPhase.REJECTED:
            # What it refuses is on its record by now: the next round must not send it more.
            self._servers.forget()
        self._placer.note_exit(task)
        self._wake.set()
        self._recorder.learn(task)

    def _place(self) -> None:
        while not self.stopping.is_set():
            pause = TICK_SECONDS
            started = time.monotonic()
            try:
                self._placer.tick()
                self._ticked_at = time.monotonic()
                self._tick_seconds = self._ticked_at - started
                if not self._has_ticked.is_set():
                    spare_collector()
                    self._has_ticked.set()
                self._troubles.settle("make a round of placement", "")
            except pools.PoolsBusy as error:
                log.debug("%s", error)
                pause = BUSY_SECONDS
            except Exception as error:
                self._troubles.note("make a round of placement", "", error)
            self._wake.wait(pause)
            self._wake.clear()

    def _throttle_runs(self) -> None:
        """Let everybody's next few runs begin, and no more."""
        slots = sum(r.get_slots(SlotClass.VALIDATION) for r in self._placer.view.resources)
        # Twice as many as are validated at a time: the next ones are ready when those end.
        limit = max(self._settings.early_runs, 2 * slots)
        throttling = decide_throttling(runs.read_early_runs(), limit=limit)
        if throttling.release:
            with self._troubles.guard("release", "runs"):
                runs.release_runs(throttling.release)
        if throttling.throttle:
            with self._troubles.guard("throttle", "runs"):
                runs.throttle_runs(throttling.throttle)

    def _publish(self) -> None:
        self._publisher.publish(tick_seconds=self._tick_seconds)

    def _learn(self) -> None:
        """Read past durations from the records, once; then this thread ends."""
        # Reading the past takes seconds, which must not delay placement.
        while not self._has_ticked.wait(1.0):
            if self.stopping.is_set():
                return
        while not self.stopping.is_set():
            with self._troubles.guard("learn from", "the past"):
                self._recorder.learn_all(self._records.list_ended_tasks(LEARNT_TASKS))
                self._finished.add(threading.current_thread().name)
                return
            self.stopping.wait(LEARN_AGAIN_SECONDS)

    def _repeat(self, work: Callable[[], object], seconds: float) -> None:
        name = threading.current_thread().name
        # They import much, which must not delay placement.
        self._has_ticked.wait(FIRST_ROUND_SECONDS)
        while not self.stopping.is_set():
            started = time.monotonic()
            with self._troubles.guard("go on with", name):
                work()
            self.stopping.wait(max(0.5, seconds - (time.monotonic() - started)))


def _now() -> datetime:
    return datetime.now(UTC)


def run() -> None:
    """Run until SIGTERM or SIGINT; SIGHUP reads the fleet file again."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    # Airflow configures logging by itself when it is imported, and quietens ours.
    logging.getLogger("touchstone").setLevel(logging.INFO)
    settings = get_settings()
    dispatcher = Dispatcher(settings)

    def stop(_signal: int, _frame: FrameType | None) -> None:
        dispatcher.stopping.set()

    def reload(_signal: int, _frame: FrameType | None) -> None:
        # Not in the handler itself, which would interrupt whatever the main thread is at.
        threading.Thread(target=dispatcher.load_fleet, name="reload", daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, reload)
    health = (
        serve_health(settings.dispatcher_port, dispatcher.report_health)
        if settings.dispatcher_port
        else None
    )
    try:
        dispatcher.run()
    finally:
        if health is not None:
            health.shutdown()
