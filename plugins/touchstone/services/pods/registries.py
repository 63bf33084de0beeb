"""
The login of a private image at RunPod: one for each pod, by the pod's own name.

The pod's order is on record before, so a later process finds by that name what was left there,
and the reaper removes what no pod needs any more.
"""

from __future__ import annotations

import logging

from touchstone.core.pod_attempts import list_pods, may_rent
from touchstone.hooks.registry import RegistryAccess, afind_access
from touchstone.hooks.runpod.errors import Ambiguous, PodNotFound
from touchstone.services.pods.context import PodContext
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.protocol.errors import PermanentError, TouchstoneError, TransientError
from touchstone_agent.protocol.references import find_pinned

log = logging.getLogger(__name__)

TRIES = 3
BACKOFF = Backoff(first_seconds=1, cap_seconds=10)
"""An order waits for this, so it is given up soon: the driver of the pod tries again."""


async def find_registry(context: PodContext, *, name: str, image: str) -> str | None:
    """
    Return RunPod's id of the login for an image, left there now if it is not there yet.

    :param name: The pod's name.
    :return: ``None`` for an image that everybody may pull.
    :raises TransientError: If RunPod does not take it now; no pod was ordered.
    :raises PermanentError: If it refuses it, or the connection makes no sense.
    """
    settings = context.settings
    if settings.runpod.registry_id is not None:
        return settings.runpod.registry_id
    pinned = find_pinned(image)
    access = await afind_access(
        settings.registry_conn_ids, pinned.registry if pinned is not None else None
    )
    if access is None or not access.login:
        return None
    for number in range(1, TRIES + 1):
        try:
            listed = await context.api.list_registries()
        except PodNotFound as error:
            raise PermanentError(
                f"{name}: RunPod keeps no logins of registries: {error}"
            ) from error
        known = [each for each, called in listed if called == name]
        if known:
            return known[0]
        try:
            return await _create(context, name, access)
        except Ambiguous as error:
            # Looked for by its name, the next time round.
            log.warning("%s: %s", name, error)
            await context.sleep(BACKOFF.after(number))
    raise TransientError(f"{name}: RunPod does not take the login of {access.registry}")


async def _create(context: PodContext, name: str, access: RegistryAccess) -> str:
    try:
        return await context.api.create_registry(name, access.login, access.password)
    except PermanentError as error:
        if access.password not in str(error):
            raise
    # Who refuses a request may repeat what was in it.
    raise PermanentError(f"{name}: RunPod refuses the login of connection {access.conn_id!r}")


async def remove_registries(context: PodContext) -> None:
    """Remove the logins that were left for pods which are gone; what fails, the next look does."""
    if not context.settings.registry_conn_ids:
        return
    for registry_id, name in await context.api.list_registries():
        if not await _is_left_over(context, name):
            continue
        try:
            await context.api.delete_registry(registry_id)
            log.info("the login for %s is removed from RunPod", name)
        except TouchstoneError as error:
            log.warning("the login for %s is still at RunPod: %s", name, error)


async def _is_left_over(context: PodContext, name: str) -> bool:
    """Tell whether a login is one of ours, and its pod is gone or never was and never will be."""
    found = await context.find_attempt(name)
    if found is None:
        return False
    task, fence = found
    if task is None:
        return True
    pods = dict(list_pods(task))
    if fence in pods:
        return pods[fence].gone_at is not None
    return not may_rent(task, fence)
