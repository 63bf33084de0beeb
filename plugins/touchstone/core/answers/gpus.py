"""What the API answers about GPUs that can be had."""

from __future__ import annotations

from touchstone.core.answers.common import Answer


class ListedGpu(Answer):
    """
    A GPU model that RunPod knows; a price of ``None`` means that the cloud does not offer it.

    :param gpu: RunPod's id of it.
    :param name: Its name.
    :param memory_gb: Its memory.
    :param secure_price: US dollars an hour in the secure cloud, as text.
    :param community_price: The same in the community cloud.
    :param secure_stock: How many there are in the secure cloud, in RunPod's word.
    :param community_stock: The same in the community cloud.
    :param is_available: Whether there is one now, in some cloud.
    """

    gpu: str
    name: str
    memory_gb: int
    secure_price: str | None
    community_price: str | None
    secure_stock: str
    community_stock: str
    is_available: bool


class GpuCatalogue(Answer):
    """
    The GPU models that can be rented now.

    :param is_connected: Whether the installation has a connection to RunPod.
    :param gpus: The models, cheapest first.
    :param checked_at: When RunPod was asked, ISO 8601.
    """

    is_connected: bool
    gpus: tuple[ListedGpu, ...]
    checked_at: str
