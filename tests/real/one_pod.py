"""Rents one pod, lets it run a command, and gives it back: by the code that trainings run by."""

from __future__ import annotations

import asyncio
import base64
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from touchstone.core.conf import System
from touchstone.core.market import Market
from touchstone.core.offers import Candidate
from touchstone.core.pods import Pod, PodOrder, compute_cost
from touchstone.core.records.tasks import PodRecord
from touchstone.core.tasks import TaskSpec
from touchstone.hooks.runpod.api import Account
from touchstone.hooks.runpod.errors import Ambiguous, CapacityExhausted
from touchstone.hooks.runpod.lister import get_async_lister
from touchstone.hooks.runpod.rest import AsyncRestPodApi
from touchstone.services.pods.context import PodContext
from touchstone.services.pods.ending import terminate
from touchstone.services.pods.keys import derive_key
from touchstone.settings import RunPodSettings, Settings
from touchstone.triggers.pods.connecting import PodConnector
from touchstone.triggers.pods.failures import check_host
from touchstone_agent.protocol.messages import AttemptRef, Limits, SlotClass
from touchstone_agent.protocol.pods import (
    POD_PROGRAM,
    PodPhase,
    PodPoll,
    PodStart,
    PodState,
    PodVariable,
)

BOOT_SECONDS = 900
LOGIN_SECONDS = 180
LIFE_SECONDS = 600
"""What the pod lives at most once it has booted: it ends itself then, whatever becomes of us."""
MARGIN_SECONDS = 120
SECRET = secrets.token_bytes(32)
LOOK = 'nvidia-smi -L > "$2/console.log" && echo "id: $(id -u)" >> "$2/console.log" && exit 7'
"""Ends with a code of its own, which only a command that was really run can bring back."""


@dataclass(frozen=True)
class Visit:
    """What came of a pod."""

    pod: Pod
    exit_code: int | None
    console: str
    seconds: float
    usd: Decimal


def find_ceiling(cap: Decimal) -> Decimal:
    """Return the price per hour at which even the longest life of the pod costs less than that."""
    longest = BOOT_SECONDS + LOGIN_SECONDS + LIFE_SECONDS + MARGIN_SECONDS
    return cap * 3600 / longest


@asynccontextmanager
async def open_context(account: Account, wanted: RunPodSettings):
    """Connect to an account; nothing is read from or written to AWS by what is done here."""
    settings = Settings(env=f"real{secrets.token_hex(3)}", runpod=wanted)
    api = AsyncRestPodApi(account)
    try:
        yield PodContext(
            api=api,
            lister=get_async_lister(account),
            records=None,
            objects=None,
            ledger=None,
            settings=settings,
            secret=SECRET,
            api_url=account.url,
        )
    finally:
        await api.close()


async def visit_pod(context: PodContext, *, cap: Decimal) -> Visit:
    """
    Rent the cheapest pod, look at it, run a command in it, and give it back.

    :param cap: Most USD that this may cost; a model for which it might cost more is not rented.
    """
    name = f"touchstone-{context.settings.env}-visit-1-1"
    offers = tuple(await context.api.list_offers())
    wanted = context.settings.runpod
    market = Market(offers=offers, models=wanted.gpu_models, max_price=find_ceiling(cap))
    ordered_at, began = datetime.now(UTC), time.monotonic()
    pod = None
    try:
        pod = await _order(context, name, market.choose().candidates)
        print(f"{name}: {pod.gpu} in {pod.data_center}, ${pod.price_per_hour}/h")
        exit_code, console = await _work(context, pod, ordered_at)
    finally:
        # By name, not by what is known here: an order without an answer may have made one.
        await asyncio.shield(_release(context, name, pod))
    seconds = time.monotonic() - began
    usd = compute_cost(pod.price_per_hour, seconds)
    print(f"{name}: given back after {seconds:.0f} s, at most ${usd:.4f}")
    return Visit(pod=pod, exit_code=exit_code, console=console, seconds=seconds, usd=usd)


async def list_mine(context: PodContext) -> list[Pod]:
    """Return the pods of this visit that the account has."""
    snapshot = await context.lister.get(since=time.monotonic())
    return snapshot.list_named(f"touchstone-{context.settings.env}-visit-1-1")


async def _order(context: PodContext, name: str, candidates: tuple[Candidate, ...]) -> Pod:
    wanted, public = context.settings.runpod, derive_key(context.secret, name).public
    for candidate in candidates:
        order = PodOrder(
            name=name,
            image=wanted.image,
            gpu=candidate.gpu,
            cloud=candidate.cloud,
            disk_gb=wanted.disk_gb,
            env={
                "PUBLIC_KEY": public,
                "SSH_PUBLIC_KEY": public,
                PodVariable.LEASE_SECONDS.value: str(wanted.lease_seconds),
                PodVariable.LIFE_SECONDS.value: str(LIFE_SECONDS),
                PodVariable.API_URL.value: context.api_url,
                PodVariable.OWNER.value: name,
            },
            entrypoint=(POD_PROGRAM,),
            cmd=("serve",),
            registry_id=wanted.registry_id,
        )
        try:
            return await context.api.create_pod(order)
        except CapacityExhausted as error:
            print(f"{name}: {candidate.gpu} in {candidate.cloud} cloud: {error}")
        except Ambiguous:
            found = await list_mine(context)
            if found:
                return found[0]
            raise
    raise AssertionError("there is no model to rent below the cap now: try again later")


async def _work(context: PodContext, pod: Pod, ordered_at: datetime) -> tuple[int | None, str]:
    record = PodRecord(
        id=pod.id,
        name=pod.name,
        ordered_at=ordered_at,
        price_per_hour=pod.price_per_hour or Decimal(),
    )
    connected = await PodConnector(context, record, asyncio.Event()).connect()
    limits = Limits(memory_mib=1024, wall_seconds=60)
    ref = AttemptRef(submission_id="visit", task_id="i1", attempt=1, fence=1)
    spec = TaskSpec(
        submission_id="visit",
        task_id="i1",
        kind=SlotClass.TRAINING,
        system=System.FEATURE_SET,
        image=context.settings.runpod.image,
        content_sha256="0" * 64,
        content_size=0,
        limits=limits,
    )
    poll = PodPoll(lease_seconds=context.settings.runpod.lease_seconds, console_offset=0)
    try:
        state = await connected.shell.call("poll", poll, PodState)
        print(f"{pod.name}: {state.gpus}, {state.disk_free_bytes / 1e9:.0f} GB free")
        check_host(state, spec, context.settings.runpod)
        start = PodStart(
            ref=ref,
            command=("/bin/sh", "-c", LOOK, "look"),
            argv=("{in}", "{out}"),
            environment={},
            inputs=(),
            limits=limits,
        )
        await connected.shell.call("start", start, PodState)
        while state.phase is not PodPhase.EXITED:
            await asyncio.sleep(context.settings.runpod.poll_seconds)
            state = await connected.shell.call("poll", poll, PodState)
    finally:
        await connected.shell.close()
    return state.exit_code, base64.b64decode(state.console).decode()


async def _release(context: PodContext, name: str, pod: Pod | None) -> None:
    known = {pod.id} if pod is not None else set()
    for pod_id in known | {found.id for found in await list_mine(context)}:
        await terminate(context, pod_id)
