"""The page of costs: its figures are the API's, the command line's and the store's."""

from __future__ import annotations

import re

import pytest
from fastapi.testclient import TestClient
from rich.console import Console

from fakes.api import NOW
from fakes.spending import Spending
from touchstone.client.cost_tables import build_costs
from touchstone.client.tables import format_money
from touchstone.core.answers.costs import CostReport
from touchstone.core.meter import sum_all
from touchstone.core.money import to_usd
from touchstone.settings import Settings
from touchstone.ui.app import build_app as build_api
from unit.ui.pages.test_pages import XSS, assert_harmless, look


@pytest.fixture
def settings():
    return Settings(runpod_budget_user_month="100", runpod_budget_month="200")


@pytest.fixture
def spending(meter, budgets):
    return Spending(meter, budgets, NOW)


@pytest.fixture
def ask_api(app, overrides):
    """Return a function that asks the API on the same stores, as whoever is logged in."""

    def ask(**query):
        api = build_api()
        api.dependency_overrides |= app.dependency_overrides
        answer = TestClient(api).get("/api/v1/costs", params=query)
        assert answer.status_code == 200
        return CostReport.model_validate(answer.json())

    return ask


def read_table(text):
    """Return the cells of a page's first table, row by row."""
    table = text.partition("<table>")[2].partition("</table>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    return [
        [re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
        for row in rows
    ]


def print_report(report):
    console = Console(width=300, markup=False, highlight=False)
    with console.capture() as captured:
        console.print(build_costs(report))
    return captured.get()


@pytest.mark.parametrize("by", ["submission", "submitter", "gpu"])
def test_page_api_command_line_and_store_say_the_same(admin, ask_api, spending, meter, by):
    spending.rent("s-1", seconds=12_345, bill="1.2349")
    spending.rent("s-1", seconds=7_777, is_useful=False)
    spending.rent("s-2", user="other", gpu=None, seconds=99, is_open=True)
    stored = sum_all(meter.list_month("2026-03"), now=NOW)

    report = ask_api(by=by)
    rows = read_table(admin.get("/costs", params={"by": by}).text)
    printed = print_report(report)

    total = rows[-1]
    assert total[0] == "total"
    for micros, field in (
        (stored.micros, "usd"),
        (stored.useful_micros, "useful_usd"),
        (stored.wasted_micros, "wasted_usd"),
        (stored.open_micros, "open_usd"),
        (stored.billed_micros, "billed_usd"),
    ):
        told = getattr(report.total, field)
        assert told == f"{to_usd(micros):.6f}"
        assert any(cell.startswith(format_money(told)) for cell in total)
    shown = [*report.rows, report.total]
    assert len(rows) == len(shown) + 1
    lines = printed.splitlines()
    for cells, row, line in zip(rows[1:], shown, lines[1:], strict=False):
        assert cells[0] == row.name
        assert line.split("  ")[0].strip() == row.name
        for cell in filter(None, cells):
            assert cell in line, "each cell of the page is in the line that the command prints"


def test_a_month_without_pods_says_so_and_what_would_cost(admin):
    text = admin.get("/costs").text

    assert "No pod was rented in 2026-03" in text
    assert "no price" in text
    assert "n/a" not in text.partition('<h2 id="months">')[0]


def test_what_has_no_bill_is_not_a_bill_of_0(admin, spending):
    spending.rent()

    assert "n/a: no bill yet" in admin.get("/costs").text


def test_a_record_that_makes_no_sense_is_told_and_no_figure_shown(admin, meter, monkeypatch):
    from touchstone.core.records.stored import RecordUnreadable

    def find_odd(*_args, **_options):
        raise RecordUnreadable("pod x: odd")

    monkeypatch.setattr(meter, "_query", find_odd)
    answer = admin.get("/costs")

    assert answer.status_code == 200
    assert "makes no sense" in answer.text
    assert "$" not in answer.text


def test_no_name_becomes_markup(admin, spending):
    spending.rent(XSS, user=XSS, gpu=XSS)

    for by in ("submission", "submitter", "gpu"):
        answer = admin.get("/costs", params={"by": by})
        assert_harmless(answer)
        assert "&lt;script&gt;" in answer.text
    assert_harmless(admin.get("/costs", params={"user": XSS, "month": XSS[:20], "by": XSS[:20]}))


@pytest.mark.parametrize("month", ["nonsense", "2026-13", "2026-01\n", ""])
def test_a_month_that_is_none_is_this_one(admin, month):
    assert 'value="2026-03" selected' in admin.get("/costs", params={"month": month}).text


def test_an_older_month_than_those_to_choose_is_kept_in_the_choice(admin):
    assert 'value="2019-05" selected' in admin.get("/costs?month=2019-05").text


def test_a_user_sees_only_his_own_costs(engineer, spending):
    spending.rent("s-1")
    spending.rent("s-9", user="other")

    answer = engineer.get("/costs")

    assert "s-9" not in answer.text
    assert "/submissions/s-1" in look(answer).links()
    assert engineer.get("/costs", params={"user": "other"}).status_code == 403
