"""What all supervisors share, and how an attempt is put to the runtime."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path

from touchstone_agent.adapters.compiled import CompiledCache
from touchstone_agent.adapters.prepared import PreparedCache
from touchstone_agent.adapters.private import NOTHING_PRIVATE, PrivateStore
from touchstone_agent.adapters.transfer import Transfer
from touchstone_agent.attempt_handle import AttemptHandle
from touchstone_agent.contract import (
    build_compiled_variables,
    build_gpu_variables,
    build_limit_variables,
)
from touchstone_agent.core.ports import Clock, LaunchSpec, Runtime
from touchstone_agent.grants import GrantRequester
from touchstone_agent.logins import LoginRequester
from touchstone_agent.outbox import Outbox
from touchstone_agent.protocol.messages import Limits, Preparation
from touchstone_agent.protocol.names import build_prepare_name


@dataclass(frozen=True, kw_only=True)
class AgentContext:
    """
    What all supervisors of an agent share.

    :param runtime: Where attempts run.
    :param grant_requester: Asks for presigned requests.
    :param logins: Where logins of registries are asked.
    :param transfer: Moves files.
    :param outbox: Takes progress.
    :param clock: The clock.
    :param env: Environment.
    :param server: This server.
    :param instance: Identity of this agent's state folder.
    :param prepared: What was prepared for attempts.
    :param compiled: What trainings have compiled.
    :param flush_seconds: Between two looks at a console.
    :param stopping: Set when the agent is about to stop.
    :param private: Data sets that stay here.
    """

    runtime: Runtime
    grant_requester: GrantRequester
    logins: LoginRequester
    transfer: Transfer
    outbox: Outbox
    clock: Clock
    env: str
    server: str
    instance: str
    prepared: PreparedCache
    compiled: CompiledCache
    flush_seconds: float
    stopping: threading.Event
    private: PrivateStore = NOTHING_PRIVATE


def build_spec(handle: AttemptHandle, context: AgentContext) -> LaunchSpec:
    """Return everything the runtime needs to run an attempt."""
    start = handle.attempt.start
    limits = start.limits
    cache = context.prepared.find_assigned(handle.folder) if start.prepare is not None else None
    if start.network:
        # Ordered by a control plane of the version before: nobody else gets what it leaves there.
        cache = handle.folder / "cache"
        cache.mkdir(mode=0o755, exist_ok=True)
    return LaunchSpec(
        ref=start.ref,
        name=handle.name,
        labels=build_labels(handle, context),
        image=start.image,
        argv=start.argv,
        environment={
            **start.environment,
            **build_limit_variables(limits),
            **build_gpu_variables(
                requires_gpu=start.requires_gpu,
                gpus=len(handle.attempt.gpu_ids),
                shares=handle.attempt.gpu_shares,
            ),
            **build_compiled_variables(
                context.compiled.entry_bytes if context.compiled.is_wanted(handle.folder) else 0
            ),
        },
        folder=handle.folder,
        cache=cache,
        limits=limits,
        network=start.network,
        gpu_ids=handle.attempt.gpu_ids,
    )


def build_prepare_spec(
    handle: AttemptHandle,
    context: AgentContext,
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
    start = handle.attempt.start
    labels = build_labels(handle, context)
    # What cannot be adopted as an attempt.
    del labels["touchstone.start"]
    return LaunchSpec(
        ref=start.ref,
        name=build_prepare_name(handle.name),
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


def build_labels(handle: AttemptHandle, context: AgentContext) -> dict[str, str]:
    """Return the labels by which an attempt is found and, without a journal, adopted."""
    ref = handle.ref
    # Grants are secrets, and its inputs are in its folder already when it is found by this.
    start = handle.attempt.start.model_copy(update={"inputs": ()})
    return {
        "touchstone.env": context.env,
        "touchstone.server": context.server,
        "touchstone.submission": ref.submission_id,
        "touchstone.task": ref.task_id,
        "touchstone.attempt": str(ref.attempt),
        "touchstone.fence": str(ref.fence),
        "touchstone.agent": context.instance,
        "touchstone.gpus": ",".join(handle.attempt.gpu_ids),
        "touchstone.gpu_shares": str(handle.attempt.gpu_shares),
        "touchstone.start": json.dumps(start.model_dump(mode="json"), separators=(",", ":")),
    }
