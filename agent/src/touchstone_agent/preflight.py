"""Looks whether everything an agent needs is there, before it is relied on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from touchstone_agent.adapters.gpu import detect_gpus
from touchstone_agent.adapters.sqs import Queues
from touchstone_agent.core.ports import Runtime
from touchstone_agent.protocol.errors import TouchstoneError
from touchstone_agent.settings import AgentSettings


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


class Warned(str):
    """Found, and not as it should be."""


def run_checks(
    settings: AgentSettings, build_runtime: Callable[[AgentSettings], Runtime]
) -> tuple[CheckResult, ...]:
    """
    Look at queues, keys, engine, images, disk and GPUs.

    :param settings: The settings.
    :param build_runtime: Builds the runtime they name.
    """
    checks: list[tuple[str, Callable[[], str | Warned]]] = [
        ("private key", lambda: _done(settings.read_private_key(), settings.private_key_file)),
        ("control plane's key", lambda: _done(settings.read_control_keys(), "readable")),
    ]
    for queue in (settings.request_queue, settings.control_queue, settings.event_queue):
        checks.append((f"queue {queue}", partial(_check_queue, settings, queue)))
    checks.append(("engine", lambda: build_runtime(settings).check()))
    checks.append(("users", partial(_check_users, settings, build_runtime, None)))
    for image in settings.images_allowed:
        if not set(image) & set("*?["):
            checks.append((f"image {image}", partial(_check_image, settings, build_runtime, image)))
            users = partial(_check_users, settings, build_runtime, image)
            checks.append((f"users in {image}", users))
    checks += [("disk", lambda: _check_disk(settings)), ("GPUs", lambda: _check_gpus(settings))]
    return tuple(_run(name, look) for name, look in checks)


def _run(name: str, look: Callable[[], str | Warned]) -> CheckResult:
    try:
        found = look()
        return CheckResult(
            name=name, is_ok=True, text=str(found), is_warning=isinstance(found, Warned)
        )
    except (TouchstoneError, OSError) as error:
        return CheckResult(name=name, is_ok=False, text=str(error))


def _done(_: object, text: object) -> str:
    return str(text)


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
        raise OSError(f"{free} MiB free in {folder}; {settings.min_free_mib} MiB wanted")
    return f"{free} MiB free"


def _check_gpus(settings: AgentSettings) -> str:
    gpus = detect_gpus(settings.gpu)
    if isinstance(settings.gpu, tuple):
        missing = set(settings.gpu) - {int(gpu["index"]) for gpu in gpus}
        if missing:
            raise OSError(f"GPUs {sorted(missing)} are named in the settings and not found")
    names = ", ".join(f"{gpu['index']}: {gpu['name']} ({gpu['memory_mib']} MiB)" for gpu in gpus)
    return names or "none"
