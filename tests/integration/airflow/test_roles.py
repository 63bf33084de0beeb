"""
Airflow's FAB auth manager for real: roles, users, logins and tokens, and what each may do.

The roles are made by ``touchstone init roles``, the users by Airflow's own command.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from airflow import plugins_manager, settings
from airflow.api_fastapi.app import create_app, purge_cached_app
from airflow.utils.session import create_session
from fastapi.testclient import TestClient
from sqlalchemy import text
from typer.testing import CliRunner, Result

from fakes import commands, rules
from fakes.fab_users import PERMISSIONS
from fakes.pools import FakePools
from fakes.rules import API_RULES, PAGE_RULES
from fakes.sending import FakeRuns, replace_airflow
from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.submissions import build_submission
from fakes.tasks import build_spec, build_task
from integration.airflow.database import use_database
from touchstone import cli
from touchstone.airflow_db.roles import ensure_roles, has_roles
from touchstone.client.api import Client
from touchstone.core.answers.acts import Ended
from touchstone.core.roles import ADMIN, ROLES, USER
from touchstone.pages import app as pages
from touchstone.pages.tabs import get_find_named
from touchstone.settings import Settings, get_settings
from touchstone.ui import app as api
from touchstone.ui import dependencies
from touchstone.ui.routes.fleet import get_pools
from touchstone.ui.waiting import QueueReader

pytestmark = pytest.mark.xdist_group("fab")  # All of it shares one installation.

PLUGINS = Path(__file__).parents[3] / "plugins"
SECRET = "for these tests only " * 4
URL = "http://testserver"
USERS = {
    # name: roles, is admin, may submit
    "engineer": (["touchstone_user"], False, True),
    "other": (["touchstone_user"], False, True),
    "chief": (["touchstone_admin"], True, True),
    "both": (["touchstone_user", "touchstone_admin"], True, True),
    "guest": (["Viewer"], False, False),
    "root": (["Admin"], True, True),
}
COMMANDS = """
import json, sys
from airflow.__main__ import main as airflow
from touchstone.cli import main as touchstone

for program, *arguments in json.loads(sys.argv[1]):
    sys.argv = [program, *arguments]
    try:
        {"airflow": airflow, "touchstone": touchstone}[program]()
    except SystemExit as end:
        if end.code:
            raise
