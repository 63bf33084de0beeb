from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from touchstone.stack.credentials import Credentials, generate_credentials
from touchstone.stack.layout import LocalServer, Ports, Runtime, StackRecord, StatePaths, Urls
from touchstone_agent.protocol.envelope import generate_key


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    paths = StatePaths(root=tmp_path / "state")
    paths.make()
    return paths


@pytest.fixture
def record(paths: StatePaths) -> StackRecord:
    return StackRecord(
        stack_id="abc123",
        env="dev",
        servers=(LocalServer(name="local", slots=2),),
        ports=Ports(
            airflow=20001, execution=20004, mlflow=20002, ministack=20003, dispatcher=20005
        ),
        urls=Urls(
            airflow="http://127.0.0.1:20001",
            execution="http://127.0.0.1:20004",
            mlflow="http://127.0.0.1:20002",
            ministack="http://127.0.0.1:20003",
            dispatcher="http://127.0.0.1:20005",
        ),
        region="us-west-2",
        socket=paths.root / "supervisor.sock",
        runtime=Runtime.DOCKER,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.fixture(scope="session")
def credentials() -> Credentials:
    made = generate_credentials()
    return made.model_copy(update={"agents": {"local": generate_key()}})
