"""
What a trainer image says of itself in its labels, compared with a server's GPUs. Pure.

The image's builder sets the labels, so they are read into bounded fields; one that makes no sense
counts as absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator

from touchstone_agent.protocol.facts import Wire
from touchstone_agent.protocol.words import Name

BACKEND_LABEL = "touchstone.backend"
CUDA_LABEL = "touchstone.cuda"
DRIVER_LABEL = "touchstone.min_driver"

_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,3}")

Backend = Literal["cpu", "cuda"]
_BACKENDS: Mapping[str, Backend] = {"cpu": "cpu", "cuda": "cuda"}


def _find_backend(value: object) -> Backend | None:
    return _BACKENDS.get(value) if isinstance(value, str) else None


def _find_version(value: object) -> str | None:
    return value if isinstance(value, str) and _VERSION.fullmatch(value) else None


AnyBackend = Annotated[Backend | None, BeforeValidator(_find_backend)]
AnyVersion = Annotated[str | None, BeforeValidator(_find_version)]
"""A version of CUDA or of a driver; whatever else stands there is none."""


class ImageFacts(Wire):
    """
    What an image computes with, by its own word.

    :param backend: ``cpu`` or ``cuda``; ``None`` where it does not say.
    :param cuda: Version of CUDA that it brings, such as ``12.8``.
    :param min_driver: Oldest driver that this CUDA works with, such as ``525.60.13``.
    """

    backend: AnyBackend = None
    cuda: AnyVersion = None
    min_driver: AnyVersion = None


class ServerImage(ImageFacts):
    """
    An image that an agent's settings name, as its engine knows it.

    :param name: As the settings name it.
    :param is_here: Whether it is on the server; nothing else is known of one that is not.
    """

    name: Name
    is_here: bool = True


def read_image_labels(labels: Mapping[str, str]) -> ImageFacts:
    """Return what an image's labels say; all others are left out."""
    return ImageFacts(
        backend=_find_backend(labels.get(BACKEND_LABEL)),
        cuda=_find_version(labels.get(CUDA_LABEL)),
        min_driver=_find_version(labels.get(DRIVER_LABEL)),
    )


def parse_version(text: str) -> tuple[int, ...] | None:
    """Return a version of a driver as numbers that compare; ``None`` for what is none."""
    return tuple(map(int, text.split("."))) if _VERSION.fullmatch(text) else None


def find_driver_problem(
    image: str, facts: ImageFacts, drivers: Iterable[str], *, server: str = "this server"
) -> str | None:
    """
    Say in one line why an image cannot use the GPUs of a server, and what to do.

    :param image: Its name.
    :param facts: What it says of itself.
    :param drivers: The driver of each GPU; none for a server without GPUs, which has no problem.
    :param server: What the server is called.
    :return: ``None`` if it can, or if the image or the driver does not say enough.
    """
    needed = parse_version(facts.min_driver or "")
    if facts.backend != "cuda" or needed is None:
        return None
    known = [(version, text) for text in drivers if (version := parse_version(text)) is not None]
    if not known or min(known)[0] >= needed:
        return None
    cuda = f"CUDA {facts.cuda}" if facts.cuda else "CUDA"
    return (
        f"image {image} is for {cuda} and needs driver {facts.min_driver} or newer, {server} "
        f"has {min(known)[1]}: install a newer driver"
    )


def find_idle_gpus(image: str, facts: ImageFacts, *, has_gpus: bool) -> str | None:
    """
    Say in one line that trainings of an image would leave the GPUs of a server idle.

    :param has_gpus: Whether the server has any.
    """
    if facts.backend != "cpu" or not has_gpus:
        return None
    return (
        f"image {image} computes on the CPU only: its trainings would not use the GPUs of this "
        "server; set touchstone's trainer_image_cuda"
    )
