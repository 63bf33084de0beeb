"""Airflow's own log, in which its api-server notes what people do to our runs."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.utils.session import create_session
from sqlalchemy import func, select, update

from touchstone.airflow_db.rows import DAG_ID
from touchstone.core.acts import Act
from touchstone.core.authority import CONF_SUBMISSION

log = logging.getLogger(__name__)

EVENT = "touchstone.act"
"""Event of our own entries; Airflow's, of the same requests, stand beside them."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """
    Something that somebody has asked Airflow to do.

    :param id: Of the entry: later ones have higher ones.
    :param uid: The same, but of no other table that was ever in its place.
    :param at: When, UTC.
    :param by: The user, as Airflow's auth manager knows them.
    :param act: What.
    :param named: What the run named as its submission in its conf.
    :param status: HTTP status of the answer; ``None`` while there is none, or if the api-server
        died before it answered.
    """

    id: int
    uid: str
    at: datetime
    by: str
    act: Act
    named: object = None
    status: int | None = None


def write_entries(acts: Sequence[Act], *, by: str) -> list[Entry]:
    """Note what somebody asks for, before it is done."""
    run_ids = {act.run_id for act in acts if act.run_id is not None}
    entries = []
    with create_session(scoped=False) as session:
        rows = session.execute(
            select(DagRun.run_id, DagRun.conf).where(
                DagRun.dag_id == DAG_ID, DagRun.run_id.in_(run_ids)
            )
        ).all()
        confs: dict[str, object] = {row.run_id: row.conf for row in rows}
        for act in acts:
            conf = confs.get(act.run_id or "")
            named = conf.get(CONF_SUBMISSION) if isinstance(conf, dict) else None
            entry = Entry(
                id=0, uid=secrets.token_hex(8), at=datetime.now(UTC), by=by, act=act, named=named
            )
            row = Log(
                event=EVENT,
                owner=by[:500],
                extra=_dump(entry, None),
                dag_id=DAG_ID,
                run_id=act.run_id,
            )
            session.add(row)
            session.flush()
            entries.append(
                Entry(id=row.id, uid=entry.uid, at=entry.at, by=by, act=act, named=named)
            )
    return entries


def settle_entries(entries: Iterable[Entry], *, status: int) -> None:
    """Note how what was asked for was answered."""
    with create_session(scoped=False) as session:
        for entry in entries:
            session.execute(
                update(Log)
                .where(Log.id == entry.id)
                .values(extra=_dump(entry, status))
                .execution_options(synchronize_session=False)
            )


def read_entries(*, after: int, before: datetime, limit: int) -> list[Entry]:
    """
    Return what was noted, oldest first.

    :param after: Id of the last one that is known.
    :param before: Of later ones an earlier one may still be on its way.
    :param limit: So many at most.
    """
    with create_session() as session:
        rows = session.execute(
            select(Log.id, Log.dttm, Log.owner, Log.run_id, Log.extra)
            .where(Log.event == EVENT, Log.id > after, Log.dttm < before)
            .order_by(Log.id)
            .limit(limit)
        ).all()
    entries = (_load(*row) for row in rows)
    return [entry for entry in entries if entry is not None]


def find_last_id() -> int:
    """Return the id of the newest entry of Airflow's log, whatever it is of; 0 for none."""
    with create_session() as session:
        return int(session.scalar(select(func.max(Log.id))) or 0)


def _dump(entry: Entry, status: int | None) -> str:
    facts = {
        "words": entry.act.words,
        "is_deletion": entry.act.is_deletion,
        "named": entry.named if isinstance(entry.named, str) else None,
        "uid": entry.uid,
        "status": status,
    }
    return json.dumps(facts)


def _load(
    entry_id: int, at: datetime | None, by: str | None, run_id: str | None, extra: str | None
) -> Entry | None:
    try:
        facts: dict[str, object] = json.loads(extra or "")
        act = Act(
            words=str(facts["words"]), run_id=run_id, is_deletion=facts["is_deletion"] is True
        )
        status = facts["status"]
        return Entry(
            id=entry_id,
            uid=str(facts["uid"]),
            at=at or datetime.now(UTC),
            by=str(by),
            act=act,
            named=facts["named"],
            status=status if isinstance(status, int) else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        log.warning("entry %s of Airflow's log makes no sense: %r", entry_id, error)
        return None
