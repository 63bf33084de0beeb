"""What pods have cost, as the API answers it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fakes.api import NOW
from fakes.spending import Spending
from touchstone.core.costs import MAX_ROWS
from touchstone.settings import Settings

COSTS = "/api/v1/costs"


@pytest.fixture
def settings():
    return Settings(
        runpod_budget_submission="50", runpod_budget_user_month="100", runpod_budget_month="200"
    )


@pytest.fixture
def spending(meter, budgets):
    return Spending(meter, budgets, NOW)


@pytest.fixture
def admin(login):
    return login("chief", "admin")


def ask(client, **query):
    answer = client.get(COSTS, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_what_ended_well_is_useful_and_the_rest_wasted_or_open(admin, spending):
    spending.rent(seconds=100)
    spending.rent(seconds=300, is_useful=False)
    spending.rent(seconds=50, is_open=True)

    (row,) = ask(admin)["rows"]

    assert row["name"] == "s-1"
    assert (row["usd"], row["useful_usd"], row["wasted_usd"], row["open_usd"]) == (
        *("0.045000", "0.010000", "0.030000", "0.005000"),
    )
    assert (row["pods"], row["seconds"]) == (3, 450)


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("submission", ["s-2", "s-1", "s-3"]),
        ("submitter", ["other", "engineer"]),
        ("gpu", ["NVIDIA L4", "no GPU"]),
    ],
)
def test_rows_are_what_was_asked_for_with_the_dearest_first(admin, spending, by, names):
    spending.rent("s-1", seconds=200)
    spending.rent("s-2", user="other", seconds=900)
    spending.rent("s-3", gpu=None, seconds=100)

    report = ask(admin, by=by)

    assert [row["name"] for row in report["rows"]] == names
    assert report["total"]["usd"] == "0.120000"
    assert sum(float(row["usd"]) for row in report["rows"]) == pytest.approx(0.12)


def test_a_bill_counts_instead_of_our_clock_and_is_told_beside_it(admin, spending):
    spending.rent(seconds=100, bill="0.5")
    spending.rent(seconds=100)

    total = ask(admin)["total"]

    assert (total["usd"], total["billed_usd"], total["billed_pods"]) == ("0.510000", "0.500000", 1)


def test_without_a_bill_there_is_no_billed_amount_and_not_0(admin, spending):
    spending.rent()

    assert ask(admin)["total"]["billed_usd"] is None


def test_a_bill_of_nothing_is_0(admin, spending):
    spending.rent(bill="0")

    total = ask(admin)["total"]

    assert (total["billed_usd"], total["usd"]) == ("0.000000", "0.000000")


def test_each_row_stands_against_its_budget(admin, spending, make_submission):
    make_submission("s-1", schedule={"intervals": [5], "budget": "20"})
    make_submission("s-2", submitted_by="other", schedule={"intervals": [5]})
    spending.rent("s-1", bill="3")
    spending.rent("s-2", user="other", is_open=True, seconds=1)

    of_submissions = {row["name"]: row["budget"] for row in ask(admin)["rows"]}
    of_users = {row["name"]: row["budget"] for row in ask(admin, by="submitter")["rows"]}
    report = ask(admin, by="gpu")

    assert of_submissions["s-1"] == {
        "limit_usd": "20.000000",
        "reserved_usd": "0.000000",
        "spent_usd": "3.000000",
        "left_usd": "17.000000",
    }, "its own budget is lower than the installation's"
    assert of_submissions["s-2"]["limit_usd"] == "50.000000"
    assert of_submissions["s-2"]["reserved_usd"] == "2.000000"
    assert of_users["engineer"]["left_usd"] == "97.000000"
    assert of_users["other"]["left_usd"] == "98.000000"
    assert [row["budget"] for row in report["rows"]] == [None]
    assert report["total"]["budget"]["left_usd"] == "195.000000"


def test_a_submission_whose_record_makes_no_sense_has_no_budget_to_show(
    admin, spending, make_submission, records, settings
):
    make_submission("s-1")
    stored = records.get_stored(settings.submissions_table, "s-1")
    records.put_stored(settings.submissions_table, stored | {"schedule": {"budget": "much"}})
    spending.rent("s-1")

    (row,) = ask(admin)["rows"]

    assert (row["budget"], row["usd"]) == (None, "0.010000")


def test_months_are_told_apart_by_the_launch(admin, spending):
    spending.rent("s-1", started_at=NOW.replace(month=2, day=28), seconds=5 * 86_400)
    spending.rent("s-2")

    march, february = ask(admin), ask(admin, month="2026-02")

    assert [row["name"] for row in march["rows"]] == ["s-2"]
    assert [row["name"] for row in february["rows"]] == ["s-1"]
    assert [each["month"] for each in march["months"]][:3] == ["2026-03", "2026-02", "2026-01"]
    assert len(march["months"]) == 12
    assert march["months"][1]["budget"]["spent_usd"] == february["total"]["usd"] == "43.200000"


@pytest.mark.parametrize("month", ["2026-07", "1999-01", "0000-01", "9999-12"])
def test_a_month_without_pods_has_none_and_says_so(admin, month):
    report = ask(admin, month=month)

    assert (report["rows"], report["total"]["pods"], report["problem"]) == ([], 0, None)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"month": "2026-13"}, "month"),
        ({"month": "2026-1"}, "month"),
        ({"month": "٢٠٢٦-01"}, "month"),
        ({"month": "2026-01\n"}, "month"),
        ({"by": "nobody"}, "by"),
        ({"user": ""}, "user"),
        ({"user": "x" * 251}, "user"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(admin, query, field):
    answer = admin.get(COSTS, params=query)

    assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_a_user_sees_what_his_own_pods_have_cost_and_nothing_of_others(engineer, spending):
    spending.rent("s-1")
    spending.rent("s-9", user="other", gpu="NVIDIA H100", bill="70")

    for by in ("submission", "submitter", "gpu"):
        text = engineer.get(COSTS, params={"by": by}).text
        assert "s-9" not in text
        assert "other" not in text
        assert "H100" not in text
    report = ask(engineer)

    assert (report["user"], report["total"]["usd"]) == ("engineer", "0.010000")
    assert report["total"]["budget"]["limit_usd"] == "100.000000", "his own month's"
    assert report["months"][0]["budget"]["spent_usd"] == "0.010000"


def test_a_user_may_not_ask_for_others_and_an_admin_may(login, spending):
    spending.rent("s-9", user="other")

    refused = login().get(COSTS, params={"user": "other"})

    assert refused.status_code == 403
    assert "admins" in refused.json()["detail"]
    assert ask(login(), user="engineer")["rows"] == []
    (row,) = ask(login("chief", "admin"), user="other")["rows"]
    assert row["name"] == "s-9"


def test_many_rows_are_cut_and_counted_and_their_total_is_whole(admin, spending):
    for number in range(MAX_ROWS + 7):
        spending.rent(f"s-{number}", user=f"u{number}", seconds=10)

    report = ask(admin)

    assert (len(report["rows"]), report["left_out"]) == (MAX_ROWS, 7)
    assert report["total"]["pods"] == MAX_ROWS + 7


def test_an_entry_that_makes_no_sense_leaves_no_sum_and_names_nobody(
    engineer, spending, meter, monkeypatch
):
    spending.rent()

    def find_odd(*_args, **_options):
        from touchstone.core.records.stored import RecordUnreadable

        raise RecordUnreadable("2-closed#id of pod touchstone-dev-theirs-1: micros: no number")

    monkeypatch.setattr(meter, "_query", find_odd)
    report = ask(engineer)

    assert (report["total"], report["rows"]) == (None, [])
    assert "makes no sense" in report["problem"]
    assert "theirs-1" not in report["problem"]


def test_a_report_reads_one_month_and_no_other(admin, spending, meter, monkeypatch):
    for month in (1, 2, 3):
        spending.rent(started_at=NOW.replace(month=month) - timedelta(hours=1))
    asked = []
    query = meter._query
    monkeypatch.setattr(meter, "_query", lambda *a, **o: asked.append((a, o)) or query(*a, **o))

    ask(admin, month="2026-02")

    assert asked == [(("month", "2026-02"), {"index": "month"})]
