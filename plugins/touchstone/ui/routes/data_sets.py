"""Data sets: admins add them, and everybody sees which there are."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from touchstone.core.data_sets import CANNED, MAX_TEXT_BYTES, Sha256, check_data_name
from touchstone.core.records.data_sets import show_data_set
from touchstone.services.data_sets import DataKeeper
from touchstone.ui.archives import Upload, UploadGate, check_declared, receive_body
from touchstone.ui.dependencies import (
    CallerDep,
    ClockDep,
    ObjectsDep,
    RecordsDep,
    SettingsDep,
    require_admin,
    require_json,
)
from touchstone.ui.routes.content import get_gate

router = APIRouter()


async def get_data_keeper(
    records: RecordsDep, objects: ObjectsDep, settings: SettingsDep, clock: ClockDep
) -> DataKeeper:
    """Return what keeps data sets."""
    return DataKeeper.build(records, objects, settings, clock)


class PrivateDataBody(BaseModel):
    """
    A data set whose file stays where it is.

    :param text: Its ``data.toml``.
    :param digest: Of ``data.toml`` and the data file, one after the other.
    :param data_bytes: The data file's size in bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field(max_length=MAX_TEXT_BYTES)
    digest: Sha256
    data_bytes: int = Field(ge=0, le=2**40)


KeeperDep = Annotated[DataKeeper, Depends(get_data_keeper)]


@router.get("/data")
def list_data_sets(keeper: KeeperDep) -> dict[str, JsonValue]:
    """Return all versions of all data sets, and why those that make no sense are not among them."""
    found = keeper.store.list_data_sets()
    return {
        "built_in": CANNED,
        "data_sets": [show_data_set(each) for each in found.records],
        "unreadable": {name: str(error) for name, error in found.unreadable.items()},
    }


@router.get("/data/{name}")
def get_data_set(keeper: KeeperDep, name: str) -> dict[str, JsonValue]:
    """Return the versions of a data set, the newest first."""
    versions = keeper.store.list_versions(check_data_name(name))
    return {"name": name, "versions": [show_data_set(each) for each in versions]}


@router.post("/data", dependencies=[Depends(require_admin)])
async def add_data_set(
    request: Request,
    caller: CallerDep,
    keeper: KeeperDep,
    settings: SettingsDep,
    gate: Annotated[UploadGate, Depends(get_gate)],
) -> dict[str, JsonValue]:
    """
    Take a data set as the raw body, a ``.tar.gz``, and put it on record.

    The same content again changes nothing. Another one under the same name and version is refused.
    """
    limit = settings.data_bytes
    check_declared(request, limit=limit)
    with gate.enter(caller.name), Upload() as upload:
        await receive_body(request, upload, limit=limit)
        added = await run_in_threadpool(keeper.add, upload.file, by=caller.name)
        return {**show_data_set(added.record), "is_changed": added.is_changed}


@router.post("/data/private", dependencies=[Depends(require_admin), Depends(require_json)])
def add_private_data_set(
    caller: CallerDep, keeper: KeeperDep, body: PrivateDataBody
) -> dict[str, JsonValue]:
    """
    Put a data set on record whose file stays at the servers that hold it.

    The same again changes nothing. Another one under the same name and version is refused.
    """
    added = keeper.add_private(body.text, body.digest, body.data_bytes, by=caller.name)
    return {**show_data_set(added.record), "is_changed": added.is_changed}
