"""
Whether the images that a server's tasks run in fit the server, by what its agent tells. Pure.

The control plane has no engine: what is known of an image is what an agent has read from its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from touchstone.core.records.servers import Server
from touchstone_agent.protocol.images import ServerImage, find_driver_problem


@dataclass(frozen=True, kw_only=True)
class Fit:
    """
    What decides whether images fit a server.

    :param drivers: The driver of each of its GPUs, as far as its agent tells.
    :param images: What its agent knows of images; none from one that does not tell it yet, or whose
        settings name patterns only.
    """

    drivers: tuple[str, ...] = ()
    images: tuple[ServerImage, ...] = ()

    def find(self, name: str) -> ServerImage | None:
        """Return what is known of an image."""
        return next((image for image in self.images if image.name == name), None)


NOTHING_KNOWN = Fit()


def read_fit(server: Server) -> Fit:
    """Return what a server's record holds of that."""
    images = server.inventory.images if server.inventory else ()
    return Fit(
        drivers=tuple(gpu.driver for gpu in server.gpus if gpu.driver),
        images=tuple(image for image in images if isinstance(image, ServerImage)),
    )


def list_misfits(
    name: str, fit: Fit, *, has_cuda: bool, image: str, image_cuda: str
) -> Iterator[str]:
    """
    Say in one line each what keeps a server's tasks from the GPUs that it has, and what to do.

    :param name: The server.
    :param fit: What its agent tells.
    :param has_cuda: Whether its trainings are handed a GPU.
    :param image: The trainer's image (``TOUCHSTONE_TRAINER_IMAGE``).
    :param image_cuda: The trainer's image for GPUs (``TOUCHSTONE_TRAINER_IMAGE_CUDA``), or empty.
    """
    if has_cuda:
        yield from _find_idle_gpu(name, fit, image, image_cuda)
        for known in fit.images:
            problem = find_driver_problem(known.name, known, fit.drivers, server=name)
            if problem is not None:
                yield f"{problem}, or let it run an image for the CPU"
    for wanted in dict.fromkeys((image, image_cuda if has_cuda else "")):
        missing = fit.find(wanted)
        if missing is not None and not missing.is_here:
            yield (
                f"{name} has no image {wanted}: what comes there first has to wait for it, and is "
                f"refused if it cannot be pulled; pull it there"
            )


def _find_idle_gpu(name: str, fit: Fit, image: str, image_cuda: str) -> Iterator[str]:
    known = fit.find(image_cuda or image)
    if image_cuda and known is not None and known.backend == "cpu":
        yield (
            f"{name} has a GPU and TOUCHSTONE_TRAINER_IMAGE_CUDA is {image_cuda}, which computes "
            "on the CPU only: its trainings leave the GPU idle; name an image for CUDA"
        )
    elif not image_cuda and (known is None or known.backend != "cuda"):
        yield (
            f"{name} has a GPU and TOUCHSTONE_TRAINER_IMAGE_CUDA is not set: "
            "its trainings compute on the CPU"
        )
