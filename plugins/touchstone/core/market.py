"""What RunPod has to rent, as placement and the order of a pod see it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from touchstone.core.offers import (
    CpuOffer,
    GpuOffer,
    OfferCriteria,
    OfferSelection,
    choose,
    choose_cpu,
)
from touchstone.core.pods import Cloud
from touchstone.core.schedule import CloudChoice

CLOUDS: Final[Mapping[CloudChoice, tuple[Cloud, ...]]] = {
    CloudChoice.ANY: (Cloud.SECURE, Cloud.COMMUNITY),
    CloudChoice.SECURE: (Cloud.SECURE,),
    CloudChoice.COMMUNITY: (Cloud.COMMUNITY,),
}


@dataclass(frozen=True, kw_only=True)
class Market:
    """
    The live catalogue, and what an installation takes of it.

    :param offers: Every GPU model in every cloud that has it.
    :param cpus: Every CPU flavor.
    :param vcpus: How many vCPUs a CPU pod gets.
    :param models: Models for who names none, best first; empty for the cheapest that fits.
    :param max_price: Most USD per hour for anybody; ``None`` for no ceiling.
    :param data_centers: Where to rent; empty lets RunPod choose.
    """

    offers: tuple[GpuOffer, ...]
    cpus: tuple[CpuOffer, ...] = ()
    vcpus: int = 4
    models: tuple[str, ...] = ()
    max_price: Decimal | None = None
    data_centers: tuple[str, ...] = ()
    _selections: dict[object, OfferSelection] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def choose(
        self,
        *,
        gpu_models: tuple[str, ...] = (),
        cloud: CloudChoice = CloudChoice.ANY,
        max_price: Decimal | None = None,
        min_memory_gb: float = 0,
    ) -> OfferSelection:
        """
        Return which GPU to order for a task, best first.

        :param gpu_models: The task's own list; empty for the installation's.
        :param cloud: Whose machines.
        :param max_price: The task's own ceiling; the installation's holds as well.
        :param min_memory_gb: GPU memory needed.
        """
        key = (gpu_models, cloud, max_price, min_memory_gb)
        found = self._selections.get(key)
        if found is None:
            criteria = OfferCriteria(
                gpus=gpu_models or self.models,
                clouds=CLOUDS[cloud],
                data_centers=self.data_centers,
                max_price=self._find_ceiling(max_price),
                min_memory_gb=min_memory_gb,
            )
            # Asked for every task in every round of placement, and most tasks ask alike.
            found = self._selections[key] = choose(self.offers, criteria)
        return found

    def choose_cpu(self, *, max_price: Decimal | None = None) -> OfferSelection:
        """
        Return which CPU to order for a task that needs no GPU, best first.

        :param max_price: The task's own ceiling; the installation's holds as well.
        """
        key = ("cpu", max_price)
        found = self._selections.get(key)
        if found is None:
            found = self._selections[key] = choose_cpu(
                self.cpus,
                vcpus=self.vcpus,
                max_price=self._find_ceiling(max_price),
                data_centers=self.data_centers,
            )
        return found

    def _find_ceiling(self, max_price: Decimal | None) -> Decimal | None:
        ceilings = [price for price in (max_price, self.max_price) if price is not None]
        return min(ceilings, default=None)
