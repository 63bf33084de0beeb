"""
What Airflow's real API lets each role do to our runs, and what is noted of it.

Whoever brings another Airflow sees here first which of its routes nobody has thought of.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from airflow import plugins_manager, settings
from airflow.api_fastapi.app import create_app, get_auth_manager, purge_cached_app
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from sqlalchemy import delete, select, update

from fakes.stores import FakeRecordStore
from fakes.submissions import build_submission
from touchstone.airflow_db import acts, runs
from touchstone.airflow_db.acts import EVENT
from touchstone.airflow_db.rows import EVALUATE, TRAINING
from touchstone.dispatcher.acting import Chronicler
from touchstone.services.control import read_control
from touchstone.settings import Settings
from touchstone.ui.acts import MAX_BODY_BYTES

PLUGINS = Path(__file__).parents[3] / "plugins"
SECRET = "for these tests only " * 4
OPTIONS = {
    "CORE__AUTH_MANAGER": "touchstone.ui.auth.TouchstoneAuthManager",
    "CORE__SIMPLE_AUTH_MANAGER_USERS": "guest:viewer,engineer:user,operator:op,chief:admin",
    "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
    "CORE__PLUGINS_FOLDER": str(PLUGINS),
    "CORE__LOAD_EXAMPLES": "False",
    "API_AUTH__JWT_SECRET": SECRET,
    "API__SECRET_KEY": SECRET,
}
ROLES = {"guest": "viewer", "engineer": "user", "operator": "op", "chief": "admin"}
DAG = "/api/v2/dags/touchstone"
RUN = f"{DAG}/dagRuns/s-1"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """Airflow's api-server with the plugin and the auth manager of a stack."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in OPTIONS.items():
            patch.setenv(f"AIRFLOW__{name}", value)
        passwords = tmp_path_factory.mktemp("api") / "passwords.json"
        patch.setenv("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE", str(passwords))
        patch.setattr(settings, "PLUGINS_FOLDER", str(PLUGINS))
        forget_plugins()
        yield create_app("core")
    forget_plugins()


def forget_plugins():
    """Let Airflow look again for plugins and auth manager: it has without ours, in this process."""
    plugins_manager._get_plugins.cache_clear()
    plugins_manager.get_fastapi_plugins.cache_clear()
    purge_cached_app()


@pytest.fixture
def login(app, with_dag):
    """Return a client of a user."""

    def make(name):
        user = SimpleAuthManagerUser(username=name, role=ROLES[name])
        token = get_auth_manager().generate_jwt(user)
        headers = {"Authorization": f"Bearer {token}"}
        return TestClient(app, headers=headers, raise_server_exceptions=False)

    with create_session() as session:
        session.execute(delete(Log))
        session.execute(delete(XComModel))
    return make


@pytest.fixture
def run(with_dag):
    """A run that ann has triggered, with two task instances and an XCom."""
    with_dag.add("s-1", TRAINING, 0, state="success")
    with_dag.add("s-1", EVALUATE, state="success")
    with create_session() as session:
        session.execute(
            update(DagRun)
            .filter_by(run_id="s-1")
            .values(triggering_user_name="ann", state="failed")
        )
    XComModel.set(
        key="return_value",
        value=[1, 5],
        dag_id="touchstone",
        task_id=EVALUATE,
        run_id="s-1",
        map_index=-1,
    )
    return with_dag


def read_entries():
    later = datetime.now(UTC) + timedelta(days=1)
    return acts.read_entries(after=0, before=later, limit=1000)


def read_told():
    return [(e.by, e.act.run_id, e.act.words, e.status) for e in read_entries()]


# --- what an engineer may do --------------------------------------------------------------------

