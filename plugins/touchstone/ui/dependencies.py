"""
What routes are given: who asks, the stores, the clock. Tests replace each of them.

FastAPI hands what is no coroutine to a thread, which takes longer than most of these do: those that
wait for nothing are coroutines, and those that may ask a store or a database are not.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Protocol, TypeVar

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import Depends, Header, HTTPException, Request
from fastapi.concurrency import run_in_threadpool

from touchstone.core.answers.acts import Ended
from touchstone.core.queue import Queue
from touchstone.core.records.audit import CLI_AGENT, Door
from touchstone.core.records.requests import MAX_KEY
from touchstone.settings import Settings, get_settings
from touchstone.stores.meter import Meter
from touchstone.stores.money import Budgets
from touchstone.stores.objects import ObjectStore
from touchstone.stores.parts import Parts
from touchstone.stores.records import RecordStore
from touchstone.ui.authority import Authority, is_admin, is_known, may_submit
from touchstone.ui.waiting import QueueReader


@dataclass(frozen=True, kw_only=True)
class Caller:
    """
    Who asks, and what Airflow's auth manager lets them do.

    :param name: The user's name, as in a submission's ``submitted_by``.
    :param is_admin: Whether they may edit pools: sees and ends everybody's submissions.
    :param may_submit: Whether they may start runs of the DAG, or have the permission to submit.
    """

    name: str
    is_admin: bool
    may_submit: bool


class CancelService(Protocol):
    """Ends what is under way, and says what it ended."""

    def cancel(self, submission_id: str, *, by: str, reason: str | None) -> Ended:
        """End a submission's tasks and runs."""
        ...

    def cancel_unregistered(self, submission_id: str, *, by: str, is_admin: bool) -> Ended | None:
        """End the run of a submission without a record; ``None`` if there is none of theirs."""
        ...

    def retract(self, submission_id: str, *, by: str) -> Ended:
        """End a submission for good."""
        ...


class _Canceller:
    def __init__(self, records: RecordStore) -> None:
        self._records = records

    # Imported by the first use: the dispatcher brings Airflow's models with it.
    def cancel(self, submission_id: str, *, by: str, reason: str | None) -> Ended:
        from touchstone.services.cancel import cancel_submission

        return cancel_submission(submission_id, by=by, reason=reason, records=self._records)

    def cancel_unregistered(self, submission_id: str, *, by: str, is_admin: bool) -> Ended | None:
        from touchstone.services.cancel import cancel_unregistered

        return cancel_unregistered(submission_id, by=by, is_admin=is_admin, records=self._records)

    def retract(self, submission_id: str, *, by: str) -> Ended:
        from touchstone.services.cancel import retract_submission

        return retract_submission(submission_id, by=by, records=self._records)


T = TypeVar("T")


def _share(connect: Callable[[], T]) -> Callable[[], Awaitable[T]]:
    """Return what connects once in this process, in a thread, and hands it out at once then."""
    shared = lru_cache(maxsize=1)(connect)

    async def get() -> T:
        if shared.cache_info().currsize:
            return shared()
        return await run_in_threadpool(shared)

    return get


async def read_settings() -> Settings:
    """Return the settings of this process."""
    return get_settings()


@lru_cache(maxsize=1)
def _connect_objects() -> ObjectStore:
    return ObjectStore.connect(get_settings())


def _build_queue_reader() -> QueueReader:
    return QueueReader(_connect_objects(), get_settings())


get_records = _share(lambda: RecordStore.connect(get_settings()))
"""Returns this process's record store."""
get_objects = _share(_connect_objects)
"""Returns this process's object store."""
get_meter = _share(lambda: Meter.connect(get_settings()))
"""Returns what this process reads pods' meters with."""
get_budgets = _share(lambda: Budgets.connect(get_settings()))
"""Returns what this process reads budgets with."""
get_queue_reader = _share(_build_queue_reader)
"""Returns what reads the published queue for this process."""


