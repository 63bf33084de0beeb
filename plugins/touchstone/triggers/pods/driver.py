"""Takes one attempt through its pod; each step can be repeated after a crash."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from touchstone.core import attempts, phases
from touchstone.core.market import Market
from touchstone.core.offers import Candidate, OfferSelection
from touchstone.core.pod_attempts import (
    Problem,
    close_attempt,
    describe_pod,
    find_pod,
    find_pod_id,
    may_rent,
    note_ending,
    note_order,
    note_pod,
    note_refusal,
)
from touchstone.core.pods import Pod, PodOrder
from touchstone.core.records.tasks import PodRecord, Task
from touchstone.core.states import TaskStatus
from touchstone.core.tasks import TaskSpec, choose_image
from touchstone.hooks.runpod.errors import (
    Ambiguous,
    ApiGone,
    CapacityExhausted,
    Forbidden,
    OutOfFunds,
    PodRejected,
    Unauthorised,
)
from touchstone.services.pods.context import PodContext, TaskRef
from touchstone.services.pods.ending import release_pod, terminate
from touchstone.services.pods.keys import derive_key
from touchstone.services.pods.registries import find_registry
from touchstone.stores.money import OverBudget, ReservationSettled
from touchstone.stores.tables import RecordNotFound, RecordUnfit
from touchstone.triggers.pods.connecting import PodConnector
from touchstone.triggers.pods.failures import PodFailed, Stopped
from touchstone.triggers.pods.monitoring import UPLOAD_SECONDS, PodMonitor
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.protocol.errors import PermanentError, TouchstoneError, TransientError
from touchstone_agent.protocol.messages import AttemptPhase, PhaseChanged, SlotClass
from touchstone_agent.protocol.pods import POD_PROGRAM, PodVariable
from touchstone_agent.protocol.references import name_by_content
from touchstone_agent.protocol.words import build_line

log = logging.getLogger(__name__)

MAX_OFFERS: Final = 12
"""So many offers are tried for one attempt."""
MAX_DEFECTS: Final = 5
"""So many defects in a row end the attempt: its pod costs money while nobody drives it."""
PATIENCE: Final = timedelta(minutes=5)
"""How long the catalogue may be out of reach before another task gets the slot."""
BACKOFF: Final = Backoff(first_seconds=1, cap_seconds=30)
LOOK_SECONDS: Final = 1.0


class PodDriver:
    """
    Drives one attempt in a pod, from the intent on record to the proof that the pod is gone.

    What is to be done next follows from the record and from what RunPod shows, so a triggerer that
    begins anew after a crash goes on where the other was. Two that do the same at once rent one
    pod.

    :param context: What renting works with.
    :param key: The task.
    :param fence: The attempt.
    """

    def __init__(self, context: PodContext, key: TaskRef, fence: int) -> None:
        self._context = context
        self._key = key
        self._fence = fence
        self._stage = "order"
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Let the attempt end: its pod is released at once."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until the pod is gone and the attempt's end on record; never raise."""
        failures = defects = 0
        problem: Problem | None = None
        while True:
            asked = None
            try:
                if problem is not None:
                    # Before anything else: each look at a pod would let it live on.
                    await self._give_up(problem)
                    problem = None
                if await self._step():
                    return
                failures = defects = 0
                continue
            except RecordNotFound as error:
                # A user has deleted it: the reaper ends its pod.
                log.warning("%s: %s; nothing is driven any more", self._key, error)
                return
            except PermanentError as error:
                log.error("%s: %s; its attempt ends with that", self._key, error)
                problem = problem or Problem(self._stage, _explain(error))
            except TouchstoneError as error:
                log.warning("%s: %s; trying again", self._key, error)
                asked = error.retry_after if isinstance(error, TransientError) else None
            except Exception as error:
                # The attempt's last line of defence: a defect must not leave a pod for ever.
                defects += 1
                log.exception("%s: driving its pod failed", self._key)
                if defects >= MAX_DEFECTS:
                    name = type(error).__name__
                    problem = problem or Problem("defect", f"Touchstone failed on it: {name}")
            failures += 1
            await self._context.sleep(BACKOFF.after(failures, asked=asked))

    async def _step(self) -> bool:
        """Do what comes next; return whether that was all."""
        task = await self._context.read(self._key)
        pod = find_pod(task, self._fence)
        self._stage = "pod" if pod and pod.id else "order"
        if pod is None:
            if may_rent(task, self._fence):
                await self._rent(task)
                return False
            await self._close(None)
            return True
        if pod.gone_at:
            await self._close(None)
            return True
        if pod.ending_at:
            await release_pod(self._context, self._key, fence=self._fence)
            return True
        if pod.id is None:
            await self._find_order(pod)
            return False
        if self._is_over(task):
            await self._end(None)
            return False
        try:
            await self._work(task, pod)
        except PodFailed as failure:
            log.warning("%s: %s", self._key, failure)
            await self._end(failure.problem)
        except Stopped:
            await self._end(None)
        return False

    def _is_over(self, task: Task) -> bool:
        """Tell whether the pod has nothing more to do: what it has made is stored, or unwanted."""
        if self._stopping.is_set() or task.fence != self._fence or task.newest.cancel:
            return True
        is_stored = task.newest.uploaded_at is not None
        return is_stored or (task.is_ended and task.status is not TaskStatus.ERROR)

    async def _work(self, task: Task, pod: PodRecord) -> None:
        connector = PodConnector(self._context, pod, self._stopping)
        connected = await connector.connect()
        await PodMonitor(self._context, self._key, task, connector, connected).monitor()
        await self._end(None)

    async def _end(self, problem: Problem | None) -> None:
        await self._context.change(
            self._key,
            lambda found: note_ending(
                found, fence=self._fence, now=self._context.now(), problem=problem
            ),
        )

    async def _give_up(self, problem: Problem) -> None:
        """End the attempt with a reason: its pod is given back, if there is one."""
        task = await self._context.change(
            self._key,
            lambda found: note_ending(
                found, fence=self._fence, now=self._context.now(), problem=problem
            ),
        )
        if find_pod(task, self._fence) is None:
            await self._close(problem)

    async def _close(self, problem: Problem | None) -> None:
        await self._context.change(
            self._key,
            lambda found: close_attempt(
                found, fence=self._fence, now=self._context.now(), problem=problem
            ),
        )

    # --- renting ----------------------------------------------------------------------------

    async def _rent(self, task: Task) -> None:
        """Order a pod: each offer once, in the order of the criteria, until one is taken."""
        spec = attempts.build_attempt_spec(task)
        try:
            market = await self._context.read_market()
        except TouchstoneError as error:
            waited = self._context.now() - (task.newest.intent_at or task.created_at)
            if isinstance(error, TransientError) and waited < PATIENCE:
                raise
            await self._refuse(Problem("account", str(error)))
            return
        selection = _choose(market, spec)
        if not selection.candidates:
            await self._refuse(Problem("capacity", f"no pod to be had: {selection.reason}"))
            return
        problem = Problem("capacity", "no pod to be had")
        for candidate in selection.candidates[:MAX_OFFERS]:
            try:
                await self._order(task, spec, candidate)
                return
            except OverBudget as error:
                problem = Problem("budget", str(error))
            except ReservationSettled as error:
                problem = Problem("order", str(error))
                break
            except (CapacityExhausted, Forbidden) as error:
                problem = Problem("capacity", f"no pod to be had: {error}")
            except PodRejected as error:
                problem = Problem("order", str(error))
            except (OutOfFunds, Unauthorised, ApiGone) as error:
                kind = "funds" if isinstance(error, OutOfFunds) else "account"
                problem = Problem(kind, str(error))
                break
        await self._refuse(problem)

    async def _refuse(self, problem: Problem) -> None:
        """End the attempt for want of a pod, unless another driver of it has got one."""
        log.warning("%s gets no pod: %s", self._key, problem.reason)
        task = await self._context.change(
            self._key,
            lambda found: note_refusal(found, problem, fence=self._fence, now=self._context.now()),
        )
        if find_pod(task, self._fence) is None:
            await self._close(problem)

    async def _order(self, task: Task, spec: TaskSpec, candidate: Candidate) -> None:
        """
        Order one pod, which may have made one afterwards, unless none is wanted any more.

        :raises TouchstoneError: If this order was refused: none was made by it.
        """
        life = self._find_life(spec)
        await asyncio.to_thread(
            self._context.ledger.reserve,
            task,
            price=candidate.price_per_hour,
            seconds=life + self._context.settings.runpod.boot_seconds,
        )
        noted = await self._context.change(
            self._key,
            lambda found: note_order(
                found,
                candidate,
                image=self._choose_image(spec, candidate),
                fence=self._fence,
                life_seconds=life,
                now=self._context.now(),
            ),
        )
        if not may_rent(noted, self._fence) or find_pod_id(noted, self._fence):
            # It is to end: the next step gives back what there is, which is nothing. Or another
            # driver of the same attempt was faster: the next step goes on with its pod.
            return
        failures = 0
        while True:
            try:
                order = self._build_order(task, spec, candidate)
                registry_id = await find_registry(self._context, name=order.name, image=order.image)
                pod = await self._context.api.create_pod(replace(order, registry_id=registry_id))
            except Ambiguous as error:
                log.warning("%s: %s; looking for it", self._key, error)
                return
            except CapacityExhausted:
                raise
            except TransientError as error:
                # Nothing was done: throttled, or nothing was sent at all.
                failures += 1
                if failures > MAX_OFFERS or self._stopping.is_set():
                    raise CapacityExhausted(str(error)) from error
                await self._context.sleep(BACKOFF.after(failures, asked=error.retry_after))
            else:
                await self._take(pod)
                return

    async def _take(self, pod: Pod) -> None:
        """Write down which pod is ours, and begin to count its cost."""
        task = await self._context.change(
            self._key,
            lambda found: note_pod(found, pod, fence=self._fence, now=self._context.now()),
        )
        ours = find_pod(task, self._fence)
        if ours is None or ours.id != pod.id:
            # Another driver had given this order up, or has found another pod of it.
            await self._release_extras([pod])
            return
        await asyncio.to_thread(self._context.ledger.open, task, self._fence)
        event = PhaseChanged(ref=task.ref, phase=AttemptPhase.ACCEPTED, at=self._context.now())
        if task.fence == self._fence:
            await self._context.change(
                self._key, lambda found: phases.apply_phase(found, event, now=self._context.now())
            )
        log.info("%s: pod %s (%s, %s)", self._key, pod.id, describe_pod(ours), pod.data_center)

    async def _find_order(self, pod: PodRecord) -> None:
        """
        Find out what has become of an order without an answer, by the exact name.

        RunPod knows no idempotency key and takes a name twice, so nothing is ever ordered again
        before this: one that is found is taken, others of the name are given back.
        """
        name, ordered_at = pod.name, pod.ordered_at
        limit = timedelta(seconds=self._context.settings.runpod.reconcile_seconds)
        while True:
            asked = time.monotonic()
            try:
                found = (await self._context.lister.get(since=asked)).list_named(name)
            except PermanentError as error:
                await self._end(Problem("account", str(error)))
                return
            if found:
                await self._take(found[0])
                ours = find_pod_id(await self._context.read(self._key), self._fence)
                await self._release_extras([one for one in found[1:] if one.id != ours])
                return
            if self._context.now() - ordered_at > limit:
                reason = "RunPod did not say whether it made a pod, and shows none of its name"
                # One that appears later has no attempt any more, and is the reaper's.
                await self._end(Problem("order", reason))
                return
            await self._context.sleep(LOOK_SECONDS)

    async def _release_extras(self, pods: Sequence[Pod]) -> None:
        for pod in pods:
            log.warning("%s: a second pod of its name, %s", self._key, pod.id)
            ended_at = await terminate(self._context, pod.id)
            task = await self._context.read(self._key)
            await asyncio.to_thread(
                self._context.ledger.count_extra, task, self._fence, pod, ended_at=ended_at
            )

    def _find_life(self, spec: TaskSpec) -> int:
        return spec.limits.wall_seconds + UPLOAD_SECONDS

    def _choose_image(self, spec: TaskSpec, candidate: Candidate) -> str:
        own = choose_image(spec.image, spec.image_cuda, gpus=int(candidate.gpu is not None))
        # What is on record of a submission, or else, of one before that was done, the setting.
        return name_by_content(spec.image_pod or self._context.settings.runpod.image or own)

    def _build_order(self, task: Task, spec: TaskSpec, candidate: Candidate) -> PodOrder:
        wanted, name = self._context.settings.runpod, str(task.newest.container)
        own = derive_key(self._context.secret, name).public
        public = "\n".join((own, *wanted.ssh_keys))
        env = {
            "PUBLIC_KEY": public,
            "SSH_PUBLIC_KEY": public,
            PodVariable.LEASE_SECONDS.value: str(wanted.lease_seconds),
            PodVariable.LIFE_SECONDS.value: str(self._find_life(spec)),
            PodVariable.API_URL.value: self._context.api_url,
            PodVariable.OWNER.value: name,
        }
        return PodOrder(
            name=name,
            image=self._choose_image(spec, candidate),
            gpu=candidate.gpu,
            cpu=candidate.cpu,
            vcpus=candidate.vcpus,
            cloud=candidate.cloud,
            data_center=candidate.data_center,
            disk_gb=max(wanted.disk_gb, _count_disk_gb(spec, wanted.min_free_gb)),
            env=env,
            entrypoint=(POD_PROGRAM,),
            cmd=("serve",),
            min_cuda=wanted.min_cuda if candidate.gpu is not None else None,
        )


def _choose(market: Market, spec: TaskSpec) -> OfferSelection:
    """Return what to order: a GPU to train on, a CPU to validate."""
    if spec.kind is SlotClass.VALIDATION:
        return market.choose_cpu(max_price=spec.schedule.max_price)
    return market.choose(
        gpu_models=spec.schedule.gpu_models,
        cloud=spec.schedule.cloud,
        max_price=spec.schedule.max_price,
        min_memory_gb=spec.schedule.min_vram_gib,
    )


def _count_disk_gb(spec: TaskSpec, least: float) -> int:
    """Return the disk of a task's order, GB: what it asks for, and what must stay free."""
    return math.ceil(least + spec.schedule.min_disk_gib * 1024**3 / 10**9)


def _explain(error: PermanentError) -> str:
    if isinstance(error, RecordUnfit):
        return build_line(f"what its pod reports cannot be kept: {error}")
    return build_line(f"Touchstone cannot go on with it: {error}")
