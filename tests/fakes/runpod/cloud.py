"""The emulated service itself: pods, their lives, their stock and their bill."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import secrets
import string
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from fakes.runpod.catalog import CLOUDS, CPUS, DATA_CENTERS, GPUS, SECURE, list_first_capacity
from fakes.runpod.clock import Clock
from fakes.runpod.faults import POD_FAULTS, Rule
from fakes.runpod.refusals import NO_CAPACITY, Refused
from fakes.runpod.relay import Relay
from fakes.runpod.runtime import Launch, PullFailed, Runtime
from fakes.runpod.store import PodRow, Span, Store

log = logging.getLogger(__name__)
ALPHABET = string.ascii_lowercase + string.digits
DRIVER = "570.124.06"
VOLUME_GB_MONTH = Decimal("0.20")
HOURS_PER_MONTH = 720


@dataclass(frozen=True, kw_only=True)
class Order:
    """What a caller wants to rent; ``clouds`` and ``data_centers`` in order of preference."""

    name: str
    image: str
    api: str
    gpu: str | None = None
    gpu_count: int = 1
    min_cuda: str | None = None
    cpu: str | None = None
    vcpus: int = 2
    clouds: tuple[str, ...] = CLOUDS
    data_centers: tuple[str, ...] = ()
    disk: int = 10
    volume_gb: int = 0
    mount_path: str = "/workspace"
    network_volume: str | None = None
    ports: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    args: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    registry: str | None = None
    has_public_ip: bool = True
    start_ssh: bool = False


HOST_CUDA = "12.8"
"""What the driver of every host can do."""


def _split(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


@dataclass(frozen=True, kw_only=True)
class Options:
    """
    How the emulator behaves when nothing is wrong.

    :param host: Address that pods and API have.
    :param boot_seconds: From the order to RUNNING, without the container's own start.
    :param credit: Balance in USD that a new emulator starts with.
    :param spend_limit: USD per hour.
    """

    host: str = "127.0.0.1"
    boot_seconds: float = 0.3
    credit: Decimal = Decimal(100)
    spend_limit: Decimal = Decimal(80)


class Cloud:
    """
    Everything behind the APIs.

    :param store: Its memory.
    :param clock: Its time.
    :param runtime: What pods are made of.
    :param options: How it behaves.
    """

    def __init__(self, store: Store, clock: Clock, runtime: Runtime, options: Options) -> None:
        self.store = store
        self.clock = clock
        self.options = options
        self._runtime = runtime
        self._pods = {pod.id: pod for pod in store.list_pods()}
        self._rules = {rule.id: rule for rule in store.list_rules()}
        self._relays: dict[str, Relay] = {}
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._fake_ports = itertools.count(20_000)

    # Its own start and end

    async def open(self) -> None:
        """Take up all pods where an earlier emulator has left them."""
        for pod in self._pods.values():
            if pod.is_gone:
                continue
            if pod.terminate_at is not None:
                self._spawn(self._terminate_later(pod))
            if pod.status in ("PROVISIONING", "STARTING", "RUNNING") and not pod.is_host_dead:
                self._begin_life(pod, is_new=False)
        self._spawn(self._watch_balance())

    async def close(self, *, keep_pods: bool = False) -> None:
        """Stop; containers end too unless they are kept for a later emulator."""
        for task in [*self._lives.values(), *self._tasks]:
            task.cancel()
        await asyncio.gather(*self._lives.values(), *self._tasks, return_exceptions=True)
        for relay in self._relays.values():
            await relay.close()
        if not keep_pods:
            for pod in self.list_live():
                await self._runtime.kill(pod)
        self.store.close()

    # Faults

    @property
    def rules(self) -> list[Rule]:
        """Return all rules of faults."""
        return list(self._rules.values())

    def add_rule(self, rule: Rule) -> None:
        """Let something go wrong from now on."""
        self._rules[rule.id] = rule
        self.store.save_rule(rule)

    def delete_rules(self, rule_ids: Iterable[str]) -> None:
        """Let it be well again."""
        for rule_id in list(rule_ids):
            self._rules.pop(rule_id, None)
            self.store.delete_rule(rule_id)

    def draw(self, kind: str, **context: Any) -> dict[str, Any] | None:
        """Return a fault's parameters when it happens now."""
        for rule in self._rules.values():
            if rule.kind == kind and rule.matches(context):
                happens = rule.draw()
                self.store.save_rule(rule)
                if happens:
                    return rule.build_params()
        return None

    # Looking

    def list_live(self) -> list[PodRow]:
        """Return all pods that are not terminated, oldest first; also those the API hides."""
        return [pod for pod in self._pods.values() if not pod.is_gone]

    def list_visible(self) -> list[PodRow]:
        """Return what the API lists."""
        now = self.clock.now()
        return [pod for pod in self.list_live() if pod.hidden_until <= now]

    def find_pod(self, pod_id: str) -> PodRow | None:
        """Return a pod, also a terminated or hidden one."""
        return self._pods.get(pod_id)

    def find_visible(self, pod_id: str) -> PodRow | None:
        """Return a pod that the API knows."""
        pod = self._pods.get(pod_id)
        if pod is None or pod.is_gone or pod.hidden_until > self.clock.now():
            return None
        return pod

    def find_by_key(self, api_key: str) -> PodRow | None:
        """Return the pod whose own key this is."""
        return next((pod for pod in self._pods.values() if pod.api_key == api_key), None)

    def count_free(self, gpu: str, clouds: Iterable[str] = CLOUDS) -> dict[str, int]:
        """Return free GPUs of a model by data centre."""
        wanted = set(clouds)
        free: dict[str, int] = {}
        for model, cloud, data_center, count in self.store.list_capacity():
            if model == gpu and cloud in wanted:
                free[data_center] = free.get(data_center, 0) + count
        return free

    # Money

    def compute_amount(self, span: Span, until: float | None = None) -> Decimal:
        """Return USD of a span: whole seconds, begun ones count."""
        return self.count_seconds(span, until) * span.rate / 3600

    def count_seconds(self, span: Span, until: float | None = None) -> int:
        """Return the seconds a span is billed for so far."""
        end = span.ended_at if span.ended_at is not None else (until or self.clock.now())
        return math.ceil(max(0.0, end - span.started_at))

    def compute_balance(self) -> Decimal:
        """Return what is left of the credit, in USD."""
        credit = Decimal(self.store.get_value("credit", str(self.options.credit)))
        return credit - sum(
            (self.compute_amount(each) for each in self.store.list_spans()), Decimal()
        )

    def set_balance(self, balance: Decimal) -> None:
        """Pay in, or lose, until this is left."""
        spent = sum((self.compute_amount(each) for each in self.store.list_spans()), Decimal())
        self.store.set_value("credit", str(balance + spent))

    @property
    def spend_limit(self) -> Decimal:
        """Return USD per hour that the account may use at most."""
        return Decimal(self.store.get_value("spend_limit", str(self.options.spend_limit)))

    def compute_spend(self) -> Decimal:
        """Return USD per hour at this moment."""
        spans = self.store.list_spans()
        return sum((each.rate for each in spans if each.ended_at is None), Decimal())

    # Renting

    def create(self, order: Order) -> PodRow:
        """Rent a pod. Raise ``Refused`` when it cannot be had."""
        if order.cpu:
            cloud, data_center, rate, memory = self._place_cpu(order)
        else:
            cloud, data_center, rate, memory = self._place_gpu(order)
        self._check_money(rate)
        pod_id = "".join(secrets.choice(ALPHABET) for _ in range(14))
        now = self.clock.now()
        pod = PodRow(
            id=pod_id,
            name=order.name,
            image=order.image,
            api=order.api,
            api_key=f"rpa_pod_{pod_id}_{secrets.token_hex(16)}",
            cloud=cloud,
            data_center=data_center,
            machine_id="".join(secrets.choice(ALPHABET) for _ in range(12)),
            rate=str(rate),
            created_at=now,
            changed_at=now,
            gpu=order.gpu,
            gpu_count=order.gpu_count if order.gpu else 0,
            cpu=order.cpu,
            vcpus=order.vcpus,
            memory_gb=memory,
            cuda_version=HOST_CUDA if order.gpu else None,
            min_cuda=order.min_cuda,
            args=order.args,
            entrypoint=list(order.entrypoint),
            cmd=list(order.cmd),
            disk=order.disk,
            volume_gb=order.volume_gb,
            mount_path=order.mount_path,
            network_volume=order.network_volume,
            ports=list(order.ports),
            env=self._build_request_env(order),
            registry=order.registry,
            has_public_ip=order.has_public_ip,
        )
        pod.faults = self._draw_pod_faults(pod)
        if lag := pod.faults.get("list.lag"):
            pod.hidden_until = now + float(lag["seconds"])
        if pod.gpu:
            self.store.change_capacity(pod.gpu, cloud, data_center, -pod.gpu_count)
        self._pods[pod.id] = pod
        self.store.open_span(pod, "compute", rate, now)
        self.store.add_log(pod.id, "system", now, f"create pod on machine {pod.machine_id}")
        self.store.save_pod(pod)
        self._begin_life(pod, is_new=True)
        return pod

    def _place_gpu(self, order: Order) -> tuple[str, str, Decimal, int]:
        model = GPUS.get(order.gpu or "")
        if model is None:
            raise Refused(400, f"gpu type {order.gpu!r} is unknown")
        if order.min_cuda and _split(order.min_cuda) > _split(HOST_CUDA):
            raise Refused(400, NO_CAPACITY)
        capacity = {(g, c, d): free for g, c, d, free in self.store.list_capacity()}
        for cloud in order.clouds:
            price = model.find_price(cloud)
            for data_center in order.data_centers or DATA_CENTERS:
                free = capacity.get((model.id, cloud, data_center), 0)
                context = {
                    "name": order.name,
                    "gpu": model.id,
                    "cloud": cloud,
                    "data_center": data_center,
                    "api": order.api,
                }
                if price is None or free < order.gpu_count:
                    continue
                if self.draw("create.no_capacity", **context) is not None:
                    raise Refused(400, NO_CAPACITY)
                return cloud, data_center, price * order.gpu_count, 16 * order.gpu_count
        raise Refused(400, NO_CAPACITY)

    def _place_cpu(self, order: Order) -> tuple[str, str, Decimal, int]:
        flavor = CPUS.get(order.cpu or "")
        if flavor is None:
            raise Refused(400, f"cpu flavor {order.cpu!r} is unknown")
        data_center = next(iter(order.data_centers), next(iter(DATA_CENTERS)))
        context = {"name": order.name, "cpu": flavor.id, "cloud": SECURE, "api": order.api}
        if self.draw("create.no_capacity", **context, data_center=data_center) is not None:
            raise Refused(400, NO_CAPACITY)
        return (
            SECURE,
            data_center,
            flavor.price_per_vcpu * order.vcpus,
            flavor.memory_gb_per_vcpu * order.vcpus,
        )

    def _check_money(self, rate: Decimal) -> None:
        if self.compute_balance() < rate:
            raise Refused(402, "insufficient balance: less than one hour of credit is left")
        if self.compute_spend() + rate > self.spend_limit:
            raise Refused(402, f"this pod would exceed your spend limit of ${self.spend_limit}/hr")

    def _build_request_env(self, order: Order) -> dict[str, str]:
        env = dict(order.env)
        keys = self.store.get_value("ssh_keys", [])
        if order.start_ssh and keys:
            env.setdefault("PUBLIC_KEY", "\n".join(keys))
        return env

    def _draw_pod_faults(self, pod: PodRow) -> dict[str, dict[str, Any]]:
        drawn = {}
        for kind in POD_FAULTS:
            params = self.draw(
                kind,
                name=pod.name,
                gpu=pod.gpu,
                cloud=pod.cloud,
                data_center=pod.data_center,
                api=pod.api,
            )
            if params is not None:
                drawn[kind] = params
        return drawn

    # Changing

    def stop(self, pod: PodRow) -> None:
        """Let a pod stand still: its machine is given back, its disk is wiped."""
        if pod.status == "EXITED":
            return
        self._end_life(pod)
        self._release(pod)
        self._change(pod, "EXITED")
        if pod.volume_gb:
            rate = VOLUME_GB_MONTH * pod.volume_gb / HOURS_PER_MONTH
            self.store.open_span(pod, "volume", rate, self.clock.now())

    def start(self, pod: PodRow) -> None:
        """Let a stopped pod run again, when there is a GPU for it."""
        if pod.status == "ERROR":
            self._release(pod)
        free = self.count_free(pod.gpu, [pod.cloud]).get(pod.data_center, 0) if pod.gpu else 1
        if free < pod.gpu_count:
            raise Refused(
                400, "There are not enough free GPUs on the host machine to start this pod."
            )
        now = self.clock.now()
        self.store.close_spans(pod.id, now)
        self.store.open_span(pod, "compute", pod.hourly, now)
        if pod.gpu:
            self.store.change_capacity(pod.gpu, pod.cloud, pod.data_center, -pod.gpu_count)
        pod.is_host_dead = False
        self._change(pod, "PROVISIONING")
        self._begin_life(pod, is_new=True)

    def restart(self, pod: PodRow) -> None:
        """Start the container anew, with an empty disk; the pod is billed on."""
        self._end_life(pod)
        self._change(pod, "STARTING")
        self._begin_life(pod, is_new=True)

    def terminate(self, pod: PodRow) -> None:
        """Give a pod back for good."""
        if pod.is_gone:
            return
        self._end_life(pod)
        if pod.status != "EXITED":
            self._release(pod)
        now = self.clock.now()
        self.store.close_spans(pod.id, now)
        pod.terminated_at = now
        pod.terminate_at = None
        self._change(pod, "TERMINATED")

    def terminate_after(self, pod: PodRow, seconds: float) -> None:
        """Say yes now, and do it later."""
        pod.terminate_at = self.clock.now() + seconds
        self.store.save_pod(pod)
        self._spawn(self._terminate_later(pod))

    def hide(self, pod: PodRow, seconds: float) -> None:
        """Pretend for a while that a pod does not exist."""
        pod.hidden_until = self.clock.now() + seconds
        self.store.save_pod(pod)

    def inject(self, pod: PodRow, kind: str, params: Mapping[str, Any]) -> None:
        """Let something happen to a pod that exists."""
        pod.faults[kind] = POD_FAULTS[kind] | dict(params)
        if kind in pod.done_faults:
            pod.done_faults.remove(kind)
        self.store.save_pod(pod)
        if kind == "list.lag":
            self.hide(pod, float(pod.faults[kind]["seconds"]))
        elif pod.status == "RUNNING" and kind.startswith("run."):
            self._spawn(self._happen(pod, kind, pod.faults[kind], self.clock.now()))

    def _release(self, pod: PodRow) -> None:
        self.store.close_spans(pod.id, self.clock.now())
        if pod.gpu:
            self.store.change_capacity(pod.gpu, pod.cloud, pod.data_center, pod.gpu_count)

    def _change(self, pod: PodRow, status: str) -> None:
        pod.status = status
        pod.changed_at = self.clock.now()
        self.store.save_pod(pod)

    # A pod's life

    def _begin_life(self, pod: PodRow, *, is_new: bool) -> None:
        before = self._lives.pop(pod.id, None)
        self._lives[pod.id] = asyncio.create_task(self._live(pod, is_new=is_new, after=before))

    def _end_life(self, pod: PodRow) -> None:
        """End the container; waiting for it is left to a task, because the API answers at once."""
        if pod.ssh_port is not None:
            pod.stale_ports = [pod.ssh_port]
        pod.ssh_port = None
        pod.started_at = None
        life = self._lives.pop(pod.id, None)
        if life is not None:
            life.cancel()
        ending = self._spawn(self._clear_away(pod, life))
        self._lives[pod.id] = ending

    async def _clear_away(self, pod: PodRow, life: asyncio.Task[None] | None) -> None:
        if life is not None:
            await asyncio.wait([life])
        await self._close_relay(pod)
        await self._runtime.remove(pod)

    async def _live(
        self, pod: PodRow, *, is_new: bool, after: asyncio.Task[None] | None = None
    ) -> None:
        if after is not None:
            # The container before must be gone, also when nobody waits for that.
            await asyncio.wait([after])
        try:
            port = None if is_new else await self._runtime.adopt(pod)
            if port is None:
                if not await self._boot(pod):
                    return
                port = await self._start_container(pod)
            while not await self._run(pod, port):
                port = await self._start_container(pod)
        except Exception:
            log.exception("the life of pod %s ended by mistake", pod.id)
            self._change(pod, "ERROR")

    async def _boot(self, pod: PodRow) -> bool:
        """Return whether the pod has come as far as a container."""
        seconds = self.options.boot_seconds
        if "boot.error" in pod.faults:
            await asyncio.sleep(seconds)
            self._log(pod, "system", "error creating container: host is out of order")
            self._change(pod, "ERROR")
            return False
        self._change(pod, "PROVISIONING")
        await asyncio.sleep(seconds / 2)
        self._log(pod, "system", f"pulling image {pod.image}")
        if slow := pod.faults.get("boot.slow_pull"):
            await self.clock.sleep(float(slow["seconds"]))
        while True:
            if await self._pull(pod):
                break
            await asyncio.sleep(1)
        self._change(pod, "STARTING")
        await asyncio.sleep(seconds / 2)
        if "boot.never_runs" in pod.faults:
            self._log(pod, "system", "start container")
            await asyncio.Event().wait()
        return True

    async def _pull(self, pod: PodRow) -> bool:
        reason = "manifest unknown" if "boot.pull_fails" in pod.faults else None
        try:
            if reason is None:
                await self._runtime.pull(pod)
        except PullFailed as error:
            reason = str(error)
        if reason is not None:
            self._log(pod, "system", f"error pulling image {pod.image}: {reason}")
            return False
        self._log(pod, "system", f"image {pod.image} is there")
        return True

    async def _start_container(self, pod: PodRow) -> int | None:
        small = pod.faults.get("boot.small_disk") or pod.faults.get("run.disk_full")
        # A connection keeps its port as long as the container runs; a new container has a new one.
        relay = Relay(self.options.host, None)
        pod.ssh_port = await self._open_relay(pod, relay, 0)
        launch = Launch(
            env=self._build_container_env(pod),
            gpu=self._describe_gpu(pod),
            has_key="boot.wrong_key" not in pod.faults,
            disk_mib=int(small["mib"]) if small else None,
        )
        port = await self._runtime.start(pod, launch)
        pod.boots += 1
        pod.started_at = self.clock.now()
        if pod.first_running_at is None:
            pod.first_running_at = pod.started_at
        self._log(pod, "system", "start container: success")
        self._change(pod, "RUNNING")
        return port

    async def _run(self, pod: PodRow, port: int | None) -> bool:
        """Watch a container until it ends; return whether that was the end of the pod's life."""
        relay = self._relays.get(pod.id)
        if relay is None:
            relay = Relay(self.options.host, None)
            pod.ssh_port = await self._open_relay(pod, relay, pod.ssh_port or 0)
            self.store.save_pod(pod)
        relay.target = port
        children = [
            asyncio.create_task(self._happen(pod, kind, params, pod.first_running_at or 0))
            for kind, params in pod.faults.items()
            if kind not in pod.done_faults
        ]
        try:
            while (code := await self._runtime.poll(pod)) is None:
                await self._collect_console(pod)
                await asyncio.sleep(self._runtime.poll_seconds)
            await self._collect_console(pod)
        finally:
            for child in children:
                child.cancel()
        if pod.is_host_dead:
            return True
        self._log(pod, "system", f"container ended with code {code}, starting it again")
        await self._close_relay(pod)
        self._change(pod, "STARTING")
        await asyncio.sleep(min(5.0, 0.5 * pod.boots))
        return False

    async def _collect_console(self, pod: PodRow) -> None:
        for line in await self._runtime.read_console(pod):
            self._log(pod, "container", line)

    def _log(self, pod: PodRow, source: str, line: str) -> None:
        self.store.add_log(pod.id, source, self.clock.now(), line)

    async def _open_relay(self, pod: PodRow, relay: Relay, port: int) -> int | None:
        if "22/tcp" not in pod.ports or "boot.no_port" in pod.faults:
            return None
        relay.is_refusing = "boot.ssh_refused" in pod.faults
        relay.is_silent = "boot.ssh_silent" in pod.faults
        if slow := pod.faults.get("run.slow_network"):
            relay.bytes_per_second = int(slow["bytes_per_second"])
        self._relays[pod.id] = relay
        return await relay.open(port)

    async def _close_relay(self, pod: PodRow) -> None:
        relay = self._relays.pop(pod.id, None)
        if relay is not None:
            await relay.close()

    def _build_container_env(self, pod: PodRow) -> dict[str, str]:
        own = {
            "RUNPOD_POD_ID": pod.id,
            "RUNPOD_DC_ID": pod.data_center,
            "RUNPOD_POD_HOSTNAME": f"{pod.id}-{pod.machine_id[:8]}",
            "RUNPOD_GPU_COUNT": str(pod.gpu_count),
            "RUNPOD_GPU_NAME": pod.gpu or "",
            "RUNPOD_CPU_COUNT": str(pod.vcpus),
            "RUNPOD_MEM_GB": str(pod.memory_gb),
            "RUNPOD_PUBLIC_IP": self.options.host,
            "RUNPOD_VOLUME_ID": pod.network_volume or "",
            "RUNPOD_API_KEY": pod.api_key,
        }
        if pod.ssh_port is not None:
            own["RUNPOD_TCP_PORT_22"] = str(pod.ssh_port)
        return {**pod.env, **own}

    def _describe_gpu(self, pod: PodRow) -> str:
        model = GPUS.get(pod.gpu or "")
        is_missing = model is None or "boot.gpu_missing" in pod.faults
        driver = pod.faults.get("boot.old_driver", {}).get("version", DRIVER)
        return describe_gpu(
            0 if is_missing else pod.gpu_count,
            name=model.id if model else "none",
            memory_mib=(model.memory_gb if model else 0) * 1024,
            driver=driver,
        )

    # Bad luck of one pod

    async def _happen(
        self, pod: PodRow, kind: str, params: Mapping[str, Any], counted_from: float
    ) -> None:
        if kind == "boot.ssh_late":
            await self._keep_ssh_shut(pod, float(params["seconds"]))
        if not kind.startswith("run.") or "after" not in params:
            return
        await self.clock.sleep_until(counted_from + float(params["after"]))
        if pod.is_gone:
            return
        pod.done_faults.append(kind)
        self.store.save_pod(pod)
        log.info("%s happens to pod %s", kind, pod.id)
        relay = self._relays.get(pod.id)
        if kind.startswith("run.ssh_"):
            if relay is not None:
                await _disturb(relay, kind, params)
        elif kind == "run.disk_full":
            await self._runtime.fill_disk(pod)
        elif kind == "run.gpu_lost":
            await self._runtime.set_gpu(pod, describe_gpu(0))
        elif kind == "run.container_restart":
            await self._runtime.kill(pod)
        elif kind == "run.host_death":
            self._spawn(self._lose_host(pod, float(params["stale_seconds"])))
        elif kind == "run.vanish":
            self.terminate(pod)

    async def _keep_ssh_shut(self, pod: PodRow, seconds: float) -> None:
        relay = self._relays.get(pod.id)
        if relay is None:
            return
        target, relay.target = relay.target, None
        await self.clock.sleep(seconds)
        relay.target = target

    async def _lose_host(self, pod: PodRow, stale_seconds: float) -> None:
        """The machine dies at once; the API notices later."""
        # Counted from here: whoever sees it dead may push the clock before its end is complete.
        noticed_at = self.clock.now() + stale_seconds
        pod.is_host_dead = True
        self.store.save_pod(pod)
        if relay := self._relays.get(pod.id):
            relay.target = None
            relay.drop_connections()
        await self._runtime.kill(pod)
        await self.clock.sleep_until(noticed_at)
        if not pod.is_gone:
            self.stop(pod)
            self._log(pod, "system", "host is gone")

    async def _terminate_later(self, pod: PodRow) -> None:
        await self.clock.sleep_until(pod.terminate_at or 0)
        self.terminate(pod)

    async def _watch_balance(self) -> None:
        while True:
            await asyncio.sleep(1)
            if self.compute_spend() and self.compute_balance() <= 0:
                for pod in self.list_live():
                    if not pod.network_volume:
                        self._log(pod, "system", "terminated: the balance is used up")
                        self.terminate(pod)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def reset(self) -> None:
        """
        Be as new: all is well, nothing is rented, and stock and money are those of the beginning.

        The bill and the log of requests stay: they are what tests compare with.
        """
        self.delete_rules([rule.id for rule in self.rules])
        for pod in self.list_live():
            self.terminate(pod)
        # What is under way belongs to those pods; only the watch over the balance lives longer.
        await asyncio.gather(*self._lives.values(), return_exceptions=True)
        self.store.set_capacity(list_first_capacity())
        self.store.set_value("revoked_keys", [])
        self.store.set_value("ssh_keys", [])
        self.store.set_value("spend_limit", str(self.options.spend_limit))
        self.set_balance(self.options.credit)
        self.push_clock(-self.clock.offset)

    def push_clock(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.push(seconds)
        self.store.set_value("clock_offset", self.clock.offset)


async def _disturb(relay: Relay, kind: str, params: Mapping[str, Any]) -> None:
    if kind == "run.ssh_freeze":
        relay.freeze(float(params["seconds"]))
    elif kind == "run.ssh_half_open":
        relay.half_open(float(params["seconds"]))
    else:
        relay.drop_connections()
        while every := float(params["every"]):
            await asyncio.sleep(every)
            relay.drop_connections()


def describe_gpu(
    count: int, *, name: str = "none", memory_mib: int = 0, driver: str = DRIVER
) -> str:
    """Return the content of the file that the pods' nvidia-smi reads."""
    return f'COUNT={count}\nNAME="{name}"\nMEMORY={memory_mib}\nDRIVER="{driver}"\n'
