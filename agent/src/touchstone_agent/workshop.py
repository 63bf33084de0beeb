"""What all supervisors share, and how an attempt is put to the runtime."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path

from touchstone_agent.adapters.prepared import PreparedCache
from touchstone_agent.adapters.transfer import Transfer
from touchstone_agent.cell import AttemptCell
from touchstone_agent.contract import build_gpu_variables, build_limit_variables
from touchstone_agent.core.ports import Clock, LaunchSpec, Runtime
from touchstone_agent.grants import GrantDesk
from touchstone_agent.outbox import Outbox
from touchstone_agent.protocol.messages import Limits, Preparation
from touchstone_agent.protocol.names import build_prepare_name


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """
    What all supervisors of an agent share.

    :param runtime: Where attempts run.
    :param desk: Where grants are asked.
    :param transfer: Moves files.
    :param outbox: Where progress is told.
    :param clock: The clock.
    :param env: Environment.
    :param server: This server.
    :param instance: Identity of this agent's state folder.
    :param prepared: What was prepared for attempts.
    :param flush_seconds: Between two looks at a console.
    :param stopping: Set when the agent is about to stop.
    """

    runtime: Runtime
    desk: GrantDesk
    transfer: Transfer
    outbox: Outbox
    clock: Clock
    env: str
    server: str
    instance: str
    prepared: PreparedCache
    flush_seconds: float
    stopping: threading.Event


def build_spec(cell: AttemptCell, shop: Workshop) -> LaunchSpec:
    """Return everything the runtime needs to run an attempt."""
    start = cell.attempt.start
    limits = start.limits
    cache = shop.prepared.find_claimed(cell.folder) if start.prepare is not None else None
    if start.network:
        # Ordered by a control plane of the version before: nobody else gets what it leaves there.
        cache = cell.folder / "cache"
        cache.mkdir(mode=0o755, exist_ok=True)
    return LaunchSpec(
        ref=start.ref,
        name=cell.name,
        labels=build_labels(cell, shop),
        image=start.image,
        argv=start.argv,
        environment={
            **start.environment,
            **build_limit_variables(limits),
            **build_gpu_variables(
                requires_gpu=start.requires_gpu,
                gpus=len(cell.attempt.gpu_ids),
                shares=cell.attempt.gpu_shares,
            ),
        },
        folder=cell.folder,
        cache=cache,
        limits=limits,
        network=start.network,
        gpu_ids=cell.attempt.gpu_ids,
    )


def build_prepare_spec(
    cell: AttemptCell,
    shop: Workshop,
    wanted: Preparation,
    *,
    folder: Path,
    cache: Path,
    limits: Limits,
) -> LaunchSpec:
    """
    Return everything the runtime needs to prepare what an attempt needs.

    :param wanted: What is prepared.
    :param folder: Its own folder, with ``in``, ``out`` and ``tmp``.
    :param cache: What it fills.
    :param limits: What it may use.
    """
    start = cell.attempt.start
    labels = build_labels(cell, shop)
    # What cannot be adopted as an attempt.
    del labels["touchstone.start"]
    return LaunchSpec(
        ref=start.ref,
        name=build_prepare_name(cell.name),
        labels=labels,
        image=start.image,
        argv=wanted.argv,
        environment={
            **start.environment,
            **build_limit_variables(limits),
            **build_gpu_variables(requires_gpu=False, gpus=0),
        },
        folder=folder,
        cache=cache,
        limits=limits,
        network=True,
    )


def build_labels(cell: AttemptCell, shop: Workshop) -> dict[str, str]:
    """Return the labels by which an attempt is found and, without a journal, adopted."""
    ref = cell.ref
    # Grants are secrets, and its inputs are in its folder already when it is found by this.
    start = cell.attempt.start.model_copy(update={"inputs": ()})
    return {
        "touchstone.env": shop.env,
        "touchstone.server": shop.server,
        "touchstone.submission": ref.submission_id,
        "touchstone.task": ref.task_id,
        "touchstone.attempt": str(ref.attempt),
        "touchstone.fence": str(ref.fence),
        "touchstone.agent": shop.instance,
        "touchstone.gpus": ",".join(cell.attempt.gpu_ids),
        "touchstone.gpu_shares": str(cell.attempt.gpu_shares),
        "touchstone.start": json.dumps(start.model_dump(mode="json"), separators=(",", ":")),
    }
