"""
The agent's memory: SQLite, every write on the disk before it returns.

A START is in here before its message is deleted, and a phase is in here, together with the
event that tells it, before anything is sent: whatever moment the agent dies at, nothing is
forgotten and nothing is done twice.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import uuid4

from touchstone_agent.core.admission import FenceMark
from touchstone_agent.core.attempts import Attempt, build_phase_event
from touchstone_agent.core.cursor import Chunk
from touchstone_agent.protocol.errors import ConfigurationError, TransientError
from touchstone_agent.protocol.messages import AttemptPhase, AttemptRef, PhaseChanged, Start

SCHEMA_VERSION = 1
FENCES_KEPT = timedelta(days=90)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS attempts (
    task_key TEXT NOT NULL, fence INTEGER NOT NULL, start TEXT NOT NULL,
    phase TEXT NOT NULL, phase_at TEXT NOT NULL, accepted_at TEXT NOT NULL,
    reason TEXT, details TEXT NOT NULL, cancel_reason TEXT, end_as TEXT NOT NULL,
    gpu_ids TEXT NOT NULL,
    console_cursor INTEGER NOT NULL, chunks TEXT NOT NULL, uploaded TEXT NOT NULL,
    failed TEXT NOT NULL, console_closed INTEGER NOT NULL,
    gpu_shares INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (task_key, fence));
CREATE TABLE IF NOT EXISTS fences (
    task_key TEXT PRIMARY KEY, seen INTEGER NOT NULL, cancelled INTEGER NOT NULL,
    updated_at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT, message_id TEXT NOT NULL, event TEXT NOT NULL);
"""

_COLUMNS = (
    "task_key, fence, start, phase, phase_at, accepted_at, reason, details, cancel_reason, "
    "end_as, gpu_ids, console_cursor, chunks, uploaded, failed, console_closed, gpu_shares"
)

# Only constants are put together here; all values are parameters.
_WRITE = f"INSERT OR REPLACE INTO attempts ({_COLUMNS}) VALUES ({','.join('?' * 17)})"  # noqa: S608
_READ = f"SELECT {_COLUMNS} FROM attempts ORDER BY accepted_at, fence"  # noqa: S608


@dataclass(frozen=True, kw_only=True)
class Posted:
    """
    A phase event that waits to be sent.

    :param id: Its place in the order.
    :param message_id: Kept over restarts, so that the queue drops what was sent already.
    :param event: The event.
    """

    id: int
    message_id: str
    event: PhaseChanged


class Journal:
    """
    The journal of one state folder; safe to use from several threads.

    :param path: The database file; made if absent, for its owner alone.
    :raises ConfigurationError: If it was written by a newer agent.

    Every method that writes raises :class:`~touchstone_agent.protocol.errors.TransientError` when
    the disk does not take it.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        # SQLite makes its side files with the mode of the database file.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA busy_timeout=5000")
        self._db.executescript(_SCHEMA)
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
            db.execute("INSERT OR IGNORE INTO meta VALUES ('instance', ?)", (uuid4().hex,))
            _add_missing_column(db)
            meta = dict(db.execute("SELECT key, value FROM meta"))
        if int(meta["schema"]) != SCHEMA_VERSION:
            raise ConfigurationError(
                f"journal {path} has schema {meta['schema']}; this agent reads {SCHEMA_VERSION}: "
                "install the agent that wrote it"
            )
        self.instance: str = meta["instance"]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.OperationalError as error:
                # The disk is full, mostly: nothing is done that could not be written down.
                raise TransientError(f"journal: {error}") from error

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._db.close()

    def save(self, attempt: Attempt, *, now: datetime, announce: bool = False) -> Posted | None:
        """
        Write an attempt and, in the same transaction, the event that tells its phase.

        :param now: The time, UTC.
        :param announce: Whether to put the event of its phase into the outbox.
        :return: The event in the outbox, if any.
        """
        with self._transaction() as db:
            db.execute(
                _WRITE,
                _to_row(attempt),
            )
            _raise_mark(db, attempt.ref.task_key, now, seen=attempt.ref.fence)
            return _post(db, build_phase_event(attempt)) if announce else None

    def post(self, event: PhaseChanged) -> Posted:
        """Put an event into the outbox that belongs to no attempt in the journal."""
        with self._transaction() as db:
            return _post(db, event)

    def mark(
        self, ref: AttemptRef, *, now: datetime, cancelled: bool, event: PhaseChanged | None = None
    ) -> Posted | None:
        """
        Remember that an attempt and all older ones must never start here.

        :param cancelled: Whether it was cancelled, as opposed to reported as lost.
        :param event: An event to put into the outbox in the same transaction.
        """
        with self._transaction() as db:
            if cancelled:
                _raise_mark(db, ref.task_key, now, cancelled=ref.fence)
            else:
                _raise_mark(db, ref.task_key, now, seen=ref.fence)
            return _post(db, event) if event is not None else None

    def get_mark(self, task_key: str) -> FenceMark:
        """Return what is remembered of a task's fences."""
        with self._lock:
            row = self._db.execute(
                "SELECT seen, cancelled FROM fences WHERE task_key = ?", (task_key,)
            ).fetchone()
        return FenceMark(seen=row[0], cancelled=row[1]) if row else FenceMark()

    def load(self) -> tuple[Attempt, ...]:
        """Return all attempts, oldest first."""
        with self._lock:
            rows = self._db.execute(_READ).fetchall()
        return tuple(_from_row(row) for row in rows)

    def load_outbox(self) -> tuple[Posted, ...]:
        """Return all events that wait to be sent, in order."""
        with self._lock:
            rows = self._db.execute(
                "SELECT id, message_id, event FROM outbox ORDER BY id"
            ).fetchall()
        return tuple(
            Posted(id=i, message_id=m, event=PhaseChanged.model_validate_json(e))
            for i, m, e in rows
        )

    def settle(self, posted: Posted) -> None:
        """Take an event out of the outbox: the queue has it."""
        with self._transaction() as db:
            db.execute("DELETE FROM outbox WHERE id = ?", (posted.id,))

    def forget(self, ref: AttemptRef) -> None:
        """Remove an attempt; its fence is remembered."""
        with self._transaction() as db:
            db.execute(
                "DELETE FROM attempts WHERE task_key = ? AND fence = ?", (ref.task_key, ref.fence)
            )

    def forget_old_fences(self, now: datetime) -> None:
        """Remove marks that no message in flight can concern any more."""
        with self._transaction() as db:
            limit = (now - FENCES_KEPT).isoformat()
            db.execute("DELETE FROM fences WHERE updated_at < ?", (limit,))

    def clear(self) -> None:
        """Remove all attempts and events; fences are remembered."""
        with self._transaction() as db:
            db.execute("DELETE FROM attempts")
            db.execute("DELETE FROM outbox")


