from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal

from fastapi import FastAPI
from fastapi.testclient import TestClient

from fakes.api import NOW
from touchstone.core.offers import GpuRow, Stock
from touchstone.ui.routes.gpus import get_gpus

ROW = GpuRow(
    gpu="NVIDIA GeForce RTX 4090",
    name="RTX 4090",
    memory_gb=24,
    secure_price=Decimal("0.69"),
    community_price=None,
    secure_stock=Stock.LOW,
    community_stock=Stock.NONE,
    checked_at=NOW,
)


def test_the_models_that_are_there_now_are_listed_with_price_and_stock(
    app: FastAPI, engineer: TestClient
) -> None:
    app.dependency_overrides[get_gpus] = lambda: lambda: (ROW,)
    answer = engineer.get("/api/v1/gpus").json()
    assert (answer["is_connected"], answer["checked_at"]) == (True, NOW.isoformat())
    assert answer["gpus"] == [
        {
            "gpu": "NVIDIA GeForce RTX 4090",
            "name": "RTX 4090",
            "memory_gb": 24,
            "secure_price": "0.69",
            "community_price": None,
            "secure_stock": "LOW",
            "community_stock": "NONE",
            "is_available": True,
        }
    ]


def test_an_installation_without_runpod_says_so(app: FastAPI, engineer: TestClient) -> None:
    app.dependency_overrides[get_gpus] = lambda: lambda: None
    answer = engineer.get("/api/v1/gpus").json()
    assert (answer["is_connected"], answer["gpus"]) == (False, [])


def test_what_pods_have_cost_is_shown_with_the_task_and_the_submission(
    engineer: TestClient, make_submission: Callable[..., str], make_task: Callable[..., None]
) -> None:
    ordered = (NOW - timedelta(hours=1)).isoformat()
    pod = {"name": "n", "id": "p-2", "ordered_at": ordered, "price_per_hour": "0.69", "usd": None}
    ended = {"fence": 1, "pod": pod | {"id": "p-1", "usd": "0.1234", "gone_at": ordered}}
    make_submission()
    make_task(fence=2, attempt=2, attempts=[ended], pod=pod)
    make_task(task_id="i20")

    answer = engineer.get("/api/v1/submissions/s-1").json()

    costs = {task["task_id"]: task["cost"] for task in answer["tasks"]}
    assert costs == {"i5": {"usd": "0.8134", "is_open": True}, "i20": None}
    assert answer["submission"]["cost"] == {"usd": "0.8134", "is_open": True}
