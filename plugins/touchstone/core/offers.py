"""What RunPod's catalogue offers, and which of it to order, best first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from touchstone.core.pods import Cloud


class Stock(StrEnum):
    """The catalogue's word for how many are free; ``UNKNOWN`` for a word not known yet."""

    NONE = "NONE"
    LOW = "LOW"
    MEDIUM = "MEDIUM"
    HIGH = "HIGH"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, kw_only=True)
class GpuOffer:
    """
    One GPU model in one cloud, as the live catalogue has it.

    :param price_per_hour: USD for one GPU.
    :param stock: Over all data centres.
    :param data_centers: Stock of each data centre that offers it.
    """

    gpu: str
    name: str
    memory_gb: int
    cloud: Cloud
    price_per_hour: Decimal
    stock: Stock
    data_centers: Mapping[str, Stock] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class CpuOffer:
    """
    One CPU flavor, as the live catalogue has it, which tells no stock of it.

    :param price_per_vcpu: USD per hour of one vCPU, in RunPod's own cloud: there is no other.
    """

    cpu: str
    name: str
    min_vcpus: int
    max_vcpus: int
    memory_gb_per_vcpu: float
    price_per_vcpu: Decimal


@dataclass(frozen=True, kw_only=True)
class OfferCriteria:
    """
    What somebody wants to rent, best first.

    :param gpus: Model ids or names; empty for any model, cheapest first.
    :param clouds: Clouds to try for each model.
    :param data_centers: Data centres to try for each cloud; empty lets RunPod choose.
    :param max_price: Most USD per hour; ``None`` for no ceiling.
    :param max_price_of: Ceilings of single models, instead of ``max_price``.
    :param min_memory_gb: GPU memory needed.
    """

    gpus: tuple[str, ...] = ()
    clouds: tuple[Cloud, ...] = (Cloud.SECURE, Cloud.COMMUNITY)
    data_centers: tuple[str, ...] = ()
    max_price: Decimal | None = None
    max_price_of: Mapping[str, Decimal] = field(default_factory=dict)
    min_memory_gb: float = 0


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """
    One thing to order; the catalogue says it is there, only the order itself can tell.

    :param gpu: GPU model, or ``None`` for a CPU.
    :param memory_gb: Of the GPU, or of the whole CPU pod.
    :param cpu: CPU flavor, or ``None`` for a GPU; likewise how many vCPUs of it.
    """

    gpu: str | None
    cloud: Cloud
    data_center: str | None
    price_per_hour: Decimal
    memory_gb: float
    cpu: str | None = None
    vcpus: int | None = None