ENGINEERS_MAY = {
    "POST /ui/auth/token",  # a token of their own
    "POST /api/v2/dags/{dag_id}/favorite",
    "POST /api/v2/dags/{dag_id}/unfavorite",
    "POST /api/v2/dags/{dag_id}/dagRuns",
    "POST /api/v2/dags/{dag_id}/dagRuns/list",
    "POST /api/v2/dags/{dag_id}/dagRuns/{dag_run_id}/taskInstances/list",
    "PATCH /api/v2/dags/{dag_id}/dagRuns/{dag_run_id}/taskInstances/{task_id}/{map_index}"
    "/hitlDetails",
    # Runs as well, and of a DAG that has a schedule only: ours have none.
    "POST /api/v2/backfills",
    "POST /api/v2/backfills/dry_run",
}
NOT_REACHED = {
    # There is none, or the token is none of Airflow's, which is looked at first.
    "PUT /api/v2/backfills/{backfill_id}/pause",
    "PUT /api/v2/backfills/{backfill_id}/unpause",
    "PUT /api/v2/backfills/{backfill_id}/cancel",
    "PUT /api/v2/parseDagFile/{file_token}",
}
VALUES = {
    "dag_id": "touchstone",
    "dag_run_id": "s-1",
    "task_id": "train",
    "asset_id": "1",
    "map_index": "0",
    "backfill_id": "0",
    "try_number": "0",
}
NAMED = {"actions": [{"action": "delete", "entities": ["x"]}]}
BODIES = {
    "PATCH /api/v2/connections": NAMED,
    "PATCH /api/v2/pools": NAMED,
    "PATCH /api/v2/variables": NAMED,
    "PATCH /api/v2/dags/{dag_id}/dagRuns": NAMED,
    "POST /api/v2/dags/{dag_id}/clearDagRuns": {"dag_runs": [{"dag_run_id": "s-1"}]},
    "POST /api/v2/connections/enqueue-test": {"connection_id": "x", "conn_type": "http"},
}


def list_changing(app):
    for route in app.routes:
        if isinstance(route, APIRoute):
            for method in sorted(set(route.methods) & {"POST", "PUT", "PATCH", "DELETE"}):
                path = re.sub(r"{(\w+)(:path)?}", lambda part: VALUES.get(part[1], "x"), route.path)
                yield f"{method} {re.sub(':path', '', route.path)}", method, path


def test_an_engineer_may_trigger_runs_and_change_nothing_else(app, login, run):
    """Airflow's own role pauses every DAG, and clears, marks and deletes everybody's runs."""
    engineer, allowed, known = login("engineer"), set(), set()
    for name, method, path in list_changing(app):
        known.add(name)
        body = {} if method == "DELETE" else {"json": BODIES.get(name, {})}
        if engineer.request(method, path, **body).status_code != 403:
            allowed.add(name)

    assert allowed - NOT_REACHED == ENGINEERS_MAY
    assert known >= ENGINEERS_MAY | NOT_REACHED | set(BODIES)
    assert len(known) > 50
    told = read_told()
    assert len(told) > 20
    assert {(by, status) for by, _, _, status in told} <= {
        ("engineer", status) for status in (403, 404, 422)
    }
    assert runs.find_run_states(["s-1"]) == {"s-1": "failed"}


@pytest.mark.parametrize("name", ["engineer", "operator", "chief"])
def test_who_may_trigger_is_on_the_run(login, with_dag, name):
    answer = login(name).post(
        f"{DAG}/dagRuns", json={"dag_run_id": f"by-{name}", "logical_date": None, "conf": {}}
    )

    assert answer.status_code == 200, answer.text
    assert runs.read_users([f"by-{name}"]) == {f"by-{name}": name}
    assert read_told() == []


def test_a_guest_may_only_look(login, run):
    guest = login("guest")

    assert guest.get(RUN).status_code == 200
    answer = guest.post(f"{DAG}/dagRuns", json={"logical_date": None, "conf": {}})
    assert answer.status_code == 403


@pytest.mark.parametrize("name", ["guest", "engineer", "operator", "chief"])
def test_everybody_may_look(login, run, name):
    client = login(name)
    for path in ("/api/v2/dags", DAG, RUN, f"{RUN}/taskInstances", "/api/v2/pools"):
        assert client.get(path).status_code == 200
    value = client.get(f"{RUN}/taskInstances/{EVALUATE}/xcomEntries/return_value")
    assert value.status_code == 200


