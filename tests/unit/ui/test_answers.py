"""What the API answers, byte for byte: programs read it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fakes.api import NOW
from fakes.pools import FakePools
from fakes.servers import store_server
from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.tasks import build_spec, build_task
from touchstone.core.offers import GpuRow, Stock
from touchstone.core.queue import QUEUE_KEY, PublishedServer, Queue, Trouble, WaitingTask
from touchstone.core.records.notes import Letters, ReaperNote, RentalNote
from touchstone.settings import Settings
from touchstone.ui.routes.fleet import get_pools
from touchstone.ui.routes.gpus import get_gpus

ANSWERS = Path(__file__).parent / "answers"
FILE = 'schema_version = 1\n[servers.rio]\nslots = 2\n[servers.far]\nenv = "other"\n'
GPU = GpuRow(
    gpu="NVIDIA L4",
    name="L4",
    memory_gb=24,
    secure_price=Decimal("0.390"),
    community_price=None,
    secure_stock=Stock.HIGH,
    community_stock=Stock.NONE,
    checked_at=NOW,
)
POD = {
    "name": "touchstone-dev-s-1-i5-1-1",
    "id": "p1",
    "gpu": "NVIDIA L4",
    "ordered_at": NOW.isoformat(),
    "price_per_hour": "0.39",
    "usd": "0.0130",
    "gone_at": NOW.isoformat(),
}
REQUESTS: list[tuple[str, str, str, dict[str, Any] | None]] = [
    ("engineer", "GET", "health", None),
    ("engineer", "GET", "gpus", None),
    ("engineer", "GET", "queue", None),
    ("engineer", "GET", "submissions", None),
    ("engineer", "GET", "submissions/s-1", None),
    ("engineer", "GET", "submissions/s-1/results", None),
    ("engineer", "GET", "submissions/s-1/tasks/i5", None),
    ("engineer", "GET", "submissions/s-1/tasks/i5/log", None),
    ("engineer", "POST", "submissions/s-1/cancel", {"reason": "typo"}),
    ("engineer", "POST", "submissions/s-1/retract", {}),
    ("chief", "GET", "queue", None),
    ("chief", "GET", "servers", None),
    ("chief", "GET", "servers/rio", None),
    ("chief", "GET", "fleet", None),
    ("chief", "POST", "fleet/check", {"text": FILE}),
    ("chief", "POST", "fleet/apply", {"text": FILE}),
    ("chief", "POST", "servers/rio/drain", {}),
    ("chief", "POST", "servers/rio/attach", {"slots": 1}),
    ("chief", "POST", "placements/pause", {"reason": "möbel"}),
    ("chief", "POST", "placements/resume", {}),
]


@pytest.fixture
def world(
    app: FastAPI, records: FakeRecordStore, objects: FakeObjectStore, settings: Settings
) -> FakePools:
    pools = FakePools()
    pools.create_pool("rio", 2, "")
    pools.create_pool("rio_validation", 1, "")
    pools.create_pool("runpod", 2, "")
    app.dependency_overrides[get_pools] = lambda: pools
    app.dependency_overrides[get_gpus] = lambda: lambda: (GPU, replace(GPU, name="L4 2"))
    store_server(
        records,
        {
            "server": "rio",
            "heartbeat_at": NOW.isoformat(),
            "more": [1, 2.0, None],
            "inventory": {
                "slots": 2,
                "memory_mib": 1024,
                "gpus": [{"name": "RTX 3090", "memory_mib": 24576, "driver": "550"}] * 2,
            },
            "holds": {"disk": {"until": "2026-03-01T12:30:00+00:00", "reason": "full"}},
        },
    )
    store_server(records, {"server": "odd", "heartbeat_at": "no time"})
    records.put_note(Letters(queues={"evt-dev.fifo": 2}))
    records.put_note(RentalNote.load({"is_connected": True, "balance_usd": "49.5"}))
    records.put_note(ReaperNote.load({"proof": {"at": NOW.isoformat(), "seen": 5, "ours": 3}}))
    waiting = WaitingTask(
        submission_id="s-1",
        task_id="i20",
        submitted_by="engineer",
        position=1,
        of=2,
        reason="all slots are taken",
        since=NOW,
        p50=NOW,
    )
    server = PublishedServer(
        name="rio",
        platform="on-prem",
        is_alive=True,
        slots=2,
        free=0,
        validation_slots=1,
        validation_free=1,
        lingering=1,
    )
    trouble = Trouble(what="place", items=2, times=3, item="s-1/i5", reason="odd", at=NOW)
    others = waiting.model_copy(update={"submission_id": "s-9", "submitted_by": "x", "p50": None})
    queue = Queue(
        at=NOW,
        dispatcher="host/1",
        waiting=(waiting, others),
        servers=(server,),
        troubles=(trouble,),
        tick_seconds=0.25,
    )
    objects.put(settings.content_bucket, QUEUE_KEY, queue.model_dump_json().encode())
    return pools


@pytest.mark.parametrize(
    ("user", "method", "path", "body"), REQUESTS, ids=[f"{r[0]} {r[1]} {r[2]}" for r in REQUESTS]
)
def test_an_answer_is_what_it_was(
    login: Callable[..., TestClient],
    records: FakeRecordStore,
    make_submission: Callable[..., str],
    make_task: Callable[..., None],
    world: FakePools,
    user: str,
    method: str,
    path: str,
    body: dict[str, Any] | None,
) -> None:
    results = [{"task_id": "i5", "interval": 5, "status": "success", "metrics": {"net_sharpe": 1}}]
    make_submission(notes="ein Vers…uch", score=1.0, results=results, remarks=["a.pyc"])
    make_task(percent=50, metrics={"loss": 0.125}, pod=POD, published={"metrics": {"mse": 1e-07}})
    spec = build_spec(submission_id="s-1", task_id="i20")
    records.create_task(build_task(spec, status="queued"))

    answer = login(user, "admin" if user == "chief" else "user").request(
        method, f"/api/v1/{path}", json=body
    )

    name = f"{user} {method} {path}".replace("/", "_").replace(" ", "-")
    assert answer.status_code == 200, answer.text
    # A field that is added to the schedule is none of this test's business.
    content = re.sub(
        rb'"config":\{.*?"pods":null\}', b'"config":"its configuration"', answer.content
    )
    assert content == (ANSWERS / f"{name}.json").read_bytes()
