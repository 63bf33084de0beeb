"""The command about costs, against the real API."""

from __future__ import annotations

import json

import pytest

from fakes.api import NOW
from fakes.spending import Spending


@pytest.fixture
def spending(airflow):
    return Spending(airflow.meter, airflow.budgets, NOW)


def test_a_user_is_shown_his_own_costs_to_the_cent(run, spending):
    spending.rent("s-1", seconds=12_345, bill="1.2349")
    spending.rent("s-1", seconds=100, is_useful=False)
    spending.rent("s-9", user="other")

    done = run("costs")

    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["Submission", "s-1", "total"]
    assert lines[1].split()[1:8] == ["engineer", "2", "3:27:25", "$1.24", "$1.23", "$0.01", "$0.00"]
    assert "$1.23 for 1 of 2" in lines[1]
    assert "s-9" not in done.output
    assert "no price" in done.output


def test_json_is_what_the_api_answers(run, spending):
    spending.rent(started_at=NOW.replace(month=2), seconds=10)

    done = run("costs", "--month", "2026-02", "--by", "gpu", "--json")
    document = json.loads(done.output)

    assert (document["month"], document["by"]) == ("2026-02", "gpu")
    assert document["rows"][0]["usd"] == "0.001000"


def test_an_admin_asks_for_one_submitter(run, spending):
    spending.rent("s-1")
    spending.rent("s-9", user="other")

    done = run("costs", "--of", "other", "--as", "admin")

    assert "s-9" in done.output
    assert "s-1" not in done.output
    refused = run("costs", "--of", "other")
    assert (refused.exit_code, "admins" in refused.output) == (1, True)


@pytest.mark.parametrize(
    ("option", "value"), [("--month", "november"), ("--by", "month"), ("--of", "")]
)
def test_a_wrong_option_is_named(run, option, value):
    done = run("costs", option, value)

    assert done.exit_code == 2
    field = "user" if option == "--of" else option.lstrip("-")
    assert f"{field}:" in done.output


def test_a_month_without_pods_says_so(run):
    done = run("costs", "--month", "2020-01")

    assert done.exit_code == 0
    assert "No pod was rented in 2020-01." in done.output


def test_what_others_have_named_moves_no_cursor(run, spending):
    spending.rent("s-1", gpu="\x1b[2J\x1b]0;x\x07L4\nfake line")

    done = run("costs", "--by", "gpu")

    assert "\x1b" not in done.output
    assert not any(line.startswith("fake line") for line in done.output.splitlines())


def test_a_record_that_makes_no_sense_is_told_and_fails(run, airflow, monkeypatch):
    from touchstone.core.records.stored import RecordUnreadable

    def find_odd(*_args, **_options):
        raise RecordUnreadable("odd")

    monkeypatch.setattr(airflow.meter, "_query", find_odd)
    done = run("costs")

    assert done.exit_code == 1
    assert "n/a: a record of money makes no sense" in done.output