@pytest.mark.parametrize("name", ["operator", "chief"])
def test_operators_and_admins_may_do_all_of_it(login, run, name):
    client = login(name)
    assert client.patch(DAG, json={"is_paused": True}).status_code == 200
    assert client.patch(RUN, json={"state": "success"}).status_code == 200
    assert client.delete(RUN).status_code == 204


# --- what is noted ------------------------------------------------------------------------------


def clear(client, run_id="s-1", **more):
    body = {"dry_run": False, "dag_run_id": run_id, "task_ids": [EVALUATE], "only_failed": False}
    return client.post(f"{DAG}/clearTaskInstances", json=body, **more)


def test_what_is_done_is_noted_with_who_did_it_and_how_it_was_answered(login, run):
    operator = login("operator")
    assert clear(operator).status_code == 200
    assert operator.patch(RUN, json={"state": "failed"}).status_code == 200
    assert operator.patch(f"{RUN}/taskInstances/train/0", json={"new_state": "failed"}).is_success
    assert operator.patch(
        f"{RUN}/taskInstances/{EVALUATE}/xcomEntries/return_value", json={"value": [7]}
    ).is_success
    assert operator.put(
        f"{RUN}/taskInstances/train/state-store/placement?map_index=0", json={"value": {}}
    ).is_success
    assert operator.delete(RUN).status_code == 204
    assert operator.delete(RUN).status_code == 404

    assert read_told() == [
        ("operator", "s-1", "cleared evaluate", 200),
        ("operator", "s-1", "marked the run failed", 200),
        ("operator", "s-1", "marked train[0] failed", 200),
        ("operator", "s-1", "changed an XCom of evaluate", 200),
        ("operator", "s-1", "changed the stored state of train", 204),
        ("operator", "s-1", "deleted the run", 204),
        ("operator", "s-1", "deleted the run", 404),
    ]
    assert [entry.act.is_deletion for entry in read_entries()] == [False] * 5 + [True] * 2


def test_what_airflows_own_log_leaves_out_is_noted(login, run):
    """Task instances in bulk, single ones deleted, and the task state store."""
    operator = login("operator")
    entity = {"task_id": EVALUATE, "new_state": "failed"}
    bulk = {"actions": [{"action": "update", "entities": [entity]}]}
    assert operator.patch(f"{RUN}/taskInstances", json=bulk).is_success
    assert operator.delete(f"{RUN}/taskInstances/{EVALUATE}").is_success
    assert operator.delete(f"{RUN}/taskInstances/train/state-store?map_index=0").is_success

    assert [words for _, _, words, _ in read_told()] == [
        "marked evaluate failed",
        "deleted evaluate",
        "deleted the stored state of train",
    ]
    with create_session() as session:
        own = session.scalars(select(Log.event).where(Log.event != EVENT)).all()
    assert not own, "Airflow logs it itself by now: is ours still needed?"


def test_a_request_cannot_say_which_run_is_noted(login, run):
    """Airflow's own log takes the run from a parameter of the query that nothing else reads."""
    operator = login("operator")
    assert clear(operator, params={"run_id": "another", "dag_id": "x"}).status_code == 200
    assert operator.patch(f"{RUN}?run_id=another", json={"state": "failed"}).is_success

    assert {run_id for _, run_id, _, _ in read_told()} == {"s-1"}
    with create_session() as session:
        own = session.scalars(select(Log.run_id).where(Log.event != EVENT)).all()
    assert set(own) == {"another"}, "Airflow's own log can be trusted by now"


def test_what_is_refused_is_noted_as_that(login, run):
    """Airflow logs it as if it were done, before it asks whether it may be."""
    assert clear(login("engineer")).status_code == 403

    assert read_told() == [("engineer", "s-1", "cleared evaluate", 403)]


def test_who_is_not_logged_in_leaves_no_note(app, login, run):
    answer = TestClient(app).patch(RUN, json={"state": "failed"})

    assert answer.status_code == 401
    assert read_told() == []


def test_a_body_that_nobody_can_read_is_refused(login, run):
    padded = b" " * MAX_BODY_BYTES + b'{"state": "failed"}'
    headers = {"content-type": "application/json"}

    answer = login("operator").patch(RUN, content=padded, headers=headers)

    assert answer.status_code == 413
    assert read_told() == []


