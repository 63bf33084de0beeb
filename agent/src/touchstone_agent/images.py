"""What the engine knows of the images that an agent's settings name."""

from __future__ import annotations

from collections.abc import Iterable

from touchstone_agent.core.ports import Runtime
from touchstone_agent.protocol.errors import PermanentError
from touchstone_agent.protocol.images import ServerImage, read_image_labels
from touchstone_agent.protocol.messages import MAX_IMAGES
from touchstone_agent.protocol.words import MAX_NAME

WILD = frozenset("*?[")
"""What makes a pattern of a name."""


def list_named(patterns: Iterable[str]) -> tuple[str, ...]:
    """Return the images that patterns name as they are."""
    return tuple(pattern for pattern in patterns if not WILD & set(pattern))


def look_at_images(patterns: Iterable[str], runtime: Runtime) -> tuple[ServerImage, ...]:
    """
    Return what is known of images: what they compute with, or that they are not here.

    One that says nothing of itself is left out; nothing is pulled.

    :param patterns: Those that may run here, as the settings have them.
    :param runtime: Where they are.
    :raises TransientError: If the engine does not answer.
    """
    found: list[ServerImage] = []
    for name in list_named(patterns):
        if len(name) > MAX_NAME or len(found) == MAX_IMAGES:
            continue
        try:
            facts = read_image_labels(runtime.read_image_labels(name))
        except PermanentError:
            found.append(ServerImage(name=name, is_here=False))
            continue
        if facts.backend is not None:
            found.append(ServerImage(name=name, **facts.model_dump()))
    return tuple(found)
