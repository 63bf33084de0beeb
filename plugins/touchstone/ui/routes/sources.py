"""A source before it is sent: its refs or files, what was sent before, what quotas leave."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from touchstone.core.answers.sources import SourceReport
from touchstone.core.conf import System, parse_conf
from touchstone.core.refs import MAX_REF
from touchstone.core.remotes import MAX_URL
from touchstone.core.schedule import MAX_PATH
from touchstone.services.looking import ListRefs, Looker, LookGate, list_refs
from touchstone.ui.dependencies import (
    CallerDep,
    ObjectsDep,
    RecordsDep,
    SettingsDep,
    require_json,
    require_submitter,
)
from touchstone.ui.routes.events import KeeperDep
from touchstone_agent.protocol.errors import ConfigurationError

router = APIRouter()


class SourceBody(BaseModel):
    """
    A source that somebody may send.

    :param source: Git URL, or what stands for an uploaded archive.
    :param system: Kind of module.
    :param ref: Branch, tag or commit; empty for the default branch.
    :param path: Folder of the module below the root.
    """

    model_config = ConfigDict(extra="forbid")

    source: Annotated[str, Field(min_length=1, max_length=MAX_URL)]
    system: System = System.FEATURE_SET
    ref: Annotated[str, Field(max_length=MAX_REF)] = ""
    path: Annotated[str, Field(max_length=MAX_PATH)] = "."


@lru_cache(maxsize=1)
def get_look_gate() -> LookGate:
    """Return this process's count of those who look."""
    return LookGate()


def get_list_refs() -> ListRefs:
    """Return what asks a repository for its refs."""
    return list_refs


def get_looker(
    records: RecordsDep,
    objects: ObjectsDep,
    settings: SettingsDep,
    keeper: KeeperDep,
    gate: Annotated[LookGate, Depends(get_look_gate)],
    ask: Annotated[ListRefs, Depends(get_list_refs)],
) -> Looker:
    """Return what looks at sources."""
    return Looker(
        records=records,
        objects=objects,
        settings=settings,
        keeper=keeper,
        gate=gate,
        list_refs=ask,
    )


LookerDep = Annotated[Looker, Depends(get_looker)]


@router.post("/sources/look", dependencies=[Depends(require_submitter), Depends(require_json)])
def look_at_source(caller: CallerDep, looker: LookerDep, body: SourceBody) -> SourceReport:
    """
    Say what is known of a source before it is sent; nothing is changed.

    Of a repository its branches and tags, and the commit that is meant; of an archive that was
    uploaded its files. Then which submissions are of the same source, and what quotas leave.

    :raises ConfigurationError: What ``register`` would refuse, with the field's name.
    :raises LooksBusy: If enough sources are being looked at.
    """
    conf = {name: value for name, value in body.model_dump(mode="json").items() if value}
    source = parse_conf(conf).source
    if source is None:
        raise ConfigurationError("source: give a git URL, or an uploaded archive")
    return looker.look(source, user=caller.name, is_admin=caller.is_admin)
