"""Which images a server is going to need, by what waits in the queue. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from touchstone.core.eligibility import Needs, Resource, find_unfit
from touchstone.core.records.servers import Server
from touchstone.core.schedule import Platform
from touchstone.core.tasks import choose_image
from touchstone_agent.protocol.references import find_pinned

AGAIN: Final = timedelta(minutes=30)
"""After which a server is asked again: it may have removed it, or not been able to pull it."""

MAX_LOOKED_AT: Final = 64
"""Tasks at the head of the queue that are looked at."""
MAX_IMAGES: Final = 2
"""For each server: what it needs next, and what it needs then."""
_MOST_STAGED = 8
"""Images that a record remembers as asked for, for the login of a private one."""


def list_next_images(needs: Iterable[Needs], resource: Resource) -> list[str]:
    """
    Return the images, by content, that a server needs for what waits, the next one first.

    :param needs: What waits, in the order of the queue.
    :param resource: The server.
    """
    if resource.platform is not Platform.ON_PREM:
        return []
    images: list[str] = []
    for wanted in list(needs)[:MAX_LOOKED_AT]:
        if not resource.get_slots(wanted.kind) or find_unfit(wanted, resource) is not None:
            continue
        image = choose_image(wanted.image, wanted.image_cuda, gpus=resource.get_gpus(wanted.kind))
        if image not in images and find_pinned(image):
            images.append(image)
            if len(images) == MAX_IMAGES:
                break
    return images


def note_staged(server: Server, images: Iterable[str], *, now: datetime) -> Server | None:
    """
    Return what a server's record becomes when it is asked for images.

    :return: ``None`` if it was asked for all of them a short while ago.
    """
    known = dict(server.staged_images or {})
    fresh = [image for image in images if not _is_recent(known.get(image), now)]
    if not fresh:
        return None
    known |= dict.fromkeys(fresh, now)
    newest = sorted(known, key=lambda image: known[image])[-_MOST_STAGED:]
    return server.change(staged_images={image: known[image] for image in newest})


def find_fresh(server: Server, *, now: datetime) -> list[str]:
    """Return what a server was asked for just now."""
    return [image for image, at in (server.staged_images or {}).items() if at == now]


def _is_recent(at: datetime | None, now: datetime) -> bool:
    return at is not None and now - at < AGAIN
