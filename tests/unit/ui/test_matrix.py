"""Who may do what, by the routes that there are: under each auth manager, by the API and pages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import get_user
from airflow.providers.fab.auth_manager.fab_auth_manager import FabAuthManager
from airflow.providers.fab.auth_manager.models.anonymous_user import AnonymousUser
from fastapi.testclient import TestClient

from fakes import rules
from fakes.fab_users import build_user
from fakes.pools import FakePools
from fakes.rules import API_RULES, PAGE_RULES, Asked
from fakes.sending import FakeRuns, replace_airflow
from touchstone.pages import app as pages
from touchstone.pages.tabs import get_find_named
from touchstone.ui import app as api
from touchstone.ui import dependencies
from touchstone.ui.auth import TouchstoneAuthManager
from touchstone.ui.routes.fleet import get_pools

APPS = {"api": api.build_app(), "pages": pages.build_app()}
RULES = {"api": API_RULES, "pages": PAGE_RULES}
ASKED: dict[str, list[Asked]] = {
    door: list(rules.list_asked(app, prefix=api.API_PREFIX, is_page=door == "pages"))
    for door, app in APPS.items()
}

SIMPLE = [
    # role, is admin, may submit
    ("viewer", False, False),
    ("user", False, True),
    ("op", True, True),
    ("admin", True, True),
]
FAB = [
    ((), False, False),
    (("Viewer",), False, False),
    (("User",), False, True),
    (("Admin",), True, True),
    (("touchstone_user",), False, True),
    (("touchstone_admin",), True, True),
    (("touchstone_user", "touchstone_admin"), True, True),
    (("Viewer", "touchstone_user"), False, True),
]
PEOPLE = [
    *((TouchstoneAuthManager, each, *rest) for each, *rest in SIMPLE),
    *((FabAuthManager, each, *rest) for each, *rest in FAB),
]


@pytest.fixture
def build(overrides, make_submission, make_task) -> Iterator[Callable[..., TestClient]]:
    """Return a function that makes a client of somebody, where ``engineer`` has a submission."""
    make_submission()
    make_task()

    def make(door: str, manager: type, user: object) -> TestClient:
        authority, pools = manager(), FakePools()
        replaced = {
            **overrides,
            dependencies.get_authority: lambda: authority,
            get_find_named: lambda: {}.get,
            get_pools: lambda: pools,
            **replace_airflow(FakeRuns()),
        }
        if user is not None:
            replaced[get_user] = lambda: user
        APPS[door].dependency_overrides = replaced
        return TestClient(APPS[door], follow_redirects=False)

    yield make
    for app in APPS.values():
        app.dependency_overrides = {}


def build_person(manager: type, role: Any, name: str) -> object:
    if manager is FabAuthManager:
        return build_user(name, role)
    return SimpleAuthManagerUser(username=name, role=role)


@pytest.mark.parametrize("door", APPS)
def test_every_route_has_a_rule_and_every_rule_a_route(door: str) -> None:
    routes = {asked.route for asked in ASKED[door]}

    assert routes - RULES[door].keys() == set(), "say in tests/fakes/rules.py who it is for"
    assert RULES[door].keys() - routes == set()


def test_a_route_without_a_rule_is_seen() -> None:
    app = api.build_app()
    app.get("/api/v1/secrets/{name}")(lambda: None)
    routes = {asked.route for asked in rules.list_asked(app, prefix=api.API_PREFIX)}

    assert routes - API_RULES.keys() == {"GET /secrets/{name}"}


@pytest.mark.parametrize("door", APPS)
@pytest.mark.parametrize("is_public", [False, True])
def test_a_stranger_is_told_to_log_in(build, door: str, is_public: bool) -> None:
    """Also where FAB has a public role, under which strangers may look at Airflow."""
    public = AnonymousUser()
    public._perms = {("can_edit", "Pools"), ("can_create", "Touchstone Submissions")}
    client = build(door, FabAuthManager, public if is_public else None)

    for asked in ASKED[door]:
        answer = client.request(asked.method, asked.path, **asked.options)
        assert answer.status_code == 401, asked.route


@pytest.mark.parametrize(("manager", "role", "is_admin", "may_submit"), PEOPLE)
@pytest.mark.parametrize("door", APPS)
def test_each_route_is_for_those_whom_its_rule_names(
    build, door: str, manager: type, role: Any, is_admin: bool, may_submit: bool
) -> None:
    for name in ("other", "engineer"):
        client = build(door, manager, build_person(manager, role, name))
        for asked in ASKED[door]:
            rule = RULES[door][asked.route]
            if name == "engineer" and rule not in rules.OWNED:
                continue  # Nothing of theirs is asked for.
            expected = rules.find_expected(
                rule, is_admin=is_admin, may_submit=may_submit, is_owner=name == "engineer"
            )
            answer = client.request(asked.method, asked.path, **asked.options)
            rules.check(asked, rule, answer.status_code, expected)


@pytest.mark.parametrize(("manager", "role", "is_admin", "may_submit"), PEOPLE)
def test_the_api_tells_what_somebody_may(
    build, manager: type, role: Any, is_admin: bool, may_submit: bool
) -> None:
    told = build("api", manager, build_person(manager, role, "other")).get("/api/v1/health").json()

    assert (told["is_admin"], told["may_submit"]) == (is_admin, may_submit)


NAMING = [
    ("api", "POST", "/api/v1/plans", {"json": {"submissions": ["s-1"], "schedule": {}}}),
    ("pages", "POST", "/schedule/plan", {"data": {"submissions": "s-1", "intervals": "5"}}),
]


@pytest.mark.parametrize(("door", "method", "path", "options"), NAMING)
@pytest.mark.parametrize(
    ("manager", "role"),
    [(TouchstoneAuthManager, "user"), (FabAuthManager, ("touchstone_user",))],
)
def test_a_request_that_names_somebody_elses_finds_nothing(
    build, door: str, method: str, path: str, options: dict[str, Any], manager: type, role: Any
) -> None:
    client = build(door, manager, build_person(manager, role, "other"))
    headers = {"Sec-Fetch-Site": "same-origin"} if door == "pages" and method == "POST" else {}

    answer = client.request(method, path, headers=headers, **options)

    assert answer.status_code == 404
    assert "engineer" not in answer.text
