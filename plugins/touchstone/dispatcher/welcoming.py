"""Gives servers that have joined their pools, and takes them from those that leave."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime

from touchstone.core import phases
from touchstone.core.enrolment import was_heard
from touchstone.core.fleet import ServerSpec
from touchstone.core.pools import build_validation_pool, describe_pool
from touchstone.core.records.servers import Enrolment, EnrolmentState, Server
from touchstone.core.records.stored import RecordUnreadable
from touchstone.core.records.tasks import Task
from touchstone.services.fleet import PoolFacts, Pools
from touchstone.services.fleet_status import choose_first_slots, count_held
from touchstone.services.troubles import Troubles
from touchstone.settings import Settings
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.messages import SlotClass

log = logging.getLogger(__name__)


class Welcomer:
    """
    Brings servers' enrolments on to what only the control plane's own process can do.

    :param records: The records.
    :param pools: Airflow's pools.
    :param settings: The environment.
    :param clock: The time, UTC.
    :param troubles: Where servers are counted whose records make no sense.
    """

    def __init__(
        self,
        *,
        records: RecordStore,
        pools: Pools,
        settings: Settings,
        clock: Callable[[], datetime],
        troubles: Troubles,
    ) -> None:
        self._records = records
        self._pools = pools
        self._env = settings.env
        self._clock = clock
        self._troubles = troubles

    def run(self) -> None:
        """Make one round; what cannot be done for one server is left for the next."""
        for entry in self._records.list_servers():
            if entry.env != self._env:
                continue
            with self._troubles.guard("welcome, or let go,", entry.name):
                server = entry.read()
                enrolment = server.enrolment
                if enrolment is None or enrolment.state is EnrolmentState.REMOVED:
                    continue
                if enrolment.state is EnrolmentState.REMOVING:
                    self._let_go(entry.name, enrolment)
                else:
                    self._welcome(server, enrolment)

    def _welcome(self, server: Server, enrolment: Enrolment) -> None:
        name = server.server
        is_begun = enrolment.state is EnrolmentState.BEGUN
        if enrolment.at is None:
            raise RecordUnreadable(f"server {name}: enrolment.at: is missing")
        if not server.inventory or (is_begun and not was_heard(server, since=enrolment.at)):
            return
        known = self._pools.read_pools()
        for pool, (slots, description) in _build_pools(server).items():
            if pool not in known:
                self._pools.create_pool(pool, slots, description)
                log.info("%s has joined: pool %s has %s slots", name, pool, slots)
        if is_begun:
            self._move(name, EnrolmentState.BEGUN, EnrolmentState.ENROLLED)

    def _let_go(self, name: str, enrolment: Enrolment) -> None:
        known = self._pools.read_pools()
        ours = {pool: known[pool] for pool in (name, build_validation_pool(name)) if pool in known}
        for pool, facts in ours.items():
            if facts.slots != 0:
                self._pools.set_slots(pool, 0)
        at_work = [
            key for key, where in self._records.find_servers_at_work().items() if where == name
        ]
        if enrolment.is_now:
            for key in at_work:
                with self._troubles.guard("give up", key):
                    self._give_up(name, *key)
        left = max(len(at_work), sum(map(_count_in, ours.values())))
        if left:
            self._note_left(name, left)
            return
        for pool in ours:
            self._pools.remove_pool(pool)
        log.info("%s leaves: it has no pools any more", name)
        self._move(name, EnrolmentState.REMOVING, EnrolmentState.REMOVED)

    def _give_up(self, name: str, submission_id: str, task_id: str) -> None:
        """Put on record that an attempt is lost, so that it is tried again elsewhere."""

        def decide(task: Task) -> Task | None:
            if task.newest.server != name:
                return None
            reason = f"server {name} is being removed"
            return phases.declare_lost(
                task, fence=task.fence, reason=reason, now=self._clock(), is_upload_lost=True
            )

        self._records.change_task(submission_id, task_id, decide)

    def _note_left(self, name: str, left: int) -> None:
        def decide(server: Server) -> Server | None:
            enrolment = server.enrolment
            if enrolment is None or enrolment.left == left:
                return None
            return server.change(enrolment=enrolment.change(left=left))

        self._records.change_server(name, decide)

    def _move(self, name: str, old: EnrolmentState, new: EnrolmentState) -> None:
        def decide(server: Server) -> Server | None:
            enrolment = server.enrolment
            if enrolment is None or enrolment.state is not old:
                return None
            return server.change(enrolment=enrolment.change(state=new))

        self._records.change_server(name, decide)


def _count_in(facts: PoolFacts) -> int:
    # Placement makes instances that are scheduled there pending again.
    return count_held(facts) + facts.scheduled


def _build_pools(server: Server) -> Mapping[str, tuple[int, str]]:
    name, declared = server.server, server.declared or ServerSpec().build_declared()

    def choose(kind: SlotClass) -> int:
        return 0 if server.drained else choose_first_slots(kind, declared, server)

    return {
        name: (choose(SlotClass.TRAINING), describe_pool(name, is_validation=False)),
        build_validation_pool(name): (
            choose(SlotClass.VALIDATION),
            describe_pool(name, is_validation=True),
        ),
    }