"""
"""Several commands in one process: each of its own would import all of Airflow again."""


def build_options(url: str) -> dict[str, str]:
    return {
        "AIRFLOW__CORE__AUTH_MANAGER": (
            "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
        ),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PLUGINS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": url,
        "AIRFLOW__API_AUTH__JWT_SECRET": SECRET,
        "AIRFLOW__API__SECRET_KEY": SECRET,
        "AIRFLOW__API__BASE_URL": URL,
        # Whose runs may train others' submissions is told by name.
        "TOUCHSTONE_ADMINS": json.dumps(["chief", "both", "root"]),
    }


def run_commands(options: dict[str, str], *commands: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(commands)],
        env={**os.environ, **options},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def create_user(name: str, role: str) -> list[str]:
    told = {
        "username": name,
        "firstname": name,
        "lastname": name,
        "email": f"{name}@example.com",
        "role": role,
        "password": f"secret-{name}",
    }
    return ["airflow", "users", "create", *(f"--{key}={value}" for key, value in told.items())]


@pytest.fixture(scope="module")
def installation(tmp_path_factory):
    """A database of FAB's with our roles and some users, and what the commands printed."""
    url = f"sqlite:///{tmp_path_factory.mktemp('fab')}/airflow.db"
    options = build_options(url)
    printed = run_commands(
        options,
        ["airflow", "db", "migrate"],
        # Those of Airflow, which its api-server makes when it first starts.
        ["airflow", "sync-perm"],
        ["touchstone", "init", "roles", "--json"],
        ["touchstone", "init", "roles", "--json"],
        *(create_user(name, roles[0]) for name, (roles, *_) in USERS.items()),
        create_user("leaver", "touchstone_user"),
        ["airflow", "users", "add-role", "--username=both", "--role=touchstone_admin"],
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, value in options.items():
            patch.setenv(name, value)
        patch.setattr(settings, "PLUGINS_FOLDER", str(PLUGINS))
        get_settings.cache_clear()
        with use_database(url):
            yield printed
    get_settings.cache_clear()


@pytest.fixture(scope="module")
def server(installation):
    """Airflow's api-server with FAB and our plugin, its applications on stores in memory."""
    from airflow.providers.fab.auth_manager.fab_auth_manager import FabAuthManager

    forget()
    config, objects = Settings(git_hosts=["host.test"]), FakeObjectStore()
    records, pools = FakeRecordStore(config), FakePools()
    records.create_submission(
        build_submission("s-1", status="running", submitted_by="engineer", run_ids=["s-1"])
    )
    spec = build_spec(submission_id="s-1", task_id="i5")
    records.create_task(build_task(spec, status="running", phase="running", attempt=1, fence=1))

    class Canceller:
        cancel = retract = staticmethod(lambda submission_id, **_: Ended())

    replaced = {
        dependencies.read_settings: lambda: config,
        dependencies.get_records: lambda: records,
        dependencies.get_objects: lambda: objects,
        dependencies.get_queue_reader: lambda: QueueReader(objects, config),
        dependencies.get_cancel_service: Canceller,
        get_find_named: lambda: {}.get,
        get_pools: lambda: pools,
        **replace_airflow(FakeRuns()),
    }
    with pytest.MonkeyPatch.context() as patch:
        # What a user may do is asked of the database each time, and not remembered for a while.
        patch.setattr(FabAuthManager, "cache", type("Forgetful", (dict,), {"__setitem__": forgo})())
        for application in (api.get_app(), pages.get_app()):
            application.dependency_overrides = dict(replaced)
        yield create_app("core")
        for application in (api.get_app(), pages.get_app()):
            application.dependency_overrides = {}
    forget()


def forgo(cache: object, key: object, value: object) -> None:
    """Keep nothing."""


def forget() -> None:
    """Let Airflow look again for plugins and auth manager."""
    plugins_manager._get_plugins.cache_clear()
    plugins_manager.get_fastapi_plugins.cache_clear()
    purge_cached_app()


@pytest.fixture(scope="module")
def log_in(server):
    """Return a function that logs in as a program does; the client has the token."""
    known: dict[str, TestClient] = {}

    def log_in(name: str) -> TestClient:
        if name not in known:
            client = TestClient(server, raise_server_exceptions=False, follow_redirects=False)
            login = {"username": name, "password": f"secret-{name}"}
            answer = client.post("/auth/token", json=login)
            assert answer.status_code == 201, answer.text
            client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
            known[name] = client
        return known[name]

    return log_in


def list_asked():
    for app, prefix, table in (
        (api.get_app(), "/touchstone", API_RULES),
        (pages.get_app(), "/touchstone/pages", PAGE_RULES),
    ):
        is_page = table is PAGE_RULES
        for asked in rules.list_asked(app, prefix=api.API_PREFIX, is_page=is_page):
            yield asked, table[asked.route], f"{prefix}{asked.path}"


def read_roles() -> dict[str, set[tuple[str, str]]]:
    with create_session() as session:
        rows = session.execute(
            text(
                "select r.name, p.name, v.name from ab_role r"
                " join ab_permission_view_role x on x.role_id = r.id"
                " join ab_permission_view y on y.id = x.permission_view_id"
                " join ab_permission p on p.id = y.permission_id"
                " join ab_view_menu v on v.id = y.view_menu_id"
            )
        ).all()
    found: dict[str, set[tuple[str, str]]] = {}
    for role, action, resource in rows:
        found.setdefault(role, set()).add((action, resource))
    return found


# --- the roles -----------------------------------------------------------------------------------


def test_the_roles_are_made_once_and_have_exactly_what_the_table_says(installation):
    told = [json.loads(line) for line in installation.splitlines() if line.startswith('[{"kind"')]
    names = [USER.name, ADMIN.name]
    assert told == [
        [{"kind": "role", "name": name, "created": is_new} for name in names]
        for is_new in (True, False)
    ]
    assert has_roles()
    assert {name: read_roles()[name] for name in names} == {
        each.name: set(each.permissions) for each in ROLES
    }


def test_what_somebody_changed_by_hand_is_set_right_and_users_stay(installation):
    before = read_roles()
    with create_session() as session:
        row = "select id from ab_role where name = 'touchstone_user'"
        session.execute(text(f"delete from ab_permission_view_role where role_id = ({row})"))
        session.execute(
            text(
                "insert into ab_permission_view_role (permission_view_id, role_id)"
                " select y.id, r.id from ab_permission_view y"
                " join ab_permission p on p.id = y.permission_id and p.name = 'can_edit'"
                " join ab_view_menu v on v.id = y.view_menu_id and v.name = 'Connections'"
                " join ab_role r on r.name = 'touchstone_user'"
            )
        )
    changed, same = ensure_roles(ROLES)

    assert (changed.is_new, same.has_changed) == (False, False)
    assert changed.taken == {("can_edit", "Connections")}
    assert changed.given == USER.permissions
    assert read_roles() == before


def test_airflows_own_roles_are_those_that_the_matrix_of_unit_tests_has(installation):
    found = read_roles()
    for name in ("Viewer", "User"):
        assert found[name] == set(PERMISSIONS[name])


# --- the matrix ----------------------------------------------------------------------------------


def test_a_stranger_gets_nothing(server):
    client = TestClient(server, follow_redirects=False)
    for asked, _, path in list_asked():
        answer = client.request(asked.method, path, **asked.options)
        assert answer.status_code == 401, asked.route


@pytest.mark.parametrize("name", USERS)
def test_each_route_is_for_those_whom_its_rule_names(log_in, name):
    _, is_admin, may_submit = USERS[name]
    client = log_in(name)

    told = client.get("/touchstone/api/v1/health").json()
    assert (told["user"], told["is_admin"], told["may_submit"]) == (name, is_admin, may_submit)
    for asked, rule, path in list_asked():
        expected = rules.find_expected(
            rule, is_admin=is_admin, may_submit=may_submit, is_owner=name == "engineer"
        )
        status = client.request(asked.method, path, **asked.options).status_code
        if expected is not None:
            assert status == expected, f"{asked.route} ({rule.value}): {status}"
        else:
            # Some of what they may do needs a store that is not here.
            assert status not in {401, 403}, f"{asked.route} ({rule.value}): {status}"


# --- Airflow itself ------------------------------------------------------------------------------

RUN = "/api/v2/dags/touchstone/dagRuns"
AIRFLOWS = [
    ("GET", "/api/v2/dags"),
    ("GET", "/api/v2/dags/touchstone"),
    ("PATCH", "/api/v2/dags/touchstone"),
    ("GET", RUN),
    ("POST", RUN),
    ("GET", "/api/v2/dags/~/dagRuns"),
    ("GET", f"{RUN}/s-1"),
    ("PATCH", f"{RUN}/s-1"),
    ("DELETE", f"{RUN}/s-1"),
    ("GET", f"{RUN}/s-1/taskInstances"),
    ("GET", "/api/v2/dags/~/dagRuns/~/taskInstances"),
    ("GET", f"{RUN}/s-1/taskInstances/register/logs/1"),
    ("GET", f"{RUN}/s-1/taskInstances/register/xcomEntries"),
    ("POST", "/api/v2/dags/touchstone/clearTaskInstances"),
    ("GET", "/api/v2/pools"),
    ("PATCH", "/api/v2/pools/default_pool"),
    ("GET", "/api/v2/connections"),
    ("POST", "/api/v2/connections"),
    ("GET", "/api/v2/variables"),
    ("GET", "/api/v2/config"),
    ("GET", "/api/v2/eventLogs"),
    ("GET", "/api/v2/importErrors"),
    ("GET", "/api/v2/dagSources/touchstone"),
    ("GET", "/auth/fab/v1/users"),
    ("GET", "/auth/fab/v1/roles"),
]
BODIES = {
    f"POST {RUN}": {"logical_date": None, "conf": {}},
    f"PATCH {RUN}/s-1": {"state": "failed"},
    "PATCH /api/v2/dags/touchstone": {"is_paused": True},
    "POST /api/v2/dags/touchstone/clearTaskInstances": {"dry_run": True, "dag_run_id": "s-1"},
    "PATCH /api/v2/pools/default_pool": {"pool": "default_pool", "slots": 1},
    "POST /api/v2/connections": {"connection_id": "x", "conn_type": "http"},
}


@pytest.mark.parametrize(("method", "path"), AIRFLOWS)
def test_a_user_has_no_access_to_airflows_own(log_in, method, path):
    body = BODIES.get(f"{method} {path}")
    sent = {"json": body} if body is not None else {}

    assert log_in("engineer").request(method, path, **sent).status_code == 403


@pytest.mark.parametrize(
    ("method", "path", "is_allowed"),
    [
        ("GET", "/api/v2/dags", True),
        ("GET", RUN, True),
        ("GET", "/api/v2/pools", True),
        ("POST", RUN, False),
        ("DELETE", f"{RUN}/s-1", False),
        ("DELETE", "/api/v2/pools/x", False),
        ("GET", "/api/v2/connections", False),
        ("POST", "/api/v2/connections", False),
        ("GET", "/api/v2/variables", False),
        ("GET", "/auth/fab/v1/users", False),
    ],
)
def test_an_admin_looks_and_edits_slots_and_airflows_form_stays_with_airflows_admins(
    log_in, method, path, is_allowed
):
    body = BODIES.get(f"{method} {path}")
    sent = {"json": body} if body is not None else {}

    status = log_in("chief").request(method, path, **sent).status_code
    # There is no such DAG in this database: who may look at it is told so.
    assert (status != 403) is is_allowed, status
    assert log_in("root").request(method, path, **sent).status_code != 403


# --- logins --------------------------------------------------------------------------------------


def test_the_login_page_leads_back_to_where_one_was(server):
    browser = TestClient(server, follow_redirects=False)
    wanted = "/touchstone/pages/submissions/s-1?tab=a%20b"
    refused = browser.get(wanted)
    (link,) = re.findall(r'href="(/api/v2/auth/login[^"]*)"', refused.text)
    asked = browser.get(link.replace("&amp;", "&"))
    form = browser.get(asked.headers["location"])
    (token,) = re.findall(r'name="csrf_token"[^>]*value="([^"]+)"', form.text)
    login = {"username": "engineer", "password": "secret-engineer", "csrf_token": token}

    done = browser.post(asked.headers["location"], data=login)

    assert refused.status_code == 401
    assert (done.status_code, done.headers["location"].removeprefix("http://testserver")) == (
        302,
        wanted,
    )
    assert browser.get(wanted).status_code == 200


# --- the command line ----------------------------------------------------------------------------


@pytest.fixture
def shell(server, tmp_path, monkeypatch):
    """Return a function that runs a command line as somebody who has nothing but a login."""
    make_client = Client.__init__

    def with_transport(self: Client, *args: object, **options: object) -> None:
        transport = TestClient(server, base_url=URL, raise_server_exceptions=False)._transport
        make_client(self, *args, **options | {"transport": transport})

    monkeypatch.setattr(Client, "__init__", with_transport)
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def run(name: str, *arguments: str) -> Result:
        monkeypatch.setenv("TOUCHSTONE_URL", URL)
        monkeypatch.setenv("TOUCHSTONE_USER", name)
        monkeypatch.setenv("TOUCHSTONE_PASSWORD", f"secret-{name}")
        return CliRunner().invoke(cli.app, list(arguments), env={"COLUMNS": "200"})

    return run


@pytest.mark.parametrize("name", ["engineer", "other", "chief", "guest"])
def test_each_command_is_for_those_whom_its_rule_names(shell, tmp_path, name):
    _, is_admin, may_submit = USERS[name]
    folder = commands.write_files(tmp_path)
    for command in commands.RULES:
        done = shell(name, *commands.build_arguments(command, folder))
        commands.check(
            command, done, is_admin=is_admin, may_submit=may_submit, is_owner=name == "engineer"
        )


def test_who_sees_nothing_of_airflow_submits_at_a_shell(shell, log_in):
    """And learns by it how the run is, which Airflow itself does not tell them."""
    done = shell("other", "submit", commands.GIT, "--id", "mine-1", "--json")

    # The server of this process writes its log there as well.
    told, _ = json.JSONDecoder().raw_decode(done.stdout[done.stdout.index("{") :])
    assert (done.exit_code, told["run_id"]) == (0, "mine-1"), done.output
    assert log_in("other").get(f"{RUN}/mine-1").status_code == 403
    assert "its run is queued" in shell("engineer", "show", "mine-1").output


def test_a_wrong_password_gets_no_token(server):
    login = {"username": "engineer", "password": "secret-other"}
    assert TestClient(server).post("/auth/token", json=login).status_code == 401


def test_who_loses_the_role_or_the_login_loses_the_access(log_in):
    client = log_in("leaver")
    assert client.get("/touchstone/pages/new").status_code != 403
    who = "(select id from ab_user where username = 'leaver')"

    with create_session() as session:
        session.execute(text(f"delete from ab_user_role where user_id = {who}"))
    assert client.get("/touchstone/pages/new").status_code == 403
    assert client.post("/touchstone/api/v1/submissions", json={}).status_code == 403

    with create_session() as session:
        session.execute(text("delete from ab_user where username = 'leaver'"))
    # As Airflow itself answers who has such a token.
    assert client.get("/touchstone/api/v1/health").status_code == 403
    page = client.get("/touchstone/pages/submissions")
    assert (page.status_code, "/api/v2/auth/login?next=" in page.text) == (401, True)
