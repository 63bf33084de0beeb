"""The choice of what to rent."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from fakes.runpod_account import make_cpu
from touchstone.core.offers import (
    GpuOffer,
    Obstacle,
    OfferCriteria,
    Stock,
    build_gpu_rows,
    choose,
    choose_cpu,
)
from touchstone.core.pods import Cloud, PodOrder, compute_cost

SECURE, COMMUNITY = Cloud.SECURE, Cloud.COMMUNITY


def build_offer(
    name: str, price: str, cloud: Cloud = SECURE, stock: Stock = Stock.HIGH, memory: int = 24
) -> GpuOffer:
    return GpuOffer(
        gpu=f"NVIDIA {name}",
        name=name,
        memory_gb=memory,
        cloud=cloud,
        price_per_hour=Decimal(price),
        stock=stock,
        data_centers={"EU-RO-1": stock, "US-KS-2": Stock.NONE},
    )


OFFERS = [
    build_offer("RTX 4090", "0.69"),
    build_offer("RTX 4090", "0.34", COMMUNITY),
    build_offer("A6000", "0.49", memory=48),
    build_offer("A6000", "0.33", COMMUNITY, Stock.NONE, memory=48),
    build_offer("L4", "0.39"),
]


def list_selection(criteria: OfferCriteria) -> list[tuple[str, Cloud]]:
    return [(each.gpu, each.cloud) for each in choose(OFFERS, criteria).candidates]


def list_obstacles(criteria: OfferCriteria) -> list[Obstacle]:
    return [each.obstacle for each in choose(OFFERS, criteria).refusals]


def test_models_come_in_the_order_of_the_wish_each_in_all_its_clouds() -> None:
    assert list_selection(OfferCriteria(gpus=("L4", "RTX 4090"))) == [
        ("NVIDIA L4", SECURE),
        ("NVIDIA RTX 4090", SECURE),
        ("NVIDIA RTX 4090", COMMUNITY),
    ]


def test_clouds_come_in_the_order_of_the_wish() -> None:
    criteria = OfferCriteria(gpus=("RTX 4090",), clouds=(COMMUNITY, SECURE))
    assert list_selection(criteria) == [("NVIDIA RTX 4090", COMMUNITY), ("NVIDIA RTX 4090", SECURE)]


def test_without_models_all_are_tried_cheapest_first() -> None:
    assert [gpu for gpu, _ in list_selection(OfferCriteria())] == [
        "NVIDIA A6000",
        "NVIDIA RTX 4090",
        "NVIDIA RTX 4090",
        "NVIDIA L4",
    ]


def test_a_model_may_be_called_by_its_id_or_its_name_in_any_case() -> None:
    assert list_selection(OfferCriteria(gpus=("nvidia l4",))) == list_selection(
        OfferCriteria(gpus=("l4",))
    )


def test_data_centres_come_in_the_order_of_the_wish_and_empty_ones_not_at_all() -> None:
    selection = choose(
        OFFERS, OfferCriteria(gpus=("L4",), data_centers=("US-KS-2", "EU-RO-1", "MARS-1"))
    )
    assert [each.data_center for each in selection.candidates] == ["EU-RO-1"]


def test_without_data_centres_runpod_chooses() -> None:
    assert [
        each.data_center for each in choose(OFFERS, OfferCriteria(gpus=("L4",))).candidates
    ] == [None]


def test_a_price_over_the_ceiling_is_no_candidate_and_says_so() -> None:
    selection = choose(OFFERS, OfferCriteria(gpus=("RTX 4090",), max_price=Decimal("0.5")))
    assert [each.cloud for each in selection.candidates] == [COMMUNITY]
    assert selection.reason == "RTX 4090 costs $0.69/h in SECURE cloud, over the ceiling of $0.5/h"


def test_a_price_at_the_ceiling_is_a_candidate() -> None:
    assert list_selection(OfferCriteria(gpus=("L4",), max_price=Decimal("0.39")))


def test_a_model_may_have_a_ceiling_of_its_own() -> None:
    criteria = OfferCriteria(
        gpus=("L4", "A6000"), max_price=Decimal("0.1"), max_price_of={"a6000": Decimal("0.5")}
    )
    assert list_selection(criteria) == [("NVIDIA A6000", SECURE)]


@pytest.mark.parametrize(
    ("criteria", "obstacles", "may_wait"),
    [
        (OfferCriteria(gpus=("RTX 9999",)), [Obstacle.UNKNOWN_GPU], False),
        (OfferCriteria(gpus=("L4",), clouds=(COMMUNITY,)), [Obstacle.NOT_OFFERED], False),
        (
            OfferCriteria(gpus=("L4",), clouds=(SECURE,), min_memory_gb=40),
            [Obstacle.TOO_SMALL],
            False,
        ),
        (
            OfferCriteria(gpus=("L4",), clouds=(SECURE,), max_price=Decimal("0.1")),
            [Obstacle.OVER_CEILING],
            False,
        ),
        (OfferCriteria(gpus=("A6000",), clouds=(COMMUNITY,)), [Obstacle.OUT_OF_STOCK], True),
        (
            OfferCriteria(gpus=("L4",), clouds=(SECURE,), data_centers=("US-KS-2",)),
            [Obstacle.OUT_OF_STOCK],
            True,
        ),
    ],
)
def test_waiting_helps_only_against_an_empty_stock(
    criteria: OfferCriteria, obstacles: list[Obstacle], may_wait: bool
) -> None:
    selection = choose(OFFERS, criteria)
    assert selection.candidates == ()
    assert list_obstacles(criteria) == obstacles
    assert selection.may_wait is may_wait
    assert selection.reason


def test_an_unknown_model_is_told_with_those_that_exist() -> None:
    assert "there are A6000, L4, RTX 4090" in choose(OFFERS, OfferCriteria(gpus=("T-1000",))).reason


def test_stock_that_cannot_be_read_is_tried() -> None:
    offers = [build_offer("L4", "0.39", stock=Stock.UNKNOWN)]
    assert choose(offers, OfferCriteria(gpus=("L4",))).candidates


def test_the_list_for_people_has_a_line_per_model_cheapest_first() -> None:
    checked_at = datetime(2026, 11, 22, tzinfo=UTC)
    rows = build_gpu_rows(OFFERS, checked_at)
    assert [row.name for row in rows] == ["A6000", "RTX 4090", "L4"]
    l4 = rows[-1]
    assert (l4.secure_price, l4.community_price) == (Decimal("0.39"), None)
    assert (l4.secure_stock, l4.community_stock) == (Stock.HIGH, Stock.NONE)
    assert l4.is_available
    assert l4.checked_at == checked_at


@pytest.mark.parametrize(
    ("seconds", "usd"), [(0, "0"), (-1, "0"), (3600, "0.36"), (0.1, "0.0001"), (90.5, "0.0091")]
)
def test_begun_seconds_are_paid(seconds: float, usd: str) -> None:
    assert compute_cost(Decimal("0.36"), seconds) == Decimal(usd)


CPUS = [make_cpu("cpu5c", "0.035"), make_cpu("cpu3c", "0.03")]


def test_the_cheapest_cpu_comes_first_with_the_price_of_all_its_vcpus() -> None:
    selection = choose_cpu(CPUS, vcpus=4)
    assert [(each.cpu, each.vcpus, each.gpu) for each in selection.candidates] == [
        ("cpu3c", 4, None),
        ("cpu5c", 4, None),
    ]
    assert [each.price_per_hour for each in selection.candidates] == [
        Decimal("0.12"),
        Decimal("0.14"),
    ]
    assert (selection.candidates[0].cloud, selection.candidates[0].memory_gb) == (SECURE, 8)


def test_a_cpu_is_tried_in_each_data_centre_that_is_wanted() -> None:
    selection = choose_cpu(CPUS[1:], vcpus=4, data_centers=("EU-RO-1", "US-KS-2"))
    assert [each.data_center for each in selection.candidates] == ["EU-RO-1", "US-KS-2"]


@pytest.mark.parametrize(
    ("criteria", "reason", "may_wait"),
    [
        ({"max_price": Decimal("0.1")}, "CPU cpu3c costs $0.12/h, over the ceiling", False),
        ({"vcpus": 64}, "CPU cpu3c has 2 to 32 vCPUs, 64 are wanted", False),
        ({"offers": []}, "RunPod shows no CPU to rent", True),
    ],
)
def test_why_there_is_no_cpu_is_told(criteria: dict, reason: str, may_wait: bool) -> None:
    selection = choose_cpu(**{"offers": CPUS, "vcpus": 4} | criteria)
    assert selection.candidates == ()
    assert selection.reason.startswith(reason)
    assert selection.may_wait is may_wait


@pytest.mark.parametrize(
    "hardware",
    [{}, {"gpu": "g", "cpu": "c", "vcpus": 4}, {"cpu": "c"}, {"gpu": "g", "vcpus": 4}],
)
def test_an_order_is_of_a_gpu_or_of_so_many_vcpus(hardware: dict) -> None:
    with pytest.raises(ValueError, match=r"GPU|vCPUs"):
        PodOrder(name="n", image="i", **hardware)
