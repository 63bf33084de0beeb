"""The command line against Touchstone's real API, beside as much of Airflow's as it uses."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="touchstone-airflow-"))

import httpx
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner, Result

from fakes.api import PASSWORDS, URL, FakeAirflow, FakeCancelService
from fakes.stores import FakeObjectStore, FakeRecordStore
from touchstone import cli
from touchstone.client.api import Client
from touchstone.settings import Settings


@pytest.fixture
def airflow(tmp_path: Path) -> FakeAirflow:
    settings = Settings(content_bytes=200_000, git_hosts=["*"])
    return FakeAirflow(
        records=FakeRecordStore(settings),
        objects=FakeObjectStore(),
        cancel_service=FakeCancelService(),
        settings=settings,
    )


@pytest.fixture
def transport(airflow: FakeAirflow) -> httpx.BaseTransport:
    # The test client's own transport runs the application without any socket.
    return TestClient(airflow.build(), base_url=URL)._transport


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state directory as `touchstone up` leaves it, and nothing else in the environment."""
    for name in list(os.environ):
        if name.startswith("TOUCHSTONE_"):
            monkeypatch.delenv(name)
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "stack.json").write_text(json.dumps({"urls": {"airflow": URL}}))
    (folder / "credentials.json").write_text(json.dumps({"passwords": PASSWORDS}))
    monkeypatch.setenv("TOUCHSTONE_STATE_DIR", str(folder))
    return folder


@pytest.fixture
def run(
    state_dir: Path, transport: httpx.BaseTransport, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Return a function that runs one command line."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    make_client = Client.__init__

    def with_transport(self: Client, *args: Any, **options: Any) -> None:
        make_client(self, *args, **options | {"transport": transport})

    monkeypatch.setattr(Client, "__init__", with_transport)

    def invoke(*args: str, columns: int = 200) -> Result:
        return CliRunner().invoke(cli.app, list(args), env={"COLUMNS": str(columns)})

    return invoke
