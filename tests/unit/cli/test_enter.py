from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

from fakes.api import FakeAirflow
from fakes.tasks import build_spec, build_task

Run = Callable[..., Result]
POD = {
    "name": "touchstone-dev-s-1-i5-1-1",
    "id": "p1x2",
    "gpu": "NVIDIA L4",
    "cloud": "SECURE",
    "data_center": "EU-RO-1",
    "ordered_at": "2026-03-01T12:00:00+00:00",
    "price_per_hour": "0.39",
    "usd": None,
    "address": "root@192.0.2.7:40022",
}


@pytest.fixture
def add(airflow: FakeAirflow) -> Callable[..., None]:
    airflow.add_submission(status="running")

    def add_one(task_id: str, **fields: Any) -> None:
        defaults = {"container": f"touchstone-dev-s-1-{task_id}-1-1", "server": "rio"}
        told = {"fence": 1, "status": "running", **defaults, **fields}
        airflow.records.create_task(build_task(build_spec(task_id=task_id), **told))

    return add_one


def test_a_container_is_entered_on_its_server(run: Run, add: Callable[..., None]) -> None:
    add("i1", status="success")
    add("i5")
    result = run("enter", "s-1")
    assert result.stdout == "docker exec -ti touchstone-dev-s-1-i5-1-1 bash\n"
    assert "i5: on server rio" in result.stderr


def test_a_pod_is_entered_at_its_address(run: Run, add: Callable[..., None]) -> None:
    add("i5", server="runpod", pod=POD)
    assert run("enter", "s-1", "i5").stdout == "ssh -p 40022 root@192.0.2.7\n"
    assert json.loads(run("enter", "s-1", "--json").stdout)["task"] == "i5"


@pytest.mark.parametrize(
    ("fields", "arguments", "told"),
    [
        ({"status": "queued"}, (), "nothing runs: i5 is queued"),
        ({"status": "queued"}, ("i5",), "nothing runs: i5 is queued"),
        ({}, ("i7",), "there is no task i7; its tasks are: i5"),
        ({"pod": POD | {"address": None}}, (), "nobody has reached pod p1x2 so far"),
    ],
)
def test_where_there_is_no_way_in_it_says_why(
    run: Run, add: Callable[..., None], fields: dict[str, Any], arguments: tuple[str], told: str
) -> None:
    add("i5", **fields)
    result = run("enter", "s-1", *arguments)
    assert result.exit_code != 0
    assert told in result.stderr