def test_what_cannot_be_noted_is_not_done(login, run, monkeypatch):
    def fail(*_, **__):
        raise OSError("the database is away")

    monkeypatch.setattr("touchstone.airflow_db.acts.write_entries", fail)

    answer = login("operator").patch(RUN, json={"state": "success"})

    assert (answer.status_code, "try again" in answer.text) == (503, True)
    assert runs.find_run_states(["s-1"]) == {"s-1": "failed"}


def test_what_a_run_named_is_noted_while_it_can_be_read(login, run):
    with create_session() as session:
        session.execute(
            update(DagRun).filter_by(run_id="s-1").values(conf={"submission_id": "mine"})
        )
    assert login("operator").delete(RUN).is_success

    assert [entry.named for entry in read_entries()] == ["mine"]
    assert runs.read_named_submissions(["s-1"]) == {}


def test_it_all_comes_onto_the_submissions_record(login, run):
    records = FakeRecordStore(Settings())
    records.create_submission(
        build_submission("s-1", status="running", run_ids=["s-1"], actions=[])
    )
    later = [datetime.now(UTC)]
    chronicler = Chronicler(airflow=acts, records=records, clock=lambda: later[0])
    chronicler.run()
    assert clear(login("engineer")).status_code == 403
    assert clear(login("operator")).status_code == 200
    assert login("chief").patch(DAG, json={"is_paused": True}).is_success
    assert login("operator").delete(RUN).status_code in {204, 409}
    later[0] = datetime.now(UTC) + timedelta(minutes=5)

    for _ in range(2):
        chronicler.run()

    told = [(a.by, a.action) for a in records.get_submission("s-1").actions]
    assert told[0] == ("operator", "cleared evaluate in Airflow")
    assert [(a.by, a.action) for a in read_control(records).actions] == [
        ("chief", "paused the DAG touchstone in Airflow")
    ]


# --- the tables ---------------------------------------------------------------------------------


def test_entries_are_read_in_order_from_a_place_on_and_none_too_young(real_airflow):
    with create_session() as session:
        session.execute(delete(Log))
    written = [
        acts.write_entries([acts.Act(words=f"did {n}", run_id="s-1")], by="op")[0] for n in range(3)
    ]
    acts.settle_entries(written[:1], status=200)
    time.sleep(0.01)
    now = datetime.now(UTC)

    found = acts.read_entries(after=0, before=now, limit=2)

    assert [(e.id, e.act.words, e.status) for e in found] == [
        (written[0].id, "did 0", 200),
        (written[1].id, "did 1", None),
    ]
    assert {e.uid for e in found} == {e.uid for e in written[:2]}
    assert [e.id for e in acts.read_entries(after=written[1].id, before=now, limit=9)] == [
        written[2].id
    ]
    assert acts.read_entries(after=0, before=now - timedelta(seconds=5), limit=9) == []
    assert acts.find_last_id() == written[2].id


def test_an_entry_that_makes_no_sense_is_left_out(real_airflow):
    with create_session() as session:
        session.execute(delete(Log))
        for extra in (None, "", "{", "[]", "{}", '{"words": "x"}'):
            session.add(Log(event=EVENT, owner="op", extra=extra))

    assert read_entries() == []
    assert acts.find_last_id() > 0


def test_users_and_what_runs_named_are_read_by_run(real_airflow):
    for run_id, user, conf in (
        ("s-1", "ann", {"submission_id": "other"}),
        ("s-2", None, {}),
        ("s-3", "bob", {"submission_id": ["odd"]}),
    ):
        real_airflow.add(run_id)
        with create_session() as session:
            session.execute(
                update(DagRun).filter_by(run_id=run_id).values(triggering_user_name=user, conf=conf)
            )

    wanted = ["s-1", "s-2", "s-3", "s-4"]
    assert runs.read_users(wanted) == {"s-1": "ann", "s-2": "unknown", "s-3": "bob"}
    assert runs.read_named_submissions(wanted) == {"s-1": "other", "s-3": ["odd"]}
    assert runs.read_users([]) == runs.read_named_submissions([]) == {}
