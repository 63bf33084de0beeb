"""Airflow below a path of its own: nothing that pages and API lead to leaves it."""

from __future__ import annotations

from urllib.parse import quote, urljoin

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from fakes.outline import look
from fakes.servers import store_server
from touchstone.pages.app import STATIC
from touchstone.ui.app import build_app
from touchstone_plugin import TouchstonePlugin

PATH = "/airflow"
PAGES, API = (f"{PATH}{each['url_prefix']}" for each in TouchstonePlugin.fastapi_apps)
OURS = {"Sec-Fetch-Site": "same-origin"}
LEADING = {("a", "href"), ("form", "action"), ("button", "formaction"), ("link", "href")}
LOADED = {("script", "src"), ("img", "src")}


@pytest.fixture
def airflow(app, overrides):
    """Airflow, which has an application for each of ours; ``app`` is that of the pages."""
    api = build_app()
    api.dependency_overrides = app.dependency_overrides
    outer = FastAPI(root_path=PATH)
    # In the order of the plugin, as Airflow does.
    for each, inner in zip(TouchstonePlugin.fastapi_apps, (app, api), strict=True):
        outer.mount(each["url_prefix"], inner)
    return TestClient(outer, follow_redirects=False)


@pytest.fixture(autouse=True)
def submission(records, pools, make_submission, make_task):
    make_submission("x-1", run_ids=["x-1"])
    make_task("x-1", "i5")
    store_server(records, {"server": "x-1"})
    for name in ("x-1", "x-1_validation"):
        pools.create_pool(name, 2, "")


def list_paths(app):
    for route in app.routes:
        if isinstance(route, APIRoute) and "GET" in route.methods:
            yield (
                route.path.replace("{task_id}", "i5")
                .replace("{submission_id}", "x-1")
                .replace("{name}", "x-1")
            )


def test_whatever_a_page_leads_to_or_loads_is_below_the_path(admin, app, airflow):
    shown = 0
    for path in list_paths(app):
        answer = airflow.get(f"{PAGES}{path}")
        if answer.is_redirect:
            assert answer.headers["location"].startswith(f"{PAGES}/"), path
        if not answer.headers.get("content-type", "").startswith("text/html"):
            continue
        shown += 1
        for tag, name, value in look(answer).attributes:
            if (tag, name) in LEADING | LOADED:
                assert value.startswith((f"{PAGES}/", "?", "#")), f"{path}: {value}"
    assert shown > 12


def test_a_form_leads_back_below_the_path(admin, airflow):
    answer = airflow.post(f"{PAGES}/submissions/x-1/cancel", headers=OURS)

    assert (answer.status_code, answer.headers["location"]) == (303, f"{PAGES}/submissions/x-1")


def test_what_a_page_loads_is_there(admin, airflow):
    answer = airflow.get(f"{PAGES}/submissions")

    loaded = [v for tag, name, v in look(answer).attributes if (tag, name) in LOADED]
    styles = [v for tag, name, v in look(answer).attributes if (tag, name) == ("link", "href")]
    assert loaded
    assert {airflow.get(each).status_code for each in (*loaded, *styles)} == {200}


def test_a_page_without_a_session_leads_to_airflows_login_and_back(airflow):
    answer = airflow.get(f"{PAGES}/submissions?status=error")

    back = quote(f"{PAGES}/submissions?status=error", safe="")
    assert answer.status_code == 401
    assert f"{PATH}/api/v2/auth/login?next={back}" in look(answer).links()


@pytest.mark.parametrize("address", [f"{API}/api/v1/openapi.json", f"{PAGES}/api.json"])
def test_the_api_says_where_it_is(admin, airflow, address):
    assert airflow.get(address).json()["servers"] == [{"url": API}]
    assert f"<code>{API}</code>" in airflow.get(f"{PAGES}/api").text


def test_the_api_answers_below_the_path(admin, airflow):
    assert airflow.get(f"{API}/api/v1/health").json()["user"] == "chief"


@pytest.mark.parametrize("path", ["", PATH])
def test_the_address_that_users_are_given_needs_no_slash(path):
    outer = FastAPI(root_path=path)
    for each in TouchstonePlugin.fastapi_apps:
        outer.mount(each["url_prefix"], each["app"])
    client = TestClient(outer, follow_redirects=False)

    answer = client.get(f"{path}/touchstone/pages")

    assert (answer.status_code, answer.headers["location"]) == (307, f"{path}/touchstone/pages/")


@pytest.mark.parametrize("path", ["", PATH])
def test_airflows_own_pages_find_ours(path):
    """They take an address from where Airflow is, as browsers do."""
    base = f"https://host.example{path}/"
    views = TouchstonePlugin.external_views
    found = [
        *(each["href"] for each in views),
        *(each[icon] for each in views for icon in ("icon", "icon_dark_mode")),
        *(each["bundle_url"] for each in TouchstonePlugin.react_apps),
    ]
    for address in found:
        assert urljoin(base, address).startswith(f"{base}touchstone/pages/")
    files = [each.rpartition("/")[2] for each in found if "/static/" in each]
    assert all((STATIC / each).is_file() for each in files)
