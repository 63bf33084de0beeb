"""
What a trainer image says of itself in its labels, compared with a server's GPUs. Pure.

Whoever builds an image sets the labels, so they are read into bounded fields; one that makes no
sense counts as absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from touchstone_agent.protocol.facts import Wire

BACKEND_LABEL = "touchstone.backend"
CUDA_LABEL = "touchstone.cuda"
DRIVER_LABEL = "touchstone.min_driver"

_VERSION = re.compile(r"[0-9]{1,6}(\.[0-9]{1,6}){0,3}")

Backend = Literal["cpu", "cuda"]
_BACKENDS: Mapping[str, Backend] = {"cpu": "cpu", "cuda": "cuda"}


class ImageFacts(Wire):
    """
    What an image computes with, by its own word.

    :param backend: ``cpu`` or ``cuda``; ``None`` where it does not say.
    :param cuda: Version of CUDA that it brings, such as ``12.8``.
    :param min_driver: Oldest driver that this CUDA works with, such as ``525.60.13``.
    """

    backend: Backend | None = None
    cuda: str | None = None
    min_driver: str | None = None


def read_image_labels(labels: Mapping[str, str]) -> ImageFacts:
    """Return what an image's labels say; all others are left out."""
    return ImageFacts(
        backend=_BACKENDS.get(labels.get(BACKEND_LABEL, "")),
        cuda=_find_version(labels.get(CUDA_LABEL)),
        min_driver=_find_version(labels.get(DRIVER_LABEL)),
    )


def parse_version(text: str) -> tuple[int, ...] | None:
    """Return a version of a driver as numbers that compare; ``None`` for what is none."""
    return tuple(map(int, text.split("."))) if _VERSION.fullmatch(text) else None


def find_driver_problem(image: str, facts: ImageFacts, drivers: Iterable[str]) -> str | None:
    """
    Say in one line why an image cannot use the GPUs of a server, and what to do.

    :param image: Its name.
    :param facts: What it says of itself.
    :param drivers: The driver of each GPU; none for a server without GPUs, which has no problem.
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
        f"image {image} is for {cuda} and needs driver {facts.min_driver} or newer, this server "
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


def _find_version(text: str | None) -> str | None:
    return text if text is not None and _VERSION.fullmatch(text) else None
