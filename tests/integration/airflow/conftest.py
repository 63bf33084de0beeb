"""Airflow's metadata on each database that it may be on; and in memory, to keep that one honest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from airflow.models.dag import DagModel
from airflow.models.dag_version import DagVersion
from airflow.models.dagbundle import DagBundleModel
from airflow.models.serialized_dag import SerializedDagModel
from airflow.sdk import DAG
from airflow.sdk.bases.operator import BaseOperator
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from airflow.utils.session import create_session
from sqlalchemy import delete

from fakes.airflow_pools import FakeAirflow
from integration.airflow.database import RealAirflow, migrate, use_database
from integration.airflow.postgres import Postgres, find_programs
from touchstone.airflow_db.rows import DAG_ID, EVALUATE, TRAINING

BUNDLE = "tests"


def pytest_collection_modifyitems(items):
    for item in items:
        if "/tests/integration/airflow/" in str(item.path):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL server."""
    programs = find_programs()
    if programs is None:
        pytest.skip("there is no PostgreSQL here: apt-get install postgresql")
    server = Postgres(programs)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def postgresql_url(postgres) -> str:
    """Airflow's tables on PostgreSQL."""
    return migrate(postgres.create_database("airflow"))


@pytest.fixture(scope="session")
def sqlite_url(tmp_path_factory) -> str:
    """Airflow's tables on SQLite, which waits for a lock only as long as a test has patience."""
    return migrate(f"sqlite:///{tmp_path_factory.mktemp('airflow')}/airflow.db?timeout=0.5")


@contextmanager
def use_real(request, kind: str) -> Iterator[RealAirflow]:
    with use_database(request.getfixturevalue(f"{kind}_url")):
        airflow = RealAirflow()
        airflow.empty()
        yield airflow


@pytest.fixture(params=["sqlite", "postgresql"])
def real_airflow(request) -> Iterator[RealAirflow]:
    """Airflow on each real database in turn, with no pools but our own."""
    with use_real(request, request.param) as airflow:
        yield airflow


@pytest.fixture
def postgresql_airflow(request) -> Iterator[RealAirflow]:
    """Airflow on PostgreSQL."""
    with use_real(request, "postgresql") as airflow:
        yield airflow


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def airflow(request) -> Iterator[FakeAirflow | RealAirflow]:
    """Airflow in memory, as unit tests have it, and on each real database."""
    if request.param == "memory":
        yield FakeAirflow(lambda: datetime.now(UTC))
        return
    with use_real(request, request.param) as airflow:
        yield airflow


@pytest.fixture
def with_dag(real_airflow):
    """Airflow, and a DAG that ends as ours does: a task that is run however the others ended."""
    with DAG(DAG_ID, schedule=None, start_date=datetime(2024, 1, 1, tzinfo=UTC)) as dag:
        training = BaseOperator(task_id=TRAINING)
        training >> BaseOperator(task_id=EVALUATE, trigger_rule="all_done")
    with create_session() as session:
        session.add(DagBundleModel(name=BUNDLE))
        session.flush()
        session.add(DagModel(dag_id=DAG_ID, bundle_name=BUNDLE, is_stale=False, fileloc="dag.py"))
        session.flush()
        SerializedDagModel.write_dag(
            LazyDeserializedDAG.from_dag(dag), bundle_name=BUNDLE, session=session
        )
    yield real_airflow
    real_airflow.empty()
    with create_session() as session:
        for model in (SerializedDagModel, DagVersion, DagModel, DagBundleModel):
            session.execute(delete(model))