def _add_missing_column(db: sqlite3.Connection) -> None:
    """Add what the version before did not know; that one writes on beside it, and reads on."""
    known = {row[1] for row in db.execute("PRAGMA table_info(attempts)")}
    if "gpu_shares" not in known:
        db.execute("ALTER TABLE attempts ADD COLUMN gpu_shares INTEGER NOT NULL DEFAULT 1")


def _raise_mark(
    db: sqlite3.Connection, task_key: str, now: datetime, *, seen: int = 0, cancelled: int = 0
) -> None:
    db.execute(
        "INSERT INTO fences VALUES (?, ?, ?, ?) ON CONFLICT (task_key) DO UPDATE SET "
        "seen = max(seen, excluded.seen), cancelled = max(cancelled, excluded.cancelled), "
        "updated_at = excluded.updated_at",
        (task_key, seen, cancelled, now.isoformat()),
    )


def _post(db: sqlite3.Connection, event: PhaseChanged) -> Posted:
    message_id = uuid4().hex
    cursor = db.execute(
        "INSERT INTO outbox (message_id, event) VALUES (?, ?)",
        (message_id, event.model_dump_json()),
    )
    return Posted(id=cursor.lastrowid or 0, message_id=message_id, event=event)


def _to_row(a: Attempt) -> tuple[object, ...]:
    return (
        a.ref.task_key,
        a.ref.fence,
        a.start.model_dump_json(),
        a.phase.value,
        a.phase_at.isoformat(),
        a.accepted_at.isoformat(),
        a.reason,
        json.dumps(dict(a.details)),
        a.cancel_reason,
        a.end_as.value,
        json.dumps(a.gpu_ids),
        a.console_cursor,
        json.dumps([[c.offset, c.size, c.sha256] for c in a.chunks]),
        json.dumps(a.uploaded),
        json.dumps(dict(a.failed)),
        int(a.console_closed),
        a.gpu_shares,
    )


def _from_row(row: Iterable[object]) -> Attempt:
    _, _, start, phase, phase_at, accepted_at, reason, details, cancel_reason, *rest = row
    end_as, gpu_ids, cursor, chunks, uploaded, failed, closed, gpu_shares = rest
    return Attempt(
        start=Start.model_validate_json(str(start)),
        phase=AttemptPhase(str(phase)),
        phase_at=datetime.fromisoformat(str(phase_at)),
        accepted_at=datetime.fromisoformat(str(accepted_at)),
        reason=None if reason is None else str(reason),
        details=json.loads(str(details)),
        cancel_reason=None if cancel_reason is None else str(cancel_reason),
        end_as=AttemptPhase(str(end_as)),
        # The version before wrote indexes, as numbers.
        gpu_ids=tuple(map(str, json.loads(str(gpu_ids)))),
        gpu_shares=int(str(gpu_shares)),
        console_cursor=int(str(cursor)),
        chunks=tuple(Chunk(offset=o, size=s, sha256=h) for o, s, h in json.loads(str(chunks))),
        uploaded=tuple(json.loads(str(uploaded))),
        failed=json.loads(str(failed)),
        console_closed=bool(closed),
    )
