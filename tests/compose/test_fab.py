"""The team deployment with Airflow's FAB auth manager: its roles, on PostgreSQL, in a browser."""

from __future__ import annotations

import httpx
import pytest
from playwright.sync_api import expect

from compose.deployment import REPOSITORY, Deployment
from system.browsing import FAB, Visitor, open_browser
from touchstone.client.packing import pack_folder

pytestmark = [pytest.mark.docker, pytest.mark.system, pytest.mark.timeout(3600)]

EXAMPLE = REPOSITORY / "include/examples/momentum"
AUTH_MANAGER = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
USERS = {"ann": "touchstone_user", "ben": "touchstone_user", "cleo": "touchstone_admin"}


@pytest.fixture(scope="module")
def fab(tmp_path_factory, compose):
    """A deployment with FAB that is up, and has users of our roles."""
    settings = {"TOUCHSTONE_AUTH_MANAGER": AUTH_MANAGER}
    found = Deployment(tmp_path_factory.mktemp("fab"), compose, settings)
    found.build()
    try:
        found.compose("up", "-d")
        found.wait_until_healthy()
        for name, role in USERS.items():
            found.passwords[name] = f"secret-{name}"
            told = {"username": name, "firstname": name, "lastname": name, "role": role}
            told |= {"email": f"{name}@example.com", "password": found.passwords[name]}
            options = [f"--{key}={value}" for key, value in told.items()]
            found.compose("exec", "-T", "api-server", "airflow", "users", "create", *options)
        yield found
    finally:
        found.compose("down", "-v", "--remove-orphans")


@pytest.fixture(scope="module")
def visit(fab):
    """Return a function that logs a user in; nothing of theirs may break the pages' policy."""
    visitors: list[Visitor] = []

    with open_browser() as browser:

        def log_in(user: str) -> Visitor:
            visitors.append(Visitor(browser, fab.url, user, fab.passwords[user], login=FAB))
            return visitors[-1]

        yield log_in
        for visitor in visitors:
            visitor.context.close()
    assert [visitor.refused for visitor in visitors] == [[]] * len(visitors)


@pytest.fixture(scope="module")
def sent(visit):
    """A submission of ``ann``, by the form."""
    ann = visit("ann")
    ann.open("new")
    page = ann.page
    archive = pack_folder(EXAMPLE, 1024**2)
    page.get_by_label("Or an archive").set_input_files(
        {"name": "momentum.tar.gz", "mimeType": "application/gzip", "buffer": archive}
    )
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/submissions/*")
    submission_id = page.url.rpartition("/")[2]
    # The page follows the validation by itself.
    page.get_by_role("link", name="Schedule", exact=True).click()
    page.get_by_label("Prediction intervals").fill("1")
    page.get_by_label("Config File").fill("fast.toml")
    page.get_by_role("button", name="Plan").click()
    expect(page.locator(".plan tbody tr")).to_contain_text("i1")
    page.get_by_role("button", name="Schedule 1 training").click()
    page.wait_for_url("**/submissions/*")
    return submission_id


def test_a_user_submits_schedules_and_watches_to_the_end(fab, visit, sent):
    ann = visit("ann")
    ann.open(f"submissions/{sent}")
    expect(ann.page.locator("h1 .chip")).to_have_text("success")
    ann.take_picture("fab-success")
    shown = fab.touchstone("show", sent, user="ann")
    assert (shown["submission"]["status"], shown["submission"]["submitted_by"]) == (
        "success",
        "ann",
    )


def test_a_user_submits_and_waits_at_a_shell(fab):
    done = fab.touchstone(
        *("submit", str(EXAMPLE), "--id", "shell-1", "--intervals", "1"),
        *("--config", "fast.toml", "--wait"),
        user="ann",
    )
    assert (done["submission_id"], done["status"]) == ("shell-1", "success")


def test_anothers_submission_is_not_there(fab, visit, sent):
    ben = visit("ben")
    ben.open("submissions")
    expect(ben.page.get_by_role("heading", name="Submissions")).to_be_visible()
    expect(ben.page.get_by_role("link", name=sent)).to_have_count(0)
    assert ben.open(f"submissions/{sent}") == 404
    assert ben.open("fleet") == 403


def test_a_user_sees_nothing_of_airflows_runs(fab, sent):
    with httpx.Client(base_url=fab.url, timeout=300, trust_env=False) as client:
        login = {"username": "ann", "password": fab.passwords["ann"]}
        token = client.post("/auth/token", json=login).raise_for_status().json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        run = f"/api/v2/dags/touchstone/dagRuns/{sent}"
        for path in (run, f"{run}/taskInstances", "/api/v2/pools", "/api/v2/variables"):
            assert client.get(path, headers=headers).status_code == 403, path
        assert client.get(f"/touchstone/api/v1/runs/{sent}", headers=headers).json()["state"]


def test_an_admin_sees_all_and_edits_slots(fab, visit, sent):
    cleo = visit("cleo")
    cleo.open("submissions")
    expect(cleo.page.get_by_role("link", name=sent).first).to_be_visible()
    assert cleo.open("fleet") == 200
    expect(cleo.page.get_by_role("link", name="local").first).to_be_visible()
    cleo.take_picture("fab-fleet")
    assert fab.touchstone("fleet", "slots", "local", "1", user="cleo")["slots"] == 1
    servers = fab.touchstone("fleet", "status", user="cleo")["servers"]
    assert {each["server"]: each["slots"] for each in servers} == {"local": 1}


def test_taking_it_down_leaves_nothing(fab, sent):
    fab.compose("down", "-v")
    assert fab.find_left_over() == {}
