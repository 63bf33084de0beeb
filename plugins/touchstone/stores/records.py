"""The records of submissions, tasks, evaluations and servers, in DynamoDB."""

from __future__ import annotations

import contextlib
import copy
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, Generic, Self, TypeVar

from pydantic import JsonValue

from touchstone.core.paging import Place, TaskListPlace, find_week, list_weeks
from touchstone.core.records.actions import Action
from touchstone.core.records.audit import Door, SubjectKind, build_entries, find_new_actions
from touchstone.core.records.evaluations import Evaluation
from touchstone.core.records.events import CATALOGUE
from touchstone.core.records.notes import Control, Note, TaskWeeks
from touchstone.core.records.servers import Server, ServerEntry
from touchstone.core.records.stored import RecordUnreadable, load_named
from touchstone.core.records.submissions import Submission
from touchstone.core.records.tasks import (
    EndedTask,
    Task,
    TaskEntry,
    TaskKey,
    TaskPlace,
    TaskRow,
)
from touchstone.core.states import SUBMISSION_OPEN, TASK_TERMINAL, SubmissionStatus, TaskStatus
from touchstone.settings import Settings
from touchstone.stores.aws import build_client, translated_errors
from touchstone.stores.tables import (
    AT_WORK,
    BATCH_GET_LIMIT,
    VERSION,
    WEEK,
    Model,
    Record,
    RecordExists,
    RecordNotFound,
    Tables,
    is_condition_failure,
    to_item,
)
from touchstone_agent.protocol.errors import PermanentError

log = logging.getLogger(__name__)


AnyNote = TypeVar("AnyNote", bound=Note)
NOTHING_KNOWN: Final[Mapping[TaskKey, TaskEntry[Task]]] = MappingProxyType({})

BY_STATUS = "by_status"
BY_OWNER = "by_owner"
BY_OWNER_AND_STATUS = "by_owner_and_status"
"""Indexes that hold keys only, each part of them by ``created_at``: a list reads as much of one as
it shows. They are of attributes that every record has had from the beginning, so that DynamoDB
itself fills a new one, and what an older program writes is in it too."""
BY_STATUS_AND_WEEK = "by_status_and_week"
"""Index of tasks, whose parts stay small however many there were. It has only what a version that
knows it has written; :class:`TaskWeeks` says from which week on that is all."""
_YES = "yes"
_NOTE = "#"
"""What the key of a note begins with, and no server's name."""


@dataclass(frozen=True, kw_only=True)
class Found(Generic[Model]):
    """
    Records of a list.

    :param records: Those that make sense.
    :param unreadable: Why each of the others does not, by its name: they exist, and a caller
        must not act as if they did not.
    """

    records: tuple[Model, ...]
    unreadable: Mapping[str, RecordUnreadable]


@dataclass(frozen=True, kw_only=True)
class SubmissionPage(Found[Model]):
    """
    Some submissions, newest first.

    :param next: Where the page ended, for the next one to go on; ``None`` at the end of the list.
    """

    next: Place | None


