"""The event loop: what agents report becomes task records, and grants for what they ask."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from touchstone.core import attempts
from touchstone.core.holds import (
    HOLDS,
    find_refusal,
    hold_blind,
    hold_server,
    release_blind,
    release_renewed,
    release_server,
)
from touchstone.core.names import build_console_key, build_content_key, build_output_key
from touchstone.core.outcomes import Outcome
from touchstone.core.tasks import TaskSpec, list_archives
from touchstone.dispatcher.running import mark_running
from touchstone.dispatcher.troubles import Troubles
from touchstone.hooks.agent import AgentHook
from touchstone.hooks.cache import Cached
from touchstone.hooks.objects import ObjectStore
from touchstone.hooks.parts import Parts, find_long_list
from touchstone.hooks.records import Record, RecordNotFound, RecordStore, RecordUnfit
from touchstone.settings import Settings
from touchstone_agent.protocol.documents import parse_json
from touchstone_agent.protocol.envelope import (
    MAX_ENVELOPE_BYTES,
    EventMessage,
    load_public_key,
    open_event,
)
from touchstone_agent.protocol.errors import ConfigurationError, MessageRefused, PermanentError
from touchstone_agent.protocol.facts import UploadedFile
from touchstone_agent.protocol.messages import (
    FINAL_PHASES,
    MAX_CHUNK_BYTES,
    Acknowledge,
    AttemptPhase,
    AttemptRef,
    Command,
    Grant,
    GrantPurpose,
    Grants,
    GrantsWanted,
    Heartbeat,
    Hello,
    PhaseChanged,
    Poison,
    Progress,
    SlotClass,
    Sync,
    Want,
)
from touchstone_agent.protocol.words import build_line

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

log = logging.getLogger(__name__)

ENDING_PHASES = FINAL_PHASES | {AttemptPhase.EXITED}
"""Phases that somebody waits for."""

_TAKEN = frozenset({AttemptPhase.ACCEPTED, AttemptPhase.RUNNING})
"""Phases that show what a server takes."""

KEYS_LIFE = timedelta(seconds=30)
"""How long a key that was revoked may still be honoured."""
UNKNOWN_LIFE = timedelta(seconds=5)
"""How long nobody looks again for the key of a server that has none: a stranger's messages must
not cost a reading each."""
_MOST_UNKNOWN = 1_000
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
        on_end: Callable[[Record], None] = lambda _: None,
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
        self._keys: dict[str, Ed25519PublicKey] = {}
        self._keys_read_at: datetime | None = None
        self._unknown: dict[str, datetime] = {}
        self._at_work = Cached(records.find_servers_at_work, seconds=AT_WORK_SECONDS)

    def handle(self, text: str) -> str:
        """
        Check one message and act on it.

        :return: What it was, for the log.
        :raises MessageRefused: If it must be dropped: forged, expired, malformed, not ours.
        :raises TransientError: If a store cannot be reached; the message comes again.
        """
        message = self._open(text)
        self.take(message)
        return _describe(message)

    def take(self, message: EventMessage) -> None:
        """Act on a message that was checked; what no record can hold is told and counted."""
        try:
            self._act(message)
        except RecordUnfit as error:
            self._end_unfit(message, error)

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
        message = self._open(text)
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
                server, body.ref, lambda r: attempts.apply_progress(r, body, now=self._clock())
            )
        elif isinstance(body, GrantsWanted):
            self._on_grants_wanted(server, body, message.header.message_id)
        elif isinstance(body, Hello):
            self._on_alive(server, body, message)
            self._on_hello(server, body, message.header.message_id)
        elif isinstance(body, Heartbeat):
            self._on_alive(server, body, message)
        elif isinstance(body, Poison):
            self._troubles.note("have a message taken by", server, body.reason)

    def _end_unfit(self, message: EventMessage, error: RecordUnfit) -> None:
        """Deal with an event that no record can hold, which no repetition mends."""
        body, server = message.body, message.header.server
        self._troubles.note("put on record", _describe(message), error)
        if isinstance(body, PhaseChanged):
            self._end_without_details(server, body, build_line(str(error)))

    def _end_without_details(self, server: str, event: PhaseChanged, why: str) -> None:
        """End an attempt whose phase would be the same however often it is told."""
        now = self._clock()
        record = self._change(
            server, event.ref, lambda r: attempts.refuse_phase(r, event, problem=why, now=now)
        )
        self._follow_phase(server, event, record)

    def _open(self, text: str) -> EventMessage:
        now = self._clock()
        if self._keys_read_at is None or now - self._keys_read_at > KEYS_LIFE:
            self._read_keys(now)
        try:
            return self._try_open(text)
        except RecursionError as error:
            raise MessageRefused("it is nested too deeply to be read") from error
        except MessageRefused:
            # A server enrolled since the last look has a key that is not known yet.
            if not self._learn_key(text, now):
                raise
        return self._try_open(text)

    def _learn_key(self, text: str, now: datetime) -> bool:
        """Look for the key of a message's server; return whether there is one, and it is new."""
        kid = _find_kid(text)
        if kid is None or kid in self._keys:
            return False
        self._unknown = {name: until for name, until in self._unknown.items() if until > now}
        if kid in self._unknown or len(self._unknown) >= _MOST_UNKNOWN:
            return False
        found = self._records.find_server(kid) or {}
        try:
            self._keys[kid] = load_public_key(str(found.get("public_key") or ""))
        except ConfigurationError:
            self._unknown[kid] = now + UNKNOWN_LIFE
            return False
        return True

    def _read_keys(self, now: datetime) -> None:
        servers = self._records.list_servers()
        keys = {}
        for server in servers:
            if server.get("public_key"):
                # One that is no key makes one server unheard, and not all of them.
                with self._troubles.guard("read the key of", server["server"]):
                    keys[str(server["server"])] = load_public_key(str(server["public_key"]))
        self._keys = keys
        self._with_holds = {str(server["server"]) for server in servers if server.get(HOLDS)}
        self._keys_read_at = now

    def _try_open(self, text: str) -> EventMessage:
        return open_event(text, keys=self._keys, env=self._settings.env, now=self._clock())

    def _change(
        self, server: str, ref: AttemptRef, decide: Callable[[Record], Record | None]
    ) -> Record | None:
        """Change a task by a server's word; a server speaks only for tasks it was given."""

        def decide_if_its_own(record: Record) -> Record | None:
            if record.get("server") != server:
                log.warning("server %s spoke for %s, which it does not have", server, ref.task_key)
                return None
            return decide(record)

        try:
            return self._records.change_task(ref.submission_id, ref.task_id, decide_if_its_own)
        except RecordNotFound:
            log.warning("server %s spoke for %s, which is unknown", server, ref.task_key)
            return None

    def _on_phase(self, server: str, event: PhaseChanged) -> None:
        record = self._apply_phase(server, event)
        self._follow_phase(server, event, record)

    def _follow_phase(self, server: str, event: PhaseChanged, record: Record | None) -> None:
        """Do what follows from a phase that is on record."""
        is_newest = (
            record is not None
            and record["server"] == server
            and record["fence"] == event.ref.fence
            and record["phase"] == event.phase
        )
        if record is not None and is_newest:
            if event.phase is AttemptPhase.RUNNING and record["kind"] == SlotClass.TRAINING:
                mark_running(self._records, record["submission_id"])
            self._note_willingness(server, event, record)
            if event.phase is AttemptPhase.EXITED and record["kind"] == SlotClass.TRAINING:
                self._note_sight(server, record)
            if event.phase is AttemptPhase.EXITED or event.phase in FINAL_PHASES:
                # What it teaches, and whom it wakes, must not bring the event back.
                with self._troubles.guard("follow the end of", event.ref.task_key):
                    self._on_end(record)
        if event.phase in FINAL_PHASES:
            # Also for an outranked attempt: its agent must not keep its files for days.
            self._answer(server, Acknowledge(ref=event.ref))

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

    def _note_willingness(self, server: str, event: PhaseChanged, record: Record) -> None:
        """Keep what a server refuses from being asked of it again, and let go what it takes."""
        now, kind = self._clock(), SlotClass(record["kind"])
        # The version before wrote down no image beside the task's own.
        image = str(record.get("image") or record["config"].get("image") or "")
        refusal = find_refusal(event.details)
        if event.phase is AttemptPhase.REJECTED or (refusal and event.phase is AttemptPhase.LOST):
            self._with_holds.add(server)
            self._records.change_server(
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
            gpus = attempts.count_gpus(record)
            self._records.change_server(
                server,
                lambda found: release_server(
                    found, phase=event.phase, kind=kind, image=image, gpus=gpus
                ),
            )

    def _note_sight(self, server: str, record: Record) -> None:
        """Keep trainings away from a GPU that they do not see, until one of them does."""
        config = record["config"]
        # Of another image it may be the image that is not for GPUs.
        is_for_cuda = bool(config.get("image_cuda")) and record["image"] == config["image_cuda"]
        if record.get("failure_class") == attempts.NO_DEVICE and is_for_cuda:
            label = f"user:{config.get('submitted_by')}"
            self._with_holds.add(server)
            self._records.change_server(
                server,
                lambda found: hold_blind(
                    found, label=label, reason=record.get("reason"), now=self._clock()
                ),
            )
        elif (
            record.get("outcome") == Outcome.SUCCEEDED
            and config.get("require_cuda")
            and server in self._with_holds
        ):
            self._records.change_server(server, release_blind)

    def _apply_phase(self, server: str, event: PhaseChanged) -> Record | None:
        now = self._clock()
        files = find_long_list(event)
        is_kept_apart = files is not None and self._is_its_own(server, event.ref)
        part = self._parts.put_files(event.ref, files) if files and is_kept_apart else None
        return self._change(
            server, event.ref, lambda r: attempts.apply_phase(r, event, now=now, files_part=part)
        )

    def _is_its_own(self, server: str, ref: AttemptRef) -> bool:
        record = self._records.find_task(ref.submission_id, ref.task_id) or {}
        return (record.get("server"), record.get("fence")) == (server, ref.fence)

    def _on_grants_wanted(self, server: str, event: GrantsWanted, message_id: str) -> None:
        ref = event.ref
        record = self._records.find_task(ref.submission_id, ref.task_id)
        refusal = self._find_refusal(record, server, event)
        grants: dict[str, Grant] = {}
        refused: dict[str, str] = {}
        for want in event.wants:
            if refusal is None and record is not None:
                grants[want.path] = self._grant(record, ref, event.purpose, want)
            else:
                refused[want.path] = str(refusal)
        answer = Grants(ref=ref, purpose=event.purpose, grants=grants, refused=refused)
        self._answer(server, answer, correlation_id=message_id)

    def _find_refusal(self, record: Record | None, server: str, event: GrantsWanted) -> str | None:
        if record is None:
            return "there is no such task"
        known = [record, *record.get("attempts", [])]
        if not any(
            item.get("fence") == event.ref.fence and item.get("server") == server for item in known
        ):
            return "this server has no such attempt"
        if record["fence"] != event.ref.fence and event.purpose is not GrantPurpose.CONSOLE:
            return "a newer attempt has taken its place"
        is_input = event.purpose is GrantPurpose.INPUT
        inputs = _list_inputs(record) if is_input else {}
        for want in event.wants:
            is_console = event.purpose is GrantPurpose.CONSOLE
            if not (want.path in inputs if is_input else _is_safe(want, event.purpose)):
                return f"{want.path!r} is not a path for {event.purpose}"
            if is_console and want.size > MAX_CHUNK_BYTES:
                return f"a piece of a console is not longer than {MAX_CHUNK_BYTES} bytes"
        return None

    def _grant(
        self, record: Mapping[str, Any], ref: AttemptRef, purpose: GrantPurpose, want: Want
    ) -> Grant:
        settings = self._settings
        if purpose is GrantPurpose.INPUT:
            sha256, _ = _list_inputs(record)[want.path]
            key = build_content_key(sha256)
            return self._objects.grant_get(settings.content_bucket, key)
        if purpose is GrantPurpose.CONSOLE:
            bucket, key = settings.logs_bucket, build_console_key(ref, int(want.path))
        else:
            bucket, key = settings.content_bucket, build_output_key(ref, want.path)
        return self._objects.grant_put(bucket, key, sha256=want.sha256, size=want.size)

    def _on_alive(self, server: str, event: Hello | Heartbeat, message: EventMessage) -> None:
        facts = event.inventory.model_dump(mode="json", exclude={"running"})
        seen = {
            "heartbeat_at": self._clock().isoformat(),
            "epoch": message.header.epoch,
            "inventory": facts,
            "running": [
                [ref.model_dump(mode="json"), phase.value] for ref, phase in event.inventory.running
            ],
        }
        gpus = len(event.inventory.gpus)

        def decide(found: Record) -> Record:
            # A field of its own: the same heartbeat may show that what it lacked is there again.
            old_gpus = len((found.get("inventory") or {}).get("gpus") or ())
            epoch = message.header.epoch
            return seen | (release_renewed(found, epoch=epoch, gpus=gpus, old_gpus=old_gpus) or {})

        self._records.change_server(server, decide)

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
        expected = tuple(
            attempts.get_ref(task)
            for _, task in sorted(self._records.find_tasks(keys).items())
            if task.get("server") == server and _is_expected(task, told)
        )
        self._answer(server, Sync(expected=expected), correlation_id=message_id)


def _describe(message: EventMessage) -> str:
    """Return what an event is, in one line."""
    body, server = message.body, message.header.server
    ref: AttemptRef | None = getattr(body, "ref", None)
    phase = f" {body.phase}" if isinstance(body, PhaseChanged) else ""
    return f"{body.kind}{phase} from {server}" + (f" for {ref.task_key}" if ref else "")


def _is_expected(task: Record, told: Collection[AttemptRef]) -> bool:
    if not task.get("attempt") or attempts.is_ended(task):
        return False
    if task.get("phase") is None:
        # Nothing was heard of it: it is there if its server says so, or its START is on its way.
        return attempts.get_ref(task) in told
    return task["phase"] not in FINAL_PHASES


def _find_kid(text: str) -> str | None:
    """Return the server whose key a message names; ``None`` if no server can be called so."""
    try:
        kid = parse_json(text, max_bytes=MAX_ENVELOPE_BYTES)["kid"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    is_name = isinstance(kid, str) and kid.isascii() and 0 < len(kid) <= 255 and kid[0] != "#"
    return kid if is_name else None


def _list_inputs(record: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    return list_archives(TaskSpec.model_validate(record["config"]))


def _is_safe(want: Want, purpose: GrantPurpose) -> bool:
    if purpose is GrantPurpose.CONSOLE:
        return want.path.isascii() and want.path.isdigit() and len(want.path) == 12
    try:
        UploadedFile(path=want.path, sha256=want.sha256, size=want.size)
    except ValidationError:
        return False
    return True
