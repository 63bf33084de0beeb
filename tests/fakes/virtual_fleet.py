"""A fleet on a virtual clock: tasks arrive, run as long as they are told to, and end."""

from __future__ import annotations

import datetime as dt
import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from touchstone.core.fairness import Key
from touchstone.core.placement import CUDA_GRACE, Resource, Running, Waiting
from touchstone.core.usage import RecentUse, SlotUse
from touchstone_agent.protocol.messages import SlotClass

from .planning import plan

NOTHING: Mapping[str, float] = MappingProxyType({})
MORNING = dt.datetime(2026, 3, 2, 6, 0, tzinfo=dt.UTC)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A task that arrives at ``task.since`` and will hold a slot for so long."""

    task: Waiting
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ReportedAttempt:
    """A slot that is in use."""

    job: Job
    resource: str
    began: dt.datetime

    @property
    def ends(self) -> dt.datetime:
        return self.began + dt.timedelta(seconds=self.job.seconds)


def expect_truth(held: ReportedAttempt, now: dt.datetime) -> Running:
    """Expect what will be."""
    return Running(ends_p50=held.ends, ends_p90=held.ends)


class VirtualFleet:
    """
    Places by ``plan`` at every arrival, end and end of a grace, and keeps what happened.

    :param servers: What there is; what is free and running is filled in.
    :param weights: Of submitters.
    :param expect: Tells about when a running task ends.
    """

    def __init__(
        self,
        servers: Sequence[Resource],
        *,
        weights: Mapping[str, float] = NOTHING,
        expect: Callable[[ReportedAttempt, dt.datetime], Running] = expect_truth,
    ) -> None:
        self.servers = servers
        self.weights = weights
        self.now = MORNING
        self.waiting: dict[Key, Waiting] = {}
        self.held: dict[Key, ReportedAttempt] = {}
        self.started: dict[Key, ReportedAttempt] = {}
        self.on_end: Callable[[ReportedAttempt], None] = lambda held: None
        self.on_tick: Callable[[], None] = lambda: None
        self._expect = expect
        self._use = RecentUse()
        self._jobs: dict[Key, Job] = {}

    @property
    def usage(self) -> dict[str, float]:
        """What a dispatcher counts that looks as often as here something happens."""
        return self._use.count(
            (
                SlotUse(key=key, submitter=held.job.task.submitter, since=held.began)
                for key, held in self.held.items()
            ),
            self.now,
        )

    def build_resources(self) -> list[Resource]:
        used: dict[tuple[str, SlotClass], list[Running]] = {}
        for held in self.held.values():
            where = (held.resource, held.job.task.needs.kind)
            used.setdefault(where, []).append(self._expect(held, self.now))
        trainings = {s.name: used.get((s.name, SlotClass.TRAINING), []) for s in self.servers}
        validations = {s.name: used.get((s.name, SlotClass.VALIDATION), []) for s in self.servers}
        return [
            replace(
                server,
                free=server.slots - len(trainings[server.name]),
                running=tuple(trainings[server.name]),
                validation_free=server.validation_slots - len(validations[server.name]),
                validation_running=tuple(validations[server.name]),
            )
            for server in self.servers
        ]

    def tick(self) -> None:
        """Place what can be placed."""
        decided = plan(
            list(self.waiting.values()),
            self.build_resources(),
            now=self.now,
            usage=self.usage,
            weights=self.weights,
        )
        for placement in decided.placements:
            task = self.waiting.pop(placement.key)
            held = ReportedAttempt(
                job=self._jobs[task.key], resource=placement.resource, began=self.now
            )
            self.held[task.key] = self.started[task.key] = held

    def run(self, jobs: Iterable[Job]) -> None:
        """Let jobs arrive and run until all have ended."""
        events: list[tuple[dt.datetime, int, Job | None]] = []
        for number, job in enumerate(jobs):
            self._jobs[job.task.key] = job
            heapq.heappush(events, (job.task.since, number, job))
            if job.task.needs.placement.prefer_cuda:
                heapq.heappush(events, (job.task.since + CUDA_GRACE, -1 - number, None))
        while events or self.held:
            ends = [held.ends for held in self.held.values()]
            self.now = min([*ends, *(event[0] for event in events[:1])])
            while events and events[0][0] <= self.now:
                job = heapq.heappop(events)[2]
                if job is not None:
                    self.waiting[job.task.key] = job.task
            for held in [held for held in self.held.values() if held.ends <= self.now]:
                del self.held[held.job.task.key]
                self.on_end(held)
            self.tick()
            self.on_tick()