class Obstacle(StrEnum):
    """Why an offer is no candidate."""

    UNKNOWN_GPU = "unknown_gpu"
    NOT_OFFERED = "not_offered"
    TOO_SMALL = "too_small"
    OVER_CEILING = "over_ceiling"
    OUT_OF_STOCK = "out_of_stock"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An obstacle, and the line that tells an engineer."""

    obstacle: Obstacle
    text: str


@dataclass(frozen=True, kw_only=True)
class OfferSelection:
    """
    What to order, best first.

    :param refusals: Why the rest is no candidate.
    """

    candidates: tuple[Candidate, ...]
    refusals: tuple[Refusal, ...]

    @property
    def may_wait(self) -> bool:
        """Return whether time alone could bring a candidate: something is only out of stock."""
        return any(each.obstacle is Obstacle.OUT_OF_STOCK for each in self.refusals)

    @property
    def reason(self) -> str:
        """Return one line about why there is no better candidate."""
        return "; ".join(each.text for each in self.refusals)


def choose(offers: Iterable[GpuOffer], criteria: OfferCriteria) -> OfferSelection:
    """
    Return what to order, in the order of the criteria.

    Every model is tried in all its clouds, and there in all data centres, before the next model:
    who names a model first would rather have it elsewhere than have another one.

    :param offers: The live catalogue.
    :param criteria: The wanted offers, and their highest price.
    """
    known = list(offers)
    candidates: list[Candidate] = []
    refusals: list[Refusal] = []
    for wanted in criteria.gpus or _list_models(known):
        of_model = [offer for offer in known if is_model(offer, wanted)]
        if not of_model:
            refusals.append(_refuse_unknown(wanted, known))
            continue
        for cloud in criteria.clouds:
            offer = next((each for each in of_model if each.cloud is cloud), None)
            refusal = _find_obstacle(wanted, offer, cloud, criteria)
            if refusal is not None:
                refusals.append(refusal)
            elif offer is not None:
                found = _list_candidates(offer, criteria)
                candidates.extend(found)
                if not found:
                    refusals.append(_refuse_stock(offer, criteria))
    return OfferSelection(candidates=tuple(candidates), refusals=tuple(refusals))


def is_model(offer: GpuOffer, wanted: str) -> bool:
    """Return whether an offer is of a model that people call so, by id or by short name."""
    return wanted.casefold() in (offer.gpu.casefold(), offer.name.casefold())


def _list_models(offers: Iterable[GpuOffer]) -> list[str]:
    cheapest: dict[str, Decimal] = {}
    for offer in offers:
        cheapest[offer.gpu] = min(
            offer.price_per_hour, cheapest.get(offer.gpu, offer.price_per_hour)
        )
    return sorted(cheapest, key=lambda gpu: (cheapest[gpu], gpu))


def _find_obstacle(
    wanted: str, offer: GpuOffer | None, cloud: Cloud, criteria: OfferCriteria
) -> Refusal | None:
    if offer is None:
        text = f"{wanted} is not offered in {cloud} cloud"
        return Refusal(obstacle=Obstacle.NOT_OFFERED, text=text)
    if offer.memory_gb < criteria.min_memory_gb:
        text = f"{offer.name} has {offer.memory_gb} GB, {criteria.min_memory_gb:g} GB are needed"
        return Refusal(obstacle=Obstacle.TOO_SMALL, text=text)
    ceiling = next(
        (limit for model, limit in criteria.max_price_of.items() if is_model(offer, model)),
        criteria.max_price,
    )
    if ceiling is not None and offer.price_per_hour > ceiling:
        text = (
            f"{offer.name} costs ${offer.price_per_hour}/h in {cloud} cloud, "
            f"over the ceiling of ${ceiling}/h"
        )
        return Refusal(obstacle=Obstacle.OVER_CEILING, text=text)
    return _refuse_stock(offer, criteria) if offer.stock is Stock.NONE else None


def _list_candidates(offer: GpuOffer, criteria: OfferCriteria) -> list[Candidate]:
    """Return one candidate per data centre that has some; an unlisted one has none."""
    places: list[str | None] = [None]
    if criteria.data_centers:
        places = [
            place
            for place in criteria.data_centers
            if offer.data_centers.get(place, Stock.NONE) is not Stock.NONE
        ]
    return [
        Candidate(
            gpu=offer.gpu,
            cloud=offer.cloud,
            data_center=place,
            price_per_hour=offer.price_per_hour,
            memory_gb=offer.memory_gb,
        )
        for place in places
    ]


def _refuse_stock(offer: GpuOffer, criteria: OfferCriteria) -> Refusal:
    where = f" in {', '.join(criteria.data_centers)}" if criteria.data_centers else ""
    text = f"{offer.name} is out of stock in {offer.cloud} cloud{where}"
    return Refusal(obstacle=Obstacle.OUT_OF_STOCK, text=text)


def _refuse_unknown(wanted: str, offers: Iterable[GpuOffer]) -> Refusal:
    names = ", ".join(sorted({offer.name for offer in offers})) or "none"
    text = f"GPU {wanted!r} is unknown to RunPod; there are {names}"
    return Refusal(obstacle=Obstacle.UNKNOWN_GPU, text=text)


def choose_cpu(
    offers: Iterable[CpuOffer],
    *,
    vcpus: int,
    max_price: Decimal | None = None,
    data_centers: tuple[str, ...] = (),
) -> OfferSelection:
    """
    Return which CPU pods to order, cheapest flavor first.

    :param offers: The live catalogue.
    :param vcpus: How many a pod is to have.
    :param max_price: Most USD per hour for all of them; ``None`` for no ceiling.
    :param data_centers: Where to rent; empty lets RunPod choose.
    """
    candidates: list[Candidate] = []
    refusals: list[Refusal] = []
    for offer in sorted(offers, key=lambda each: (each.price_per_vcpu, each.cpu)):
        price = offer.price_per_vcpu * vcpus
        if not offer.min_vcpus <= vcpus <= offer.max_vcpus:
            has = f"{offer.min_vcpus} to {offer.max_vcpus} vCPUs"
            text = f"CPU {offer.cpu} has {has}, {vcpus} are wanted"
            refusals.append(Refusal(obstacle=Obstacle.TOO_SMALL, text=text))
        elif max_price is not None and price > max_price:
            text = f"CPU {offer.cpu} costs ${price}/h, over the ceiling of ${max_price}/h"
            refusals.append(Refusal(obstacle=Obstacle.OVER_CEILING, text=text))
        else:
            candidates += (
                Candidate(
                    gpu=None,
                    cpu=offer.cpu,
                    vcpus=vcpus,
                    cloud=Cloud.SECURE,
                    data_center=place,
                    price_per_hour=price,
                    memory_gb=offer.memory_gb_per_vcpu * vcpus,
                )
                for place in data_centers or (None,)
            )
    if not candidates and not refusals:
        # It could not be asked, or has none just now: either may be otherwise in a moment.
        text = "RunPod shows no CPU to rent"
        refusals.append(Refusal(obstacle=Obstacle.OUT_OF_STOCK, text=text))
    return OfferSelection(candidates=tuple(candidates), refusals=tuple(refusals))


@dataclass(frozen=True, kw_only=True)
class GpuRow:
    """
    A GPU model in a list for people; a price of ``None`` means the cloud does not offer it.

    :param checked_at: When the catalogue was read.
    """

    gpu: str
    name: str
    memory_gb: int
    secure_price: Decimal | None
    community_price: Decimal | None
    secure_stock: Stock
    community_stock: Stock
    checked_at: datetime

    @property
    def lowest_price(self) -> Decimal:
        """Return the lower price per hour."""
        return min(p for p in (self.secure_price, self.community_price) if p is not None)

    @property
    def is_available(self) -> bool:
        """Return whether the catalogue has one now, in some cloud."""
        return {self.secure_stock, self.community_stock} != {Stock.NONE}


def build_gpu_rows(offers: Iterable[GpuOffer], checked_at: datetime) -> tuple[GpuRow, ...]:
    """Return one row per model, cheapest first."""
    by_model: dict[str, dict[Cloud, GpuOffer]] = {}
    for offer in offers:
        by_model.setdefault(offer.gpu, {})[offer.cloud] = offer
    rows = []
    for clouds in by_model.values():
        secure, community = clouds.get(Cloud.SECURE), clouds.get(Cloud.COMMUNITY)
        any_offer = next(iter(clouds.values()))
        rows.append(
            GpuRow(
                gpu=any_offer.gpu,
                name=any_offer.name,
                memory_gb=any_offer.memory_gb,
                secure_price=secure.price_per_hour if secure else None,
                community_price=community.price_per_hour if community else None,
                secure_stock=secure.stock if secure else Stock.NONE,
                community_stock=community.stock if community else Stock.NONE,
                checked_at=checked_at,
            )
        )
    return tuple(sorted(rows, key=lambda row: (row.lowest_price, row.gpu)))