class RecordStore(Tables):
    """
    Reads and writes records.

    :param client: A DynamoDB client.
    :param settings: Names of the tables.
    :param sleep: Makes pauses.
    """

    def __init__(
        self, client: Any, settings: Settings, *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        keys = {
            settings.submissions_table: ("submission_id",),
            settings.tasks_table: ("submission_id", "task_id"),
            settings.evaluations_table: ("model_id",),
            settings.servers_table: ("server",),
            settings.events_table: ("event", "entry"),
        }
        super().__init__(client, keys, sleep=sleep)
        self._settings = settings
        self._door = Door.HOST

    @classmethod
    def connect(cls, settings: Settings) -> Self:
        """Return a store that uses the installation's AWS connection."""
        return cls(build_client("dynamodb", settings.aws_conn_id), settings)

    def through(self, door: Door) -> Self:
        """Return the same store for acts that come in at a door; the audit has it of each."""
        other = copy.copy(self)
        other._door = door
        return other

    # --- submissions ---------------------------------------------------------------------

    def get_submission(self, submission_id: str) -> Submission:
        """
        Return a submission.

        :raises RecordNotFound: If there is none of that id.
        :raises RecordUnreadable: If there is one, and it does not make sense.
        """
        record = self.find_submission(submission_id)
        if record is None:
            raise RecordNotFound(f"there is no submission {submission_id!r}")
        return record

    def find_submission(self, submission_id: str) -> Submission | None:
        """
        Return a submission, or ``None``.

        :raises RecordUnreadable: If there is one, and it does not make sense.
        """
        table = self._settings.submissions_table
        stored = self._find(table, {"submission_id": submission_id})
        return None if stored is None else load_named(Submission, submission_id, stored)

    def find_submissions(self, submission_ids: Iterable[str], model: type[Model]) -> Found[Model]:
        """
        Return some submissions in few requests; those that there are, in the order asked for.

        :param model: As what each is read; its fields are all that is asked for.
        :raises TransientError: If the table goes on to leave some of them out.
        """
        keys = [(each,) for each in dict.fromkeys(submission_ids)]
        found = self._find_many(self._settings.submissions_table, keys, model.list_wanted())
        return load_each(model, {key[0]: found[key] for key in keys if key in found})

    def create_submission(self, submission: Submission) -> None:
        """
        Write a new submission.

        :raises RecordExists: If the id is taken.
        """
        self._create(self._settings.submissions_table, "submission_id", submission.dump())

    def change_submission(
        self, submission_id: str, decide: Callable[[Submission], Submission | None]
    ) -> Submission:
        """
        Read a submission, let ``decide`` return what it becomes, and write what differs.

        :param decide: Gets the submission; returns it changed, or ``None`` for no change. May be
            called more than once, so it must not do anything but decide.
        :return: The submission as it is afterwards.
        :raises RecordNotFound: If there is none of that id.
        :raises RecordUnreadable: If there is one, and it does not make sense; it is not touched.
        """
        key = {"submission_id": submission_id}
        return self._change_model(self._settings.submissions_table, key, Submission, decide)

    def list_submissions(
        self,
        *,
        limit: int,
        status: SubmissionStatus | None = None,
        owner: str | None = None,
        before: Place | None = None,
        model: type[Model],
    ) -> SubmissionPage[Model]:
        """
        Return the newest submissions; what that costs does not depend on how many there are.

        One that was written, or has changed its status, a moment ago may be missing. One that does
        not make sense is left out, logged, and told by its id.

        :param limit: How many at most; fewer may come although there are more.
        :param status: Only those in this status; ``None`` for all.
        :param owner: Only those of this submitter; ``None`` for all.
        :param before: Only those behind this place; ``None`` from the newest on.
        :param model: As what each is read; its fields are all that is asked for.
        """
        table = self._settings.submissions_table
        if owner is None:
            # In the order of a submission's life: one that moves on meanwhile is met again.
            index = BY_STATUS
            lanes = [{"status": each.value} for each in ([status] if status else SubmissionStatus)]
        elif status is None:
            index, lanes = BY_OWNER, [{"submitted_by": owner}]
        else:
            index, lanes = BY_OWNER_AND_STATUS, [{"submitted_by": owner, "status": status.value}]
        # One more tells whether there are more.
        places = self._list_newest(table, index, lanes, limit=limit + 1, before=before)
        fields = model.list_wanted()
        wanted = {*fields, "status"} if fields else ()
        found = self._find_many(table, [place[1:] for place in places[:limit]], sorted(wanted))
        listed = [found[place[1:]] for place in places[:limit] if place[1:] in found]
        read = load_each(
            model, {str(r["submission_id"]): r for r in listed if status in {None, r.get("status")}}
        )
        for error in read.unreadable.values():
            log.error("%s: left out of a list", error)
        return SubmissionPage(
            records=read.records,
            unreadable=read.unreadable,
            next=Place(*places[limit - 1]) if len(places) > limit else None,
        )

    def list_open_submissions(self, model: type[Model]) -> Found[Model]:
        """
        Return the submissions that some run is at work on; the newest may still be missing.

        :param model: As what each is read; its fields are all that is asked for.
        """
        table, fields = self._settings.submissions_table, model.list_wanted()
        wanted = sorted({*fields, "submission_id"}) if fields else ()
        stored = self._query(table, AT_WORK, _YES, index=AT_WORK, fields=wanted)
        return load_each(model, {str(each["submission_id"]): each for each in stored})

    # --- tasks ---------------------------------------------------------------------------

    def get_task(self, submission_id: str, task_id: str) -> Task:
        """
        Return a task.

        :raises RecordNotFound: If there is none of that id.
        :raises RecordUnreadable: If there is one, and its record makes no sense.
        """
        task = self.find_task(submission_id, task_id)
        if task is None:
            raise RecordNotFound(f"submission {submission_id!r} has no task {task_id!r}")
        return task

    def find_task(self, submission_id: str, task_id: str) -> Task | None:
        """
        Return a task, or ``None`` if there is none.

        :raises RecordUnreadable: If there is one, and its record makes no sense.
        """
        key = {"submission_id": submission_id, "task_id": task_id}
        stored = self._find(self._settings.tasks_table, key)
        return None if stored is None else Task.load(stored)

    def find_tasks(
        self, keys: Iterable[TaskKey], known: Mapping[TaskKey, TaskEntry[Task]] = NOTHING_KNOWN
    ) -> dict[TaskKey, TaskEntry[Task]]:
        """
        Return many tasks in as few requests as possible, also those whose records make no sense.

        :param keys: Submission id and task id of each.
        :param known: What the caller has from before: a record that has not changed since is not
            made sense of again, which costs more than reading it.
        :return: Those that exist, by the same keys.
        :raises TransientError: If the table goes on to leave some of them out.
        """
        found = {}
        stored_by_key = self._find_many(self._settings.tasks_table, keys)
        for (submission_id, task_id), stored in stored_by_key.items():
            key = (submission_id, task_id)
            before = known.get(key)
            is_same = before is not None and before.stored.get(VERSION) == stored.get(VERSION)
            found[key] = before if before and is_same else TaskEntry.parse(stored, Task)
        return found

    def create_task(self, task: Task) -> None:
        """
        Write a new task.

        :raises RecordExists: If the submission has one of that id.
        """
        self._create(self._settings.tasks_table, "task_id", task.dump())

    def change_task(
        self, submission_id: str, task_id: str, decide: Callable[[Task], Task | None]
    ) -> Task:
        """
        Read a task, let ``decide`` return what it becomes, and write what differs.

        :param decide: As for :meth:`change_submission`.
        :return: The task as it is afterwards.
        :raises RecordNotFound: If there is none of that id.
        :raises RecordUnreadable: If its record makes no sense; it is not touched.
        """
        key = {"submission_id": submission_id, "task_id": task_id}
        return self._change_model(self._settings.tasks_table, key, Task, decide, load=Task.load)

    def list_tasks(self, submission_id: str) -> list[TaskEntry[Task]]:
        """
        Return a submission's tasks, of which there are few: the validation, then by interval.

        Also those whose records make no sense.
        """
        records = self._query(self._settings.tasks_table, "submission_id", submission_id)
        entries = [TaskEntry.parse(record, Task) for record in records]
        # Folds of an interval, ten at most, come in the order of their ids.
        return sorted(entries, key=lambda entry: (entry.task and entry.task.interval) or 0)

    def list_tasks_at_work(self) -> list[TaskEntry[Task]]:
        """
        Return the tasks that have an attempt under way, or a pod that is not proven gone.

        As of a moment ago: one that has just begun may be missing, one that has ended be there.
        Those whose records make no sense are there, too: nobody knows that they have ended.
        """
        found = self._query(self._settings.tasks_table, AT_WORK, _YES, index=AT_WORK)
        return [TaskEntry.parse(record, Task) for record in found]

    def find_servers_at_work(self) -> dict[TaskKey, str | None]:
        """Return where each task is of :meth:`list_tasks_at_work`, and nothing else of it."""
        table, fields = self._settings.tasks_table, TaskPlace.list_wanted()
        found = self._query(table, AT_WORK, _YES, index=AT_WORK, fields=fields)
        places = [TaskPlace.load(each) for each in found]
        return {(place.submission_id, place.task_id): place.server for place in places}

    def find_rows(self, keys: Sequence[TaskKey]) -> Found[TaskRow]:
        """Return of some tasks what a list shows, in the order asked for; those that there are."""
        found = self._find_many(self._settings.tasks_table, keys, TaskRow.list_wanted())
        return load_each(TaskRow, {" ".join(key): found[key] for key in keys if key in found})

    def list_rows(self, submission_id: str) -> Found[TaskRow]:
        """Return of a submission's tasks what a list shows."""
        fields = TaskRow.list_wanted()
        table = self._settings.tasks_table
        stored = self._query(table, "submission_id", submission_id, fields=fields)
        return load_each(TaskRow, {f"{submission_id} {each['task_id']}": each for each in stored})

    def list_newest_rows(
        self, *, limit: int, status: TaskStatus | None, before: TaskListPlace | None, now: datetime
    ) -> tuple[Found[TaskRow], TaskListPlace | None]:
        """
        Return of the newest tasks what a list shows; costs the same however many there are.

        :param limit: How many at most.
        :param status: Only those in this status; ``None`` for all.
        :param before: Only those behind this place; ``None`` from the newest on.
        :param now: The time, UTC.
        :return: The tasks, and where the next page begins: ``None`` if there is none.
        """
        lanes = [{"status": each.value} for each in ([status] if status else TaskStatus)]
        table = self._settings.tasks_table
        places = self._list_recent_tasks(lanes, limit=limit + 1, before=before, now=now)
        if len(places) <= limit:
            behind = places[-1] if places else before
            left = limit + 1 - len(places)
            places += self._list_newest(table, BY_STATUS, lanes, limit=left, before=behind)
        found = self.find_rows([(place[1], place[2]) for place in places[:limit]])
        for error in found.unreadable.values():
            log.error("%s: left out of a list", error)
        return found, TaskListPlace(*places[limit - 1]) if len(places) > limit else None

    def _list_recent_tasks(
        self,
        lanes: Sequence[Mapping[str, str]],
        *,
        limit: int,
        before: TaskListPlace | None,
        now: datetime,
    ) -> list[tuple[str, ...]]:
        """Return the places of tasks of some weeks: all of them there are, or as many as wanted."""
        first = self.find_note(TaskWeeks).first
        found: list[tuple[str, ...]] = []
        for week in list_weeks(now, before.created_at if before else None):
            if first is None or week < first or len(found) >= limit:
                break
            found += self._list_newest(
                self._settings.tasks_table,
                BY_STATUS_AND_WEEK,
                [{**lane, WEEK: week} for lane in lanes],
                limit=limit - len(found),
                before=before,
            )
        return found

    def list_ended_tasks(self, limit: int) -> Iterator[TaskEntry[EndedTask]]:
        """
        Yield the newest tasks that have ended, oldest first; a hundred at a time are read.

        :param limit: How many at most.
        """
        table = self._settings.tasks_table
        lanes = [{"status": each.value} for each in sorted(TASK_TERMINAL)]
        newest = self._list_newest(table, BY_STATUS, lanes, limit=limit)
        keys = [place[1:] for place in reversed(newest)]
        for start in range(0, len(keys), BATCH_GET_LIMIT):
            some = keys[start : start + BATCH_GET_LIMIT]
            found = self._find_many(table, some, EndedTask.FIELDS)
            yield from (TaskEntry.parse(found[key], EndedTask) for key in some if key in found)

    # --- evaluations -----------------------------------------------------------------------

    def put_evaluation(self, evaluation: Evaluation) -> bool:
        """
        Write the evaluation of one model, unless a newer attempt has written its own.

        :return: Whether it was written.
        """
        try:
            with translated_errors(f"writing evaluation {evaluation.model_id}"):
                self._client.put_item(
                    TableName=self._settings.evaluations_table,
                    Item=to_item(evaluation.dump()),
                    ConditionExpression="attribute_not_exists(fence) OR fence <= :fence",
                    ExpressionAttributeValues={":fence": {"N": str(evaluation.fence)}},
                )
        except PermanentError as error:
            if is_condition_failure(error):
                return False
            raise
        return True

    def list_evaluations(self, model_group_id: str) -> list[Evaluation]:
        """
        Return the evaluations of all models of a group, by model id.

        :raises RecordUnreadable: If one of them does not make sense: they are judged together, and
            without it the verdict would be another.
        """
        records = self._query(
            self._settings.evaluations_table, "model_group_id", model_group_id, index="model_group"
        )
        found = (load_named(Evaluation, str(record.get("model_id")), record) for record in records)
        return sorted(found, key=lambda evaluation: evaluation.model_id)

    # --- servers ---------------------------------------------------------------------------

    def list_servers(self) -> list[ServerEntry]:
        """
        Return all servers by name, also those whose records make no sense.

        Reads the whole table: it has a record for each machine, and a handful of notes.
        """
        entries = [
            ServerEntry.parse(_without_version(record))
            for record in self._scan(self._settings.servers_table)
            if not str(record["server"]).startswith(_NOTE)
        ]
        return sorted(entries, key=lambda entry: entry.name)

    def find_server_entry(self, server: str) -> ServerEntry | None:
        """Return a server as in the list of all, whether or not its record makes sense."""
        found = self._find(self._settings.servers_table, {"server": server})
        return None if found is None else ServerEntry.parse(_without_version(found))

    def find_server(self, server: str) -> Server | None:
        """
        Return a server, or ``None`` if there is none.

        :raises RecordUnreadable: If there is one, and its record makes no sense.
        """
        found = self._find(self._settings.servers_table, {"server": server})
        return None if found is None else Server.load(found)

    def create_server(self, server: Server) -> None:
        """
        Register a server.

        :raises RecordExists: If it is registered already.
        """
        self._create(self._settings.servers_table, "server", server.dump())

    def change_server(
        self,
        server: str,
        decide: Callable[[Server], Server | None],
        *,
        renewed: Collection[str] = (),
    ) -> Server:
        """
        Read a server, let ``decide`` return what it becomes, and write what differs.

        :param decide: Returns ``None``, or the server as it was given, for no change. May be called
            more than once, so it must not do anything but decide.
        :param renewed: Fields that ``decide`` sets whatever they were: they need not make sense.
        :return: The server as it is afterwards.
        :raises RecordNotFound: If it is not registered.
        :raises RecordUnreadable: If its record makes no sense; it is not touched.
        """

        def load(stored: Record) -> Server:
            return Server.load(stored, renewed=renewed)

        key = {"server": server}
        table = self._settings.servers_table
        return self._change_model(table, key, Server, decide, load=load)

    def remove_server(self, server: str) -> None:
        """Forget a server; one that is not known is forgotten already."""
        table = self._settings.servers_table
        with translated_errors(f"removing {server} from {table}"):
            self._client.delete_item(TableName=table, Key=to_item({"server": server}))

    # --- notes: what the control plane remembers or shows, and is no server's ----------------

    def find_note(self, kind: type[AnyNote]) -> AnyNote:
        """
        Return a note; its defaults if nobody has written it yet.

        :raises RecordUnreadable: If what is written makes no sense.
        """
        stored = self._find(self._settings.servers_table, _build_note_key(kind))
        return kind.load(stored or {})

    def put_note(self, note: Note) -> None:
        """Write the fields that a note has set, whatever stood there."""
        fields = note.dump()
        table, key = self._settings.servers_table, _build_note_key(type(note))
        try:
            self._change(table, key, lambda _: fields)
        except RecordNotFound:
            self._begin_note(key)
            self._change(table, key, lambda _: fields)

    def change_note(
        self, kind: type[AnyNote], decide: Callable[[AnyNote], AnyNote | None]
    ) -> AnyNote:
        """
        Change a note by what it says.

        :param decide: As for :meth:`change_server`.
        :return: The note as it is afterwards.
        :raises RecordUnreadable: If what is written makes no sense; it is not touched.
        """
        table, key = self._settings.servers_table, _build_note_key(kind)
        try:
            return self._change_model(table, key, kind, decide)
        except RecordNotFound:
            if decide(kind()) is None:
                return kind()
            self._begin_note(key)
            return self._change_model(table, key, kind, decide)

    def _begin_note(self, key: Mapping[str, str]) -> None:
        with contextlib.suppress(RecordExists):
            self._create(self._settings.servers_table, "server", key)

    # --- for stores of other kinds of records -----------------------------------------------

    def find_in_part(self, table: str, key: Mapping[str, str]) -> Record | None:
        """Return a record as it is stored; ``None`` if there is none."""
        return self._find(table, key)

    def find_all_in_part(
        self, table: str, keys: Iterable[tuple[str, ...]]
    ) -> dict[tuple[str, ...], Record]:
        """Return the records of some keys as they are stored, in few requests; those there are."""
        return self._find_many(table, keys)

    def create_in_part(self, table: str, key: str, record: Record) -> None:
        """
        Write a new record.

        :raises RecordExists: If its key is taken.
        """
        self._create(table, key, record)

    def change_in_part(
        self,
        table: str,
        key: Mapping[str, str],
        model: type[Model],
        decide: Callable[[Model], Model | None],
    ) -> Model:
        """Change a record as a model; see :meth:`change_submission`."""
        return self._change_model(table, key, model, decide)

    def query_part(
        self,
        table: str,
        key: str,
        value: str,
        sort: str = "",
        begins: str = "",
        fields: Sequence[str] = (),
    ) -> Sequence[Record]:
        """
        Return the records of one part of a table.

        :param key: By which attribute the table is parted.
        :param value: Which part.
        :param sort: By which attribute the part is sorted; empty for all of it.
        :param begins: Only what begins so there.
        :param fields: Those wanted of each; empty for all.
        """
        start = (sort, begins) if sort else None
        return self._query(table, key, value, begins=start, fields=fields)

    def find_places(self, table: str, keys: Iterable[tuple[str, ...]]) -> Set[tuple[str, ...]]:
        """Return which of some keys of a table have a record."""
        return self._find_many(table, keys, self._keys[table]).keys()

    # --- the audit ---------------------------------------------------------------------------

    def add_act(self, kind: SubjectKind, name: str, action: Action) -> None:
        """
        Write an act that changes no record.

        :param kind: What it is done to.
        :param name: Which one.
        :param action: What is done.
        """
        for entry in build_entries(kind, name, [action], self._door):
            with contextlib.suppress(RecordExists):
                self._create(self._settings.events_table, "entry", entry.dump())

    def _list_beside(
        self,
        table: str,
        before: Mapping[str, JsonValue],
        after: Mapping[str, JsonValue],
    ) -> Sequence[tuple[str, Record]]:
        """Return the audit's entries of the acts that a record has now and had not before."""
        subject = self._find_subject(table, after)
        if subject is None or before.get("actions") == after.get("actions"):
            return ()
        new = find_new_actions(before.get("actions"), after.get("actions"))
        entries = build_entries(*subject, new, self._door) if new else ()
        return [(self._settings.events_table, entry.dump()) for entry in entries]

    def _find_subject(
        self, table: str, record: Mapping[str, JsonValue]
    ) -> tuple[SubjectKind, str] | None:
        """Return what acts on a record are done to; ``None`` for one that keeps none."""
        if table == self._settings.submissions_table:
            return SubjectKind.SUBMISSION, str(record["submission_id"])
        if table == self._settings.servers_table:
            name = str(record["server"])
            if name == f"{_NOTE}{Control.NAME}":
                return SubjectKind.INSTALLATION, ""
            return None if name.startswith(_NOTE) else (SubjectKind.SERVER, name)
        if table == self._settings.events_table and record["event"] == CATALOGUE:
            return SubjectKind.EVENT, str(record["entry"])
        return None

    def _mark(self, table: str, record: Record) -> Record:
        """Return a record with the marks by which it is found: at work, and of which week."""
        if table == self._settings.tasks_table:
            is_marked, week = _is_at_work(record), find_week(str(record.get("created_at")))
            record = {**record, WEEK: week} if week else record
        elif table == self._settings.submissions_table:
            is_marked = record.get("status") in SUBMISSION_OPEN
        else:
            return record
        return {**record, AT_WORK: _YES} if is_marked else record


def _is_at_work(task: Record) -> bool:
    """Tell whether a task is one of those at work; also of one that makes no sense, if it may."""
    try:
        return Task.load(task).is_at_work
    except RecordUnreadable:
        # It must not be lost to those who end what is left over.
        return True


def load_each(model: type[Model], stored: Mapping[str, Record]) -> Found[Model]:
    """Return stored records, by their names, as models, as far as they make sense."""
    records, unreadable = [], {}
    for name, record in stored.items():
        try:
            records.append(load_named(model, name, record))
        except RecordUnreadable as error:
            unreadable[name] = error
    return Found(records=tuple(records), unreadable=unreadable)


def _without_version(record: Record) -> Record:
    return {name: value for name, value in record.items() if name != VERSION}


def _build_note_key(kind: type[Note]) -> dict[str, str]:
    return {"server": f"{_NOTE}{kind.NAME}"}
