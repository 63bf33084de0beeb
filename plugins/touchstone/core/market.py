"""What RunPod has to rent, as placement and whoever orders a pod look at it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from touchstone.core.conf import CloudChoice
from touchstone.core.pods import Choice, Cloud, GpuOffer, Wish, choose

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
    :param models: Models for who names none, best first; empty for the cheapest that fits.
    :param max_price: Most USD per hour for anybody; ``None`` for no ceiling.
    :param data_centers: Where to rent; empty lets RunPod choose.
    """

    offers: tuple[GpuOffer, ...]
    models: tuple[str, ...] = ()
    max_price: Decimal | None = None
    data_centers: tuple[str, ...] = ()
    _choices: dict[object, Choice] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def choose(
        self,
        *,
        gpu_models: tuple[str, ...] = (),
        cloud: CloudChoice = CloudChoice.ANY,
        max_price: Decimal | None = None,
        min_memory_gb: float = 0,
    ) -> Choice:
        """
        Return what to order for a task, best first.

        :param gpu_models: The task's own list; empty for the installation's.
        :param cloud: Whose machines.
        :param max_price: The task's own ceiling; the installation's holds as well.
        :param min_memory_gb: GPU memory needed.
        """
        key = (gpu_models, cloud, max_price, min_memory_gb)
        found = self._choices.get(key)
        if found is None:
            ceilings = [price for price in (max_price, self.max_price) if price is not None]
            wish = Wish(
                gpus=gpu_models or self.models,
                clouds=CLOUDS[cloud],
                data_centers=self.data_centers,
                max_price=min(ceilings, default=None),
                min_memory_gb=min_memory_gb,
            )
            # Asked for every task in every round of placement, and most tasks ask alike.
            found = self._choices[key] = choose(self.offers, wish)
        return found
