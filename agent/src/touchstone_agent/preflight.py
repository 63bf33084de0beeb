"""Looks whether everything an agent needs is there, before it is relied on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from touchstone_agent import host_checks
from touchstone_agent.adapters.compiled import measure_compiled
from touchstone_agent.adapters.gpu import look_at_gpus, select_gpus
from touchstone_agent.adapters.sqs import Queues, find_endpoint
from touchstone_agent.core.gpus import EXCLUSIVE, DetectedGpu, GpuLook
from touchstone_agent.core.ports import EngineFacts, Runtime
from touchstone_agent.gpus import Holder, judge_gpus
from touchstone_agent.host_checks import Warned
from touchstone_agent.images import list_named
from touchstone_agent.protocol.errors import PermanentError, TouchstoneError, TransientError
from touchstone_agent.protocol.images import (
    find_driver_problem,
    find_idle_gpus,
    read_image_labels,
)
from touchstone_agent.settings import AgentSettings

CROWDED_SHARE = 0.1
"""So much memory in use on a GPU without a listed process is worth a word."""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """
    One thing that was looked at.

    :param name: What.
    :param is_ok: Whether the agent can work with it.
    :param text: What was found.
    :param is_warning: Whether an admin should know what follows from it.
    """

    name: str
    is_ok: bool
    text: str
    is_warning: bool = False


def run_checks(
    settings: AgentSettings,
    build_runtime: Callable[[AgentSettings], Runtime],
    *,
    is_enrolled: bool = True,
) -> tuple[CheckResult, ...]:
    """
    Look at everything the agent needs, one after the other; what fails keeps none from its turn.

    :param settings: The settings.
    :param build_runtime: Builds the runtime they name.
    :param is_enrolled: Whether this server has its keys, queues and images yet.
    """
    # Asked once: a driver that hangs does so each time.
    look = GpuLook() if settings.gpu == "none" else look_at_gpus()
    checks: list[tuple[str, Callable[[], str | Warned]]] = [
        ("Python", host_checks.check_python),
        ("kernel", host_checks.check_kernel),
        ("memory", host_checks.check_memory),
        ("disk", lambda: _check_disk(settings)),
        (
            "clock",
            lambda: host_checks.judge_clock(host_checks.ask_origin(find_endpoint(settings.sqs))),
        ),
        ("way to the queues", lambda: _reach(find_endpoint(settings.sqs))),
    ]
    if settings.objects_url is not None:
        checks.append(("way to the object store", partial(_reach, settings.objects_url)))
    checks += [
        ("engine", lambda: build_runtime(settings).check()),
        *(
            (name, partial(_judge_engine, settings, build_runtime, judge))
            for name, judge in (
                ("storage driver", host_checks.judge_storage),
                ("live-restore", host_checks.judge_live_restore),
                (
                    "disk of the engine",
                    lambda engine: host_checks.check_engine_disk(engine, settings.min_free_mib),
                ),
                (
                    "GPU runtime",
                    lambda engine: host_checks.judge_gpu_runtime(
                        engine, has_gpus=bool(select_gpus(look.gpus, settings.gpu))
                    ),
                ),
            )
        ),
        ("GPUs", lambda: _check_gpus(settings, build_runtime, look)),
        ("users", partial(_check_users, settings, build_runtime, None)),
    ]
    if settings.private_data:
        checks.append(("private data", partial(_check_private_data, settings)))
    if is_enrolled:
        checks += _list_enrolled(settings, build_runtime, look)
    return tuple(_run(name, check) for name, check in checks)


def _list_enrolled(
    settings: AgentSettings, build_runtime: Callable[[AgentSettings], Runtime], look: GpuLook
) -> Iterator[tuple[str, Callable[[], str | Warned]]]:
    """Yield what is looked at of a server that belongs to a control plane."""
    yield "private key", lambda: _done(settings.read_private_key(), settings.private_key_file)
    yield "control plane's key", lambda: _done(settings.read_control_keys(), "readable")
    for queue in (settings.request_queue, settings.control_queue, settings.event_queue):
        yield f"queue {queue}", partial(_check_queue, settings, queue)
    for image in list_named(settings.images_allowed):
        yield f"image {image}", partial(_check_image, settings, build_runtime, image)
        yield f"users in {image}", partial(_check_users, settings, build_runtime, image)
        gpus = partial(_check_image_gpus, settings, build_runtime, image, look)
        yield f"GPUs for {image}", gpus


def _check_private_data(settings: AgentSettings) -> str | Warned:
    from touchstone_agent.adapters.private import HeldFolder, PrivateStore

    folders = [HeldFolder(held=each.held, folder=each.folder) for each in settings.private_data]
    for label, problem in PrivateStore(folders).find_problems():
        raise PermanentError(f"{label}: {problem}; correct its entry of private_data")
    judge = settings.judge
    if judge is None or not judge.python.exists():
        raise PermanentError("judge.python is not there: nothing that is trained could be judged")
    for each in settings.private_data:
        if each.folder.stat().st_mode & 0o077:
            return Warned(
                f"others than this agent's user may look into {each.folder}; chmod 700 it"
            )
    return f"{len(settings.private_data)} held, judged by {judge.python}"


def _run(name: str, check: Callable[[], str | Warned]) -> CheckResult:
    try:
        found = check()
        return CheckResult(
            name=name, is_ok=True, text=str(found), is_warning=isinstance(found, Warned)
        )
    except (TouchstoneError, OSError) as error:
        return CheckResult(name=name, is_ok=False, text=str(error))


def _done(_: object, text: object) -> str:
    return str(text)


def _reach(url: str) -> str:
    host_checks.ask_origin(url)
    return f"{url} answers"


def _judge_engine(
    settings: AgentSettings,
    build_runtime: Callable[[AgentSettings], Runtime],
    judge: Callable[[EngineFacts], str | Warned],
) -> str | Warned:
    try:
        engine = build_runtime(settings).read_engine()
    except TouchstoneError:
        return "not known without the engine"  # that it does not answer is said already
    return "no engine" if engine is None else judge(engine)


def _check_queue(settings: AgentSettings, queue: str) -> str:
    Queues(settings.sqs).check(queue)
    return "reachable"


def _check_image(
    settings: AgentSettings, build_runtime: Callable[[AgentSettings], Runtime], image: str
) -> str:
    return build_runtime(settings).resolve_image(image, is_cancelled=lambda: False)


def _check_users(
    settings: AgentSettings,
    build_runtime: Callable[[AgentSettings], Runtime],
    image: str | None,
) -> str | Warned:
    reason = build_runtime(settings).find_shared_user(image)
    if reason is None:
        who = "an image can have" if image is None else "it has"
        return f"{who} a runner and a trainer that are two users"
    return Warned(
        f"RUNNER AND TRAINER SHARE A USER: {reason}. Submitted code may stop its runner, and may "
        "write what the runner tells; this agent still ends what goes beyond time and disk"
    )


def _check_disk(settings: AgentSettings) -> str:
    folder = settings.state_dir
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free // 1024**2
    if free < settings.min_free_mib:
        raise OSError(
            f"{free} MiB free in {folder}; {settings.min_free_mib} MiB wanted: make room there"
        )
    compiled = measure_compiled(settings.compiled_dir) // 1024**2
    return (
        f"{free} MiB free; compiled code takes {compiled} of {settings.compilation_cache_mib} MiB"
    )


def _check_image_gpus(
    settings: AgentSettings,
    build_runtime: Callable[[AgentSettings], Runtime],
    image: str,
    look: GpuLook,
) -> str | Warned:
    facts = read_image_labels(build_runtime(settings).read_image_labels(image))
    gpus = select_gpus(look.gpus, settings.gpu)
    problem = find_driver_problem(image, facts, [gpu.driver for gpu in gpus])
    if problem is not None:
        raise OSError(problem)
    idle = find_idle_gpus(image, facts, has_gpus=bool(gpus))
    if idle is not None:
        return Warned(idle)
    return "it does not say what it computes with" if facts.backend is None else facts.backend


def _check_gpus(
    settings: AgentSettings, build_runtime: Callable[[AgentSettings], Runtime], look: GpuLook
) -> str | Warned:
    gpus = select_gpus(look.gpus, settings.gpu)
    told = [*filter(None, (look.problem, *look.broken))]
    if isinstance(settings.gpu, tuple):
        missing = set(settings.gpu) - {gpu.index for gpu in gpus}
        if missing:
            named = f"GPUs {sorted(missing)} are named in the settings and not found"
            raise OSError("; ".join((named, *told)))
    found = ", ".join(_describe_gpu(gpu, settings.gpu_shares) for gpu in gpus) or "none"
    if look.processes:
        runtime = build_runtime(settings)
        told += judge_gpus(gpus, look, _list_holders(settings, runtime), runtime).values()
    told += _find_oddities(settings, gpus, look)
    return Warned("; ".join((found, *told))) if told else found


def _describe_gpu(gpu: DetectedGpu, shares: int) -> str:
    shared = f", {shares} shares" if shares > 1 else ""
    return f"{gpu.index}: {gpu.name} ({gpu.memory_mib} MiB, driver {gpu.driver}{shared})"


def _list_holders(settings: AgentSettings, runtime: Runtime) -> list[Holder]:
    """Return what this agent runs, as the engine knows it: the daemon may be at work."""
    try:
        found = runtime.list_labels()
    except (PermanentError, TransientError):
        return []  # that the engine does not answer is said already
    return [
        Holder(
            name=name,
            out=settings.attempts_dir / name / "out",
            gpu_ids=tuple(labels.get("touchstone.gpus", "").split(",")),
        )
        for name, labels in found.items()
    ]


def _find_oddities(
    settings: AgentSettings, gpus: tuple[DetectedGpu, ...], look: GpuLook
) -> Iterator[str]:
    """Say what an admin should know of GPUs that can be handed over."""
    at_work = {process.uuid for process in look.processes}
    for gpu in gpus:
        used = gpu.used_mib or 0
        if used > gpu.memory_mib * CROWDED_SHARE and not at_work & {gpu.uuid, gpu.parent}:
            yield (
                f"{used} of {gpu.memory_mib} MiB of GPU {gpu.index} are used, and no process "
                "is listed there"
            )
        if settings.gpu_shares > 1 and gpu.compute_mode == EXCLUSIVE:
            yield (
                f"GPU {gpu.index} is in compute mode {EXCLUSIVE}, so only one of its "
                f"{settings.gpu_shares} shares can be used: nvidia-smi -i {gpu.index} -c DEFAULT"
            )
    trainings = len(gpus) * settings.gpu_shares
    if gpus and settings.slots > trainings:
        yield (
            f"the setting slots is {settings.slots}, but the GPUs are enough for {trainings}: "
            "lower it, or raise gpu_shares"
        )