async def get_parts(
    objects: Annotated[ObjectStore, Depends(get_objects)],
    settings: Annotated[Settings, Depends(read_settings)],
) -> Parts:
    """Return what reads the large parts of records."""
    return Parts(objects, settings.content_bucket)


def get_queue(reader: Annotated[QueueReader, Depends(get_queue_reader)]) -> Queue | None:
    """Return the published queue, or ``None`` if there never was one."""
    return reader.read()


async def get_door(request: Request, user_agent: Annotated[str, Header()] = "") -> Door:
    """Return where a request came in. That it is the command line's is its own word for it."""
    door = getattr(request.app.state, "door", Door.API)
    is_cli = door is Door.API and user_agent.partition("/")[0] == CLI_AGENT
    return Door.CLI if is_cli else door


async def get_acting_records(
    records: Annotated[RecordStore, Depends(get_records)],
    door: Annotated[Door, Depends(get_door)],
) -> RecordStore:
    """Return the record store for what this request does."""
    return records.through(door)


async def get_cancel_service(
    records: Annotated[RecordStore, Depends(get_acting_records)],
) -> CancelService:
    """Return what cancels and retracts."""
    return _Canceller(records)


def find_airflow_path(request: Request) -> str:
    """Return the path that Airflow is below, without a slash at its end; empty for none."""
    # Set where Airflow hands a request to an application of ours.
    return str(request.scope.get("app_root_path", "")).rstrip("/")


async def get_clock() -> Callable[[], datetime]:
    """Return the clock, UTC."""
    return lambda: datetime.now(UTC)


async def get_authority() -> Authority:
    """Return Airflow's auth manager."""
    return get_auth_manager()


async def require_user(user: GetUserDep) -> BaseUser:
    """Refuse who has not logged in, also where Airflow lets strangers look at it."""
    if not is_known(user):
        raise HTTPException(401, "Not authenticated")
    return user


def get_caller(
    user: Annotated[BaseUser, Depends(require_user)],
    authority: Annotated[Authority, Depends(get_authority)],
) -> Caller:
    """Return who asks."""
    return Caller(
        name=user.get_name(),
        is_admin=is_admin(authority, user),
        may_submit=may_submit(authority, user),
    )


CallerDep = Annotated[Caller, Depends(get_caller)]
RecordsDep = Annotated[RecordStore, Depends(get_acting_records)]
PartsDep = Annotated[Parts, Depends(get_parts)]
ObjectsDep = Annotated[ObjectStore, Depends(get_objects)]
SettingsDep = Annotated[Settings, Depends(read_settings)]
CancelServiceDep = Annotated[CancelService, Depends(get_cancel_service)]
QueueReaderDep = Annotated[QueueReader, Depends(get_queue_reader)]
QueueDep = Annotated[Queue | None, Depends(get_queue)]
Key = Annotated[
    str | None,
    Header(alias="Idempotency-Key", min_length=1, max_length=MAX_KEY, pattern=r"^[\x21-\x7e]+$"),
]
"""A program's own name for a request; sent again with it, a request is the same one."""
ClockDep = Annotated[Callable[[], datetime], Depends(get_clock)]


async def require_submitter(caller: CallerDep) -> None:
    """Refuse users who may not submit."""
    if not caller.may_submit:
        raise HTTPException(
            403, f"{caller.name} may not submit; an admin of Airflow gives users roles that may"
        )


async def require_admin(caller: CallerDep) -> None:
    """Refuse users who may not edit pools."""
    if not caller.is_admin:
        raise HTTPException(403, "for admins only")


async def require_json(content_type: Annotated[str, Header()] = "") -> None:
    """
    Refuse bodies that are not declared as JSON.

    A page elsewhere can make a browser send forms and plain text along with the session's
    cookie, but not this type, unless we allowed its origin.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise HTTPException(415, "send JSON, with Content-Type: application/json")
