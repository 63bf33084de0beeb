"""The event loop: what agents report becomes task records, and grants for what they ask."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime

from touchstone.cache import Cached
from touchstone.core import attempts, phases
from touchstone.core.holds import (
    find_refusal,
    hold_blind,
    hold_server,
    release_blind,
    release_renewed,
    release_server,
)
from touchstone.core.images import read_fit
from touchstone.core.outcomes import Outcome
from touchstone.core.placement_inputs import find_capability, find_kinds
from touchstone.core.records.servers import FROM_HEARTBEATS, Server, ServerEntry, StoredInventory
from touchstone.core.records.stored import RecordUnreadable
from touchstone.core.records.tasks import Task
from touchstone.dispatcher.grants import answer_grants
from touchstone.dispatcher.hearing import EventOpener
from touchstone.dispatcher.logins import answer_login, answer_staged_login
from touchstone.hooks.agent import AgentHook
from touchstone.services.fleet_status import list_warnings
from touchstone.services.starts import mark_running
from touchstone.services.troubles import Troubles
from touchstone.settings import Settings
from touchstone.stores.objects import ObjectStore
from touchstone.stores.parts import Parts, find_long_list
from touchstone.stores.records import RecordStore
from touchstone.stores.tables import RecordNotFound, RecordUnfit
from touchstone_agent.protocol.envelope import EventMessage
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.messages import (
    FINAL_PHASES,
    Acknowledge,
    AttemptPhase,
    AttemptRef,
    Command,
    GrantsWanted,
    Heartbeat,
    Hello,
    PhaseChanged,
    Poison,
    Progress,
    PullLogin,
    PullLoginWanted,
    SlotClass,
    Sync,
)
from touchstone_agent.protocol.words import build_line

log = logging.getLogger(__name__)

ENDING_PHASES = FINAL_PHASES | {AttemptPhase.EXITED}
"""Phases that somebody waits for."""

_TAKEN = frozenset({AttemptPhase.ACCEPTED, AttemptPhase.RUNNING})
"""Phases that show what a server takes."""

AT_WORK_SECONDS = 1.0
"""How old the list of all that is at work may be that HELLO is answered from: when a fleet is
switched on all of it says HELLO at once."""


class EventHandler:
    """
    Acts on one event at a time; acting on the same one twice changes nothing more.

    :param records: The records.
    :param objects: Signs for objects.
    :param agent: Answers agents.
    :param settings: Names of the installation.
    :param clock: The time, UTC.
    :param on_end: Told of a task whose container has ended, or that never had one.
    :param troubles: Where is counted what follows from an event and could not be done.
    """

    def __init__(
        self,
        *,
        records: RecordStore,
        objects: ObjectStore,
        agent: AgentHook,
        settings: Settings,
        clock: Callable[[], datetime],
        on_end: Callable[[Task], None] = lambda _: None,
        troubles: Troubles | None = None,
    ) -> None:
        self._on_end = on_end
        self._troubles = troubles or Troubles(clock)
        self._with_holds: set[str] = set()
        self._records = records
        self._objects = objects
        self._agent = agent
        self._parts = Parts(objects, settings.content_bucket)
        self._settings = settings
        self._clock = clock
        self._opener = EventOpener(
            records,
            env=settings.env,
            clock=clock,
            troubles=self._troubles,
            on_read=self._note_holds,
        )
        self._at_work = Cached(records.find_servers_at_work, seconds=AT_WORK_SECONDS)

    def handle(self, text: str) -> str:
        """
        Check one message and act on it.

        :return: What it was, for the log.
        :raises MessageRefused: If it must be dropped: forged, expired, malformed, not ours.
        :raises TransientError: If a store cannot be reached; the message comes again.
        """
        message = self._opener.open(text)
        self.take(message)
        return _describe(message)

    def take(self, message: EventMessage) -> None:
        """Act on a message that was checked; what no record can hold is logged and counted."""
        try:
            self._act(message)
        except RecordUnfit as error:
            self._end_unfit(message, error)
        except RecordNotFound:
            # Its key is honoured for a moment longer than it belongs to us.
            log.warning("server %s has left: %s dropped", message.header.server, message.body.kind)

    def give_up(self, text: str, error: Exception) -> str:
        """
        Do for an event that failed again and again what must not wait for it.

        An end that was told is put on record without its details, so that nobody waits for it and
        its slot is free; of anything else nothing is kept.

        :param text: The message.
        :param error: How it failed last.
        :return: What it was, for the log.
        :raises TouchstoneError: If not even that can be done.
        """
        message = self._opener.open(text)
        body, server = message.body, message.header.server
        if isinstance(body, PhaseChanged) and body.phase in ENDING_PHASES:
            why = f"the dispatcher failed on it: {build_line(repr(error))}"
            self._end_without_details(server, body, why)
        return _describe(message)

    def _act(self, message: EventMessage) -> None:
        body, server = message.body, message.header.server
        if isinstance(body, PhaseChanged):
            self._on_phase(server, body)
        elif isinstance(body, Progress):
            self._change(
                server,
                body.ref,
                lambda task: phases.apply_progress(task, body, now=self._clock()),
            )
        elif isinstance(body, GrantsWanted):
            self._on_grants_wanted(server, body, message.header.message_id)
        elif isinstance(body, PullLoginWanted):
            login = self._answer_login(server, body)
            self._answer(server, login, correlation_id=message.header.message_id)
        elif isinstance(body, Hello):
            found = self._on_alive(server, body, message)
            if found is not None:
                with self._troubles.guard("look at the images of", server):
                    self._warn(found)
            self._on_hello(server, body, message.header.message_id)
        elif isinstance(body, Heartbeat):
            self._on_alive(server, body, message)
        elif isinstance(body, Poison):
            self._troubles.note("have a message taken by", server, body.reason)

    def _answer_login(self, server: str, wanted: PullLoginWanted) -> PullLogin:
        if wanted.ref is not None:
            task = self._find_task(wanted.ref)
            return answer_login(self._settings, server, wanted, task)
        staged: Collection[str] = ()
        try:
            found = self._records.find_server(server)
            staged = (found.staged_images if found else None) or ()
        except RecordUnreadable as error:
            # It pulls without a login, or not at all: the same message would not read better.
            self._troubles.note("make sense of", server, error)
        return answer_staged_login(self._settings, server, wanted, staged)

    def _end_unfit(self, message: EventMessage, error: RecordUnfit) -> None:
        """Deal with an event that no record can hold, which no repetition mends."""
        body, server = message.body, message.header.server
        self._troubles.note("put on record", _describe(message), error)
        if isinstance(body, PhaseChanged):
            self._end_without_details(server, body, build_line(str(error)))

    def _end_without_details(self, server: str, event: PhaseChanged, why: str) -> None:
        """End an attempt whose phase would be the same however often the event is repeated."""
        now = self._clock()
        task = self._change(
            server,
            event.ref,
            lambda found: phases.refuse_phase(found, event, problem=why, now=now),
        )
        self._follow_phase(server, event, task)

    def _note_holds(self, entries: Iterable[ServerEntry]) -> None:
        self._with_holds = {each.name for each in entries if each.server and each.server.holds}

    @contextmanager
    def _reading(self, ref: AttemptRef) -> Iterator[None]:
        """
        Let an event about a task whose record makes no sense come again until that is mended.

        What it says must not be lost, and nobody can say what it would change.
        """
        try:
            yield
        except RecordUnreadable as error:
            self._troubles.note("make sense of", ref.task_key, error)
            raise TransientError(f"nobody can make sense of its task: {error}") from error
        self._troubles.settle("make sense of", ref.task_key)

    def _find_task(self, ref: AttemptRef) -> Task | None:
        with self._reading(ref):
            return self._records.find_task(ref.submission_id, ref.task_id)

    def _change(
        self, server: str, ref: AttemptRef, decide: Callable[[Task], Task | None]
    ) -> Task | None:
        """Change a task by a server's word; a server speaks only for tasks it was given."""

        def decide_if_its_own(task: Task) -> Task | None:
            if task.newest.server != server:
                log.warning("server %s spoke for %s, which it does not have", server, ref.task_key)
                return None
            return decide(task)

        try:
            with self._reading(ref):
                return self._records.change_task(ref.submission_id, ref.task_id, decide_if_its_own)
        except RecordNotFound:
            log.warning("server %s spoke for %s, which is unknown", server, ref.task_key)
            return None

    def _on_phase(self, server: str, event: PhaseChanged) -> None:
        task = self._apply_phase(server, event)
        self._follow_phase(server, event, task)

    def _follow_phase(self, server: str, event: PhaseChanged, task: Task | None) -> None:
        """Do what follows from a phase that is on record."""
        is_newest = (
            task is not None
            and task.newest.server == server
            and task.fence == event.ref.fence
            and task.newest.phase is event.phase
        )
        if task is not None and is_newest:
            is_program = task.spec.program is not None
            is_training = task.kind is SlotClass.TRAINING and not is_program
            if event.phase is AttemptPhase.RUNNING and is_training:
                self._mark_running(task.submission_id)
            if not is_program:
                # A DAG that names the server itself may ask of it what it never had.
                self._note_willingness(server, event, task)
            if event.phase is AttemptPhase.EXITED and is_training:
                self._note_sight(server, task)
            if event.phase is AttemptPhase.EXITED or event.phase in FINAL_PHASES:
                # What it teaches, and whom it wakes, must not bring the event back.
                with self._troubles.guard("follow the end of", event.ref.task_key):
                    self._on_end(task)
        if event.phase in FINAL_PHASES:
            # Also for an outranked attempt: its agent must not keep its files for days.
            self._answer(server, Acknowledge(ref=event.ref))

    def _mark_running(self, submission_id: str) -> None:
        try:
            mark_running(self._records, submission_id)
        except RecordUnreadable as error:
            # Its training runs all the same: the event is not to come back until somebody has
            # mended the record.
            self._troubles.note("mark as running", submission_id, error)

    def _answer(self, server: str, command: Command, *, correlation_id: str | None = None) -> None:
        """
        Send a command to a server that has spoken.

        :raises TransientError: If its queue cannot be reached now: the event comes again.
        """
        try:
            self._agent.send(server, command, correlation_id=correlation_id)
        except PermanentError as error:
            # It has no queue any more; what it said is on record all the same.
            self._troubles.note("answer", server, error)
        else:
            self._troubles.settle("answer", server)

    def _note_willingness(self, server: str, event: PhaseChanged, task: Task) -> None:
        """Keep what a server refuses from being asked of it again, and let go what it takes."""
        now, kind = self._clock(), task.kind
        # The version before wrote down no image beside the task's own.
        image = task.newest.image or task.spec.image
        refusal = find_refusal(event.details)
        if event.phase is AttemptPhase.REJECTED or (refusal and event.phase is AttemptPhase.LOST):
            self._with_holds.add(server)
            self._change_server(
                server,
                lambda found: hold_server(
                    found,
                    refusal=refusal,
                    reason=event.reason,
                    kind=kind,
                    image=image,
                    now=now,
                ),
            )
        elif event.phase in _TAKEN and server in self._with_holds:
            gpus = attempts.count_gpus(task.newest)
            self._change_server(
                server,
                lambda found: release_server(
                    found, phase=event.phase, kind=kind, image=image, gpus=gpus
                ),
            )

    def _note_sight(self, server: str, task: Task) -> None:
        """Keep trainings away from a GPU that they do not see, until one of them does."""
        newest, spec = task.newest, task.spec
        # Of another image it may be the image that is not for GPUs.
        is_for_cuda = spec.image_cuda is not None and newest.image == spec.image_cuda
        if newest.failure_class == attempts.NO_DEVICE and is_for_cuda:
            label = f"user:{spec.submitted_by}"
            self._with_holds.add(server)
            self._change_server(
                server,
                lambda found: hold_blind(
                    found, label=label, reason=newest.reason, now=self._clock()
                ),
            )
        elif (
            newest.outcome is Outcome.SUCCEEDED
            and spec.schedule.require_cuda
            and server in self._with_holds
        ):
            self._change_server(server, release_blind)

    def _apply_phase(self, server: str, event: PhaseChanged) -> Task | None:
        now = self._clock()
        files = find_long_list(event)
        is_kept_apart = files is not None and self._is_its_own(server, event.ref)
        part = self._parts.put_files(event.ref, files) if files and is_kept_apart else None
        return self._change(
            server,
            event.ref,
            lambda task: phases.apply_phase(task, event, now=now, files_part=part),
        )

    def _is_its_own(self, server: str, ref: AttemptRef) -> bool:
        task = self._find_task(ref)
        return task is not None and (task.newest.server, task.fence) == (server, ref.fence)

    def _on_grants_wanted(self, server: str, event: GrantsWanted, message_id: str) -> None:
        task = self._find_task(event.ref)
        grants = answer_grants(self._objects, self._settings, server, event, task)
        self._answer(server, grants, correlation_id=message_id)

    def _on_alive(
        self, server: str, event: Hello | Heartbeat, message: EventMessage
    ) -> Server | None:
        told = event.inventory.model_dump(mode="json", exclude={"running"})
        now, epoch = self._clock(), message.header.epoch
        inventory = StoredInventory.load(told)

        def decide(found: Server) -> Server:
            # What it lacked may be there again by the same heartbeat.
            released = release_renewed(
                found, epoch=epoch, gpus=len(inventory.gpus), old_gpus=len(found.gpus)
            )
            return (released or found).change(
                heartbeat_at=now,
                epoch=epoch,
                inventory=inventory,
                running=event.inventory.running,
            )

        return self._change_server(server, decide, renewed=FROM_HEARTBEATS)

    def _change_server(
        self,
        server: str,
        decide: Callable[[Server], Server | None],
        *,
        renewed: Collection[str] = (),
    ) -> Server | None:
        """
        Change a server's record by what its agent said.

        :return: The record; ``None`` if it makes no sense. That must not bring the event back: it
            would read no better, and what the event says of an attempt is on record.
        """
        try:
            found = self._records.change_server(server, decide, renewed=renewed)
        except RecordUnreadable as error:
            self._troubles.note("make sense of", server, error)
            return None
        self._troubles.settle("make sense of", server)
        return found

    def _warn(self, server: Server) -> None:
        """Say what of a server that has just begun lies idle, or cannot run what is sent there."""
        capability, fit, kinds = find_capability(server), read_fit(server), find_kinds(server)
        for line in list_warnings(server.server, kinds, capability, fit, self._settings):
            log.warning("%s", line)

    def _on_hello(self, server: str, event: Hello, message_id: str) -> None:
        """
        Tell a server what it is believed to run.

        What is at work is listed as of a moment ago, so the records themselves are read: of what
        the list has there, and of what the server says it runs. Only an attempt of which the list
        does not know yet, nor the server any more, is left out until it says HELLO again.
        """
        told = {ref for ref, _ in event.inventory.running}
        listed = (key for key, where in self._at_work().items() if where == server)
        keys = {*listed, *((ref.submission_id, ref.task_id) for ref in told)}
        expected: list[AttemptRef] = []
        for key, entry in sorted(self._records.find_tasks(keys).items()):
            with self._troubles.guard("make sense of", entry.name) as guard:
                task = entry.read()
                if task.newest.server == server and _is_expected(task, told):
                    expected.append(task.ref)
            if guard.is_failed:
                # What nobody can judge goes on where it runs.
                expected += [ref for ref in told if (ref.submission_id, ref.task_id) == key]
        self._answer(server, Sync(expected=tuple(expected)), correlation_id=message_id)


def _describe(message: EventMessage) -> str:
    """Return what an event is, in one line."""
    body, server = message.body, message.header.server
    ref: AttemptRef | None = getattr(body, "ref", None)
    phase = f" {body.phase}" if isinstance(body, PhaseChanged) else ""
    return f"{body.kind}{phase} from {server}" + (f" for {ref.task_key}" if ref else "")


def _is_expected(task: Task, told: Collection[AttemptRef]) -> bool:
    if not task.has_attempt or task.is_ended:
        return False
    if task.newest.phase is None:
        # Nothing was heard of it: it is there if its server says so, or its START is on its way.
        return task.ref in told
    return task.newest.phase not in FINAL_PHASES
