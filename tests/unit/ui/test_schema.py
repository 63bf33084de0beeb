"""Whatever a program sends, the API answers as its own description says, and never breaks."""

from __future__ import annotations

import pytest
import schemathesis
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import get_user
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as examined
from hypothesis import strategies as st
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_schema_conformance,
    status_code_conformance,
)

from campaigns import ALL_CAMPAIGNS
from fakes.api import FakeAirflow, FakeCancelService
from fakes.pools import FakePools
from fakes.sending import FakeRuns, replace_airflow
from fakes.stores import FakeObjectStore, FakeRecordStore
from touchstone.settings import Settings
from touchstone.ui.app import build_app
from touchstone.ui.routes.fleet import get_pools

EXAMPLES = 200 if ALL_CAMPAIGNS else 8
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def build_api(role):
    """Return the application with something in its stores, as a user of a role sees it."""
    settings = Settings(content_bytes=200_000)
    airflow = FakeAirflow(
        records=FakeRecordStore(settings),
        objects=FakeObjectStore(),
        cancel_service=FakeCancelService(),
        settings=settings,
    )
    airflow.add_submission("s-1")
    # One of its own: those of all roles are there at a time.
    app = airflow.replace(build_app())
    app.dependency_overrides |= {
        get_user: lambda: SimpleAuthManagerUser(username="engineer", role=role),
        get_pools: lambda: FakePools(),
        **replace_airflow(FakeRuns()),
    }
    return app


def list_operations(role):
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", build_api(role))
    for found in schema.get_all_operations():
        operation = found.ok()
        yield f"{role} {operation.method.upper()} {operation.path}", operation


OPERATIONS = dict(each for role in ("admin", "user") for each in list_operations(role))


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_answers_as_it_is_described(name):
    operation = OPERATIONS[name]

    @examined(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        case=st.one_of(
            operation.as_strategy(),
            operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE),
        )
    )
    def examine(case):
        # As it is mounted: the description's server is Airflow's side of that.
        case.operation.base_url = None
        case.call_and_validate(base_url="http://testserver", checks=CHECKS)

    examine()
