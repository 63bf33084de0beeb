"""The application with stores in memory, and clients of each kind of user."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

# Airflow writes its configuration on import; never into the home of whoever runs the tests.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="touchstone-airflow-"))

import pytest
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import get_user
from fastapi import FastAPI
from fastapi.testclient import TestClient

from fakes.api import NOW, FakeCancelService
from fakes.apps import share_app
from fakes.money import FakeBudgets, FakeMeter
from fakes.outlook import join_rio, publish_outlook
from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.submissions import build_submission
from fakes.tasks import build_spec, build_task
from touchstone.core.eligibility import Resource
from touchstone.settings import Settings
from touchstone.ui import dependencies
from touchstone.ui.app import build_app
from touchstone.ui.auth import TouchstoneAuthManager
from touchstone.ui.waiting import QueueReader


@pytest.fixture
def settings() -> Settings:
    return Settings(content_bytes=200_000)


@pytest.fixture
def records(settings: Settings) -> FakeRecordStore:
    return FakeRecordStore(settings)


@pytest.fixture
def objects() -> FakeObjectStore:
    return FakeObjectStore()


@pytest.fixture
def cancel_service() -> FakeCancelService:
    return FakeCancelService()


@pytest.fixture
def meter(settings: Settings) -> FakeMeter:
    return FakeMeter(settings)


@pytest.fixture
def budgets(settings: Settings) -> FakeBudgets:
    return FakeBudgets(settings)


@pytest.fixture
def overrides(
    settings: Settings,
    records: FakeRecordStore,
    objects: FakeObjectStore,
    cancel_service: FakeCancelService,
    meter: FakeMeter,
    budgets: FakeBudgets,
) -> dict[Callable[..., Any], Callable[..., Any]]:
    # The real auth manager decides; only who asks is made up, in `login`.
    authority = TouchstoneAuthManager()
    return {
        dependencies.read_settings: lambda: settings,
        dependencies.get_records: lambda: records,
        dependencies.get_objects: lambda: objects,
        dependencies.get_meter: lambda: meter,
        dependencies.get_budgets: lambda: budgets,
        dependencies.get_queue_reader: lambda: QueueReader(objects, settings),
        dependencies.get_cancel_service: lambda: cancel_service,
        dependencies.get_clock: lambda: lambda: NOW,
        dependencies.get_authority: lambda: authority,
    }


@pytest.fixture
def app(overrides: dict[Callable[..., Any], Callable[..., Any]]) -> FastAPI:
    app = share_app(build_app)
    app.dependency_overrides |= overrides
    return app


@pytest.fixture
def anonymous(app: FastAPI) -> TestClient:
    return TestClient(app)


@pytest.fixture
def login(app: FastAPI) -> Callable[..., TestClient]:
    """Return a function that makes a client of a user; the latest one asks."""

    def make(name: str = "engineer", role: str = "user") -> TestClient:
        user = SimpleAuthManagerUser(username=name, role=role)
        app.dependency_overrides[get_user] = lambda: user
        return TestClient(app)

    return make


@pytest.fixture
def engineer(login: Callable[..., TestClient]) -> TestClient:
    return login()


@pytest.fixture
def make_submission(records: FakeRecordStore) -> Callable[..., str]:
    """Return a function that writes a submission of ``engineer`` and returns its id."""

    def make(submission_id: str = "s-1", **fields: Any) -> str:
        told = {"status": "running", "submitted_by": "engineer", "created_at": NOW.isoformat()}
        records.create_submission(build_submission(submission_id, **(told | fields)))
        return submission_id

    return make


@pytest.fixture
def make_task(records: FakeRecordStore) -> Callable[..., None]:
    """Return a function that writes a task with one running attempt."""

    def make(submission_id: str = "s-1", task_id: str = "i5", **fields: Any) -> None:
        told = {
            "status": "running",
            "phase": "running",
            "attempt": 1,
            "fence": 1,
            "running_at": (NOW - timedelta(seconds=75)).isoformat(),
        }
        spec = build_spec(submission_id=submission_id, task_id=task_id)
        records.create_task(build_task(spec, **(told | fields)))

    return make


@pytest.fixture
def see_fleet(
    objects: FakeObjectStore, settings: Settings, records: FakeRecordStore
) -> Callable[..., None]:
    """Return a function that publishes what a dispatcher sees: one server; it does so once."""
    join_rio(records)

    def publish(*others: Resource, at: datetime = NOW, free: int = 2) -> None:
        publish_outlook(objects, settings, *others, at=at, free=free)

    publish()
    return publish


@pytest.fixture
def accepted(make_submission: Callable[..., str]) -> Callable[..., str]:
    """Return a function that writes a submission of ``engineer`` that may be scheduled."""

    def make(submission_id: str = "s-1", **fields: Any) -> str:
        told = {
            "status": "accepted",
            "system": "feature_set",
            "accepted_at": NOW.isoformat(),
            "run_ids": [submission_id],
        }
        return make_submission(submission_id, **(told | fields))

    return make
