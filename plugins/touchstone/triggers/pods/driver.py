"""Takes one attempt through its pod; each step can be repeated after a crash."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from touchstone.core import attempts
from touchstone.core.attempts import is_ended
from touchstone.core.market import Market
from touchstone.core.pod_attempts import (
    Problem,
    close_attempt,
    describe_pod,
    find_pod,
    may_rent,
    note_ending,
    note_order,
    note_pod,
    note_refusal,
)
from touchstone.core.pods import Candidate, Choice, Pod, PodOrder
from touchstone.core.states import TaskStatus
from touchstone.core.tasks import TaskSpec, choose_image
from touchstone.hooks.money import OverBudget, ReservationSettled
from touchstone.hooks.pods.desk import PodDesk, TaskKey
from touchstone.hooks.pods.ending import give_back, terminate
from touchstone.hooks.pods.keys import derive_key
from touchstone.hooks.records import Record, RecordNotFound, RecordUnfit
from touchstone.hooks.runpod.errors import (
    Ambiguous,
    ApiGone,
    CapacityExhausted,
    Forbidden,
    OutOfFunds,
    PodRejected,
    Unauthorised,
)
from touchstone.triggers.pods.attending import UPLOAD_SECONDS, Attendant
from touchstone.triggers.pods.boarding import Boarding
from touchstone.triggers.pods.failures import PodFailed, Stopped
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.protocol.errors import PermanentError, TouchstoneError, TransientError
from touchstone_agent.protocol.messages import AttemptPhase, PhaseChanged, SlotClass
from touchstone_agent.protocol.pods import POD_PROGRAM, PodVariable
from touchstone_agent.protocol.words import build_line

log = logging.getLogger(__name__)

MAX_OFFERS: Final = 12
"""So many offers are tried for one attempt."""
MAX_DEFECTS: Final = 5
PATIENCE: Final = timedelta(minutes=5)
"""How long the catalogue may be out of reach before the slot is given to somebody else."""
BACKOFF: Final = Backoff(first_seconds=1, cap_seconds=30)
LOOK_SECONDS: Final = 1.0


class PodDriver:
    """
    Drives one attempt in a pod, from the wish on record to the pod that is gone.

    What is to be done next follows from the record and from what RunPod shows, so whoever begins
    anew after a crash goes on where the other was, and two that do the same at once rent one pod.

    :param desk: What renting works with.
    :param key: The task.
    :param fence: The attempt.
    """

    def __init__(self, desk: PodDesk, key: TaskKey, fence: int) -> None:
        self._desk = desk
        self._key = key
        self._fence = fence
        self._stage = "order"
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Say that nobody wants the attempt any more: its pod is given back at once."""
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
                # Somebody has deleted it: what it leaves behind is the reaper's.
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
            await self._desk.sleep(BACKOFF.after(failures, asked=asked))

    async def _step(self) -> bool:
        """Do what comes next; return whether that was all."""
        record = await self._desk.read(self._key)
        pod = find_pod(record, self._fence)
        self._stage = "pod" if pod and pod.get("id") else "order"
        if pod is None:
            if may_rent(record, self._fence):
                await self._rent(record)
                return False
            await self._close(None)
            return True
        if pod.get("gone_at"):
            await self._close(None)
            return True
        if pod.get("ending_at"):
            await give_back(self._desk, self._key, fence=self._fence)
            return True
        if pod.get("id") is None:
            await self._find_order(pod)
            return False
        if self._is_over(record):
            await self._end(None)
            return False
        try:
            await self._work(record, pod)
        except PodFailed as failure:
            log.warning("%s: %s", self._key, failure)
            await self._end(failure.problem)
        except Stopped:
            await self._end(None)
        return False

    def _is_over(self, record: Record) -> bool:
        """Tell whether the pod has nothing more to do: what it has made is stored, or unwanted."""
        if self._stopping.is_set() or record["fence"] != self._fence or record.get("cancel"):
            return True
        is_stored = bool(record.get("uploaded_at"))
        return is_stored or (is_ended(record) and record["status"] != TaskStatus.ERROR)

    async def _work(self, record: Record, pod: Record) -> None:
        boarding = Boarding(self._desk, pod, self._stopping)
        boarded = await boarding.board()
        await Attendant(self._desk, self._key, record, boarding, boarded).attend()
        await self._end(None)

    async def _end(self, problem: Problem | None) -> None:
        await self._desk.change(
            self._key,
            lambda found: note_ending(
                found, fence=self._fence, now=self._desk.now(), problem=problem
            ),
        )

    async def _give_up(self, problem: Problem) -> None:
        """End the attempt with a reason: its pod is given back, if there is one."""
        record = await self._desk.change(
            self._key,
            lambda found: note_ending(
                found, fence=self._fence, now=self._desk.now(), problem=problem
            ),
        )
        if find_pod(record, self._fence) is None:
            await self._close(problem)

    async def _close(self, problem: Problem | None) -> None:
        await self._desk.change(
            self._key,
            lambda found: close_attempt(
                found, fence=self._fence, now=self._desk.now(), problem=problem
            ),
        )

    # --- renting ----------------------------------------------------------------------------

    async def _rent(self, record: Record) -> None:
        """Order a pod: each offer once, in the order of the wish, until one is taken."""
        spec = attempts.build_attempt_spec(record)
        try:
            market = await self._desk.read_market()
        except TouchstoneError as error:
            waited = self._desk.now() - datetime.fromisoformat(record["intent_at"])
            if isinstance(error, TransientError) and waited < PATIENCE:
                raise
            await self._refuse(Problem("account", str(error)))
            return
        choice = _choose(market, spec)
        if not choice.candidates:
            await self._refuse(Problem("capacity", f"no pod to be had: {choice.reason}"))
            return
        problem = Problem("capacity", "no pod to be had")
        for candidate in choice.candidates[:MAX_OFFERS]:
            try:
                await self._order(record, spec, candidate)
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
        record = await self._desk.change(
            self._key,
            lambda found: note_refusal(found, problem, fence=self._fence, now=self._desk.now()),
        )
        if find_pod(record, self._fence) is None:
            await self._close(problem)

    async def _order(self, record: Record, spec: TaskSpec, candidate: Candidate) -> None:
        """
        Order one pod, which may have made one afterwards, unless none is wanted any more.

        :raises TouchstoneError: If this order was refused: none was made by it.
        """
        life = self._find_life(spec)
        await asyncio.to_thread(
            self._desk.ledger.reserve,
            record,
            price=candidate.price_per_hour,
            seconds=life + self._desk.settings.runpod.boot_seconds,
        )
        noted = await self._desk.change(
            self._key,
            lambda found: note_order(
                found,
                candidate,
                image=self._choose_image(spec, candidate),
                fence=self._fence,
                life_seconds=life,
                now=self._desk.now(),
            ),
        )
        known = find_pod(noted, self._fence) or {}
        if not may_rent(noted, self._fence) or known.get("id"):
            # It is to end: the next step gives back what there is, which is nothing. Or another
            # driver of the same attempt was faster: the next step goes on with its pod.
            return
        failures = 0
        while True:
            try:
                pod = await self._desk.api.create_pod(self._build_order(record, spec, candidate))
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
                await self._desk.sleep(BACKOFF.after(failures, asked=error.retry_after))
            else:
                await self._take(pod)
                return

    async def _take(self, pod: Pod) -> None:
        """Write down which pod is ours, and begin to count its cost."""
        record = await self._desk.change(
            self._key, lambda found: note_pod(found, pod, fence=self._fence, now=self._desk.now())
        )
        if (find_pod(record, self._fence) or {}).get("id") != pod.id:
            # Another driver had given this order up, or has found another pod of it.
            await self._give_back_extras([pod])
            return
        await asyncio.to_thread(self._desk.ledger.open, record, self._fence)
        event = PhaseChanged(
            ref=attempts.get_ref(record), phase=AttemptPhase.ACCEPTED, at=self._desk.now()
        )
        if record["fence"] == self._fence:
            await self._desk.change(
                self._key, lambda found: attempts.apply_phase(found, event, now=self._desk.now())
            )
        ours = find_pod(record, self._fence) or {}
        log.info("%s: pod %s (%s, %s)", self._key, pod.id, describe_pod(ours), pod.data_center)

    async def _find_order(self, pod: Record) -> None:
        """
        Find out what has become of an order without an answer, by the exact name.

        RunPod knows no idempotency key and takes a name twice, so nothing is ever ordered again
        before this: one that is found is taken, others of the name are given back.
        """
        name, ordered_at = str(pod["name"]), datetime.fromisoformat(pod["ordered_at"])
        limit = timedelta(seconds=self._desk.settings.runpod.reconcile_seconds)
        while True:
            asked = time.monotonic()
            try:
                found = (await self._desk.lister.get(since=asked)).list_named(name)
            except PermanentError as error:
                await self._end(Problem("account", str(error)))
                return
            if found:
                await self._take(found[0])
                pod = find_pod(await self._desk.read(self._key), self._fence) or {}
                await self._give_back_extras([one for one in found[1:] if one.id != pod.get("id")])
                return
            if self._desk.now() - ordered_at > limit:
                reason = "RunPod did not say whether it made a pod, and shows none of its name"
                # One that appears later has no attempt any more, and is the reaper's.
                await self._end(Problem("order", reason))
                return
            await self._desk.sleep(LOOK_SECONDS)

    async def _give_back_extras(self, pods: Sequence[Pod]) -> None:
        for pod in pods:
            log.warning("%s: a second pod of its name, %s", self._key, pod.id)
            ended_at = await terminate(self._desk, pod.id)
            record = await self._desk.read(self._key)
            await asyncio.to_thread(
                self._desk.ledger.count_extra, record, self._fence, pod, ended_at=ended_at
            )

    def _find_life(self, spec: TaskSpec) -> int:
        return spec.limits.wall_seconds + UPLOAD_SECONDS

    def _choose_image(self, spec: TaskSpec, candidate: Candidate) -> str:
        own = choose_image(spec.image, spec.image_cuda, gpus=int(candidate.gpu is not None))
        return self._desk.settings.runpod.image or own

    def _build_order(self, record: Record, spec: TaskSpec, candidate: Candidate) -> PodOrder:
        wanted, name = self._desk.settings.runpod, str(record["container"])
        own = derive_key(self._desk.secret, name).public
        public = "\n".join((own, *wanted.ssh_keys))
        env = {
            "PUBLIC_KEY": public,
            "SSH_PUBLIC_KEY": public,
            PodVariable.LEASE_SECONDS.value: str(wanted.lease_seconds),
            PodVariable.LIFE_SECONDS.value: str(self._find_life(spec)),
            PodVariable.API_URL.value: self._desk.api_url,
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
            disk_gb=wanted.disk_gb,
            env=env,
            entrypoint=(POD_PROGRAM,),
            cmd=("serve",),
            registry_id=wanted.registry_id,
            min_cuda=wanted.min_cuda if candidate.gpu is not None else None,
        )


def _choose(market: Market, spec: TaskSpec) -> Choice:
    """Return what to order: a GPU to train on, a CPU to validate."""
    if spec.kind is SlotClass.VALIDATION:
        return market.choose_cpu(max_price=spec.pods.max_price)
    return market.choose(
        gpu_models=spec.pods.gpu_models,
        cloud=spec.pods.cloud,
        max_price=spec.pods.max_price,
        min_memory_gb=spec.min_vram_gib,
    )


def _explain(error: PermanentError) -> str:
    if isinstance(error, RecordUnfit):
        return build_line(f"what its pod reports cannot be kept: {error}")
    return build_line(f"Touchstone cannot go on with it: {error}")
