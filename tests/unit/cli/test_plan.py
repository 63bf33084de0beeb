from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from typer.testing import Result

from fakes.api import NOW, FakeAirflow
from fakes.servers import store_server
from touchstone.core.durations import Duration, DurationKey
from touchstone.core.eligibility import Capability, Resource
from touchstone.core.outlook import OUTLOOK_KEY, build_outlook
from touchstone.core.placement import Snapshot
from touchstone_agent.protocol.messages import SlotClass

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def fleet(airflow: FakeAirflow) -> None:
    store_server(airflow.records, {"server": "rio", "inventory": {"slots": 1, "gpus": [{}]}})
    rio = Resource(
        name="rio",
        slots=1,
        free=1,
        capability=Capability(cuda=True),
        gpu_price_per_hour=0.5,
    )
    known = (
        DurationKey(kind=SlotClass.TRAINING),
        Duration(p50_seconds=3600, p90_seconds=7200),
    )
    outlook = build_outlook(
        Snapshot(now=NOW, resources=[rio]), stretch=1.0, durations=[known]
    ).model_dump_json()
    airflow.objects.put(airflow.settings.content_bucket, OUTLOOK_KEY, outlook.encode())
    for submission_id in ("s-1", "s-2"):
        airflow.add_submission(submission_id, accepted_at=NOW.isoformat(), system="feature_set")


def test_a_plan_is_shown_and_starts_nothing(run: Run, airflow: FakeAirflow) -> None:
    result = run("plan", "s-1", "--intervals", "1,5")
    assert result.exit_code == 0, result.output
    for word in ("i1", "rio", "waits, place 1", "rio is full", "2026-03-01 13:00:00"):
        assert word in result.stdout
    assert "price $1.00 to $2.00" in result.stdout
    assert airflow.runs == {}


def test_as_json_it_is_the_apis_answer(run: Run) -> None:
    result = run("plan", "s-1", "s-2", "--intervals", "5", "--seed", "4", "--json")
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    assert [(task["submission_id"], task["seed"]) for task in plan["tasks"]] == [
        ("s-1", 4),
        ("s-2", 4),
    ]
    assert plan["tasks"][0]["usd_low"] == "0.5000"


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ((), "intervals"),
        (("--intervals", "0"), "intervals"),
        (("--intervals", "5", "--needs", "allowed_hosts=gone"), "allowed_hosts"),
        (("--intervals", "5", "--event", "nowhere"), "event"),
        (("--intervals", "5", "--baseline", "none-1"), "baseline"),
    ],
)
def test_what_scheduling_would_refuse_is_refused_by_its_field(
    run: Run, arguments: tuple[str, ...], field: str
) -> None:
    result = run("plan", "s-1", *arguments)
    assert result.exit_code == 2
    assert f"{field}: " in result.output


def test_every_option_of_schedule_is_one_of_plan(run: Run) -> None:
    words = [
        {word.rstrip(",") for word in run(name, "--help").stdout.split() if word.startswith("--")}
        for name in ("schedule", "plan")
    ]
    assert words[0] - words[1] == {"--wait"}
    assert words[1] - words[0] == set()


def test_a_plan_in_folds_says_what_each_training_is_judged_on(run: Run) -> None:
    result = run("plan", "s-1", "--intervals", "5", "--folds", "2005-01-01,2010-01-01")
    assert result.exit_code == 0, result.output
    for word in ("Judged on", "i5-f0", "2005-01-01 to 2009-12-31", "i5-f1", "from 2010-01-01"):
        assert word in result.stdout
    assert "Judged on" not in run("plan", "s-1", "--intervals", "5").stdout


def test_folds_that_overlap_are_refused_by_their_field(run: Run) -> None:
    result = run(
        "plan", "s-1", "--intervals", "5", "--folds", "2010-01-01", "--folds", "2005-01-01"
    )
    assert result.exit_code == 2
    assert "folds: 2005-01-01 does not come after 2010-01-01" in result.output
