"""What a training computed on, and what its GPU was good for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.tasks import build_task
from touchstone.core.gpus import describe_device, describe_use, find_gpu_use
from touchstone.core.records.tasks import Task

BEGAN = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ENDED = BEGAN + timedelta(hours=2)
NOW = BEGAN + timedelta(hours=3)


def make_record(utilisation=50, **fields):
    """Return a training that held its server's GPU for two hours."""
    gpu = None if utilisation is None else {"mean_utilisation_percent": utilisation}
    held = {
        "phase": "uploaded",
        "gpus": 1,
        "intent_at": BEGAN.isoformat(),
        "exited_at": ENDED.isoformat(),
        "placement": {"gpus": 1, "gpu_price_per_hour": 0.4},
        "verdict": {"usage": {"gpu": gpu}},
        "pod": None,
    }
    return build_task(**(held | fields))


def make_pod(**fields):
    return {
        "id": "p1",
        "name": "n",
        "gpu": "NVIDIA L4",
        "ordered_at": BEGAN.isoformat(),
        "price_per_hour": "0.5",
        "seconds": None,
        "usd": None,
        **fields,
    }


def test_a_useful_hour_costs_what_was_paid_for_all_of_them():
    use = find_gpu_use(make_record(25), NOW)

    assert use.dump() == {
        "held_hours": 2.0,
        "utilisation_percent": 25,
        "useful_hours": 0.5,
        "usd": "0.8000",
        "usd_per_useful_hour": "1.6000",
        "is_open": False,
        "note": "used 25 % of its GPU in 2.00 h, $1.60 per useful hour",
    }


def test_of_a_server_without_a_price_the_hours_are_told_and_no_cost():
    use = find_gpu_use(make_record(placement={"gpus": 1}), NOW)

    assert (use.useful_hours, use.usd, use.usd_per_useful_hour) == (1.0, None, None)
    assert use.list_metrics() == {
        "touchstone.gpu.held_hours": 2.0,
        "touchstone.gpu.utilisation_percent": 50.0,
        "touchstone.gpu.useful_hours": 1.0,
    }


def test_why_so_little_of_it_was_used_is_told_in_the_runners_words():
    gpu = {"mean_utilisation_percent": 3, "note": "the model has 4,000 parameters"}

    use = find_gpu_use(make_record(verdict={"usage": {"gpu": gpu}}), NOW)

    assert describe_use(use).endswith(": the model has 4,000 parameters")


def test_who_shares_a_gpu_pays_for_a_share_of_it():
    shared = {"gpus": 1, "gpu_shares": 2, "gpu_price_per_hour": 0.4}

    use = find_gpu_use(make_record(25, placement=shared), NOW)

    assert (use.held_hours, use.usd) == (1.0, Decimal("0.4"))


def test_a_pod_is_paid_until_it_is_gone_by_its_meter():
    pod = make_pod(seconds=7200, usd="0.9876")

    use = find_gpu_use(make_record(gpus=None, placement=None, pod=pod), NOW)

    assert (use.held_hours, str(use.usd), use.is_open) == (2.0, "0.9876", False)
    assert use.list_metrics()["touchstone.gpu.usd_per_useful_hour"] == pytest.approx(0.9876)


def test_a_pod_that_is_still_there_costs_more_by_the_hour():
    use = find_gpu_use(make_record(None, gpus=None, placement=None, pod=make_pod()), NOW)

    assert (use.held_hours, use.is_open, use.dump()["usd"]) == (3.0, True, "1.5000")
    assert describe_use(use) == "held a GPU for 3.00 h so far"


def test_a_gpu_that_computed_nothing_has_no_useful_hour_to_divide_by():
    use = find_gpu_use(make_record(0), NOW)

    assert (use.useful_hours, use.usd_per_useful_hour) == (0, None)
    assert describe_use(use) == "used 0 % of its GPU in 2.00 h: a CPU slot would do"


@pytest.mark.parametrize(("percent", "is_told"), [(3.4, True), (9.9, True), (10, False)])
def test_who_uses_next_to_nothing_of_a_gpu_is_told_so(percent, is_told):
    note = describe_use(find_gpu_use(make_record(percent), NOW))

    assert note.endswith(": a CPU slot would do") is is_told
    assert note.startswith(f"used {int(percent)} % of its GPU in 2.00 h")


@pytest.mark.parametrize(
    "fields",
    [
        {"gpus": 0, "placement": {"gpus": 0}},
        {"gpus": None, "placement": None},
        {"kind": "validation"},
        {"phase": "rejected"},
        {"intent_at": None},
        {"gpus": None, "pod": make_pod(gpu=None)},
        {"gpus": None, "pod": make_pod(id=None)},
    ],
    ids=["cpu", "never placed", "validation", "refused", "old", "cpu pod", "order"],
)
def test_what_held_no_gpu_has_made_nothing_of_one(fields):
    assert find_gpu_use(make_record(**fields), NOW) is None


def test_a_record_from_before_tells_what_it_can():
    stored = make_record(None, verdict=None).dump()
    del stored["gpus"]

    use = find_gpu_use(Task.load(stored), NOW)

    assert (use.held_hours, use.utilisation_percent, use.useful_hours) == (2.0, None, None)
    assert describe_use(use) == "held a GPU for 2.00 h"


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(10**6), 10**9))
def test_whatever_a_driver_tells_the_figures_make_sense(percent, seconds):
    ended = (BEGAN + timedelta(seconds=seconds)).isoformat()

    use = find_gpu_use(make_record(percent, exited_at=ended), NOW)

    assert 0 <= use.utilisation_percent <= 100
    assert 0 <= use.useful_hours <= use.held_hours
    assert use.dump()["note"]


# --- the device ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "told"),
    [
        (
            {"platform": "gpu", "name": "NVIDIA L4", "driver": "550.54"},
            "on NVIDIA L4 (driver 550.54)",
        ),
        ({"platform": "gpu", "name": "NVIDIA L4"}, "on NVIDIA L4"),
        ({"platform": "cpu", "name": "cpu", "wanted": "none"}, "on the CPU"),
        (
            {"platform": "cpu", "wanted": "preferred"},
            "on the CPU (a GPU was preferred, none seen)",
        ),
        (
            {"platform": "cpu", "wanted": "preferred", "note": "no GPU: JAX sees none"},
            "on the CPU (no GPU: JAX sees none)",
        ),
        ({}, ""),
        ({"platform": "gpu"}, ""),
        ({"platform": None, "name": None, "driver": 7}, ""),
    ],
)
def test_the_device_is_told_in_words(device, told):
    assert describe_device(device) == told
