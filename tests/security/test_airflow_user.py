"""What a plain Airflow user does to others with XComs, buttons, run ids and conf: nothing."""

from __future__ import annotations

import uuid

import pytest

from security.attacks import User
from system.installation import EXAMPLES
from waiting import wait_for

MOMENTUM = EXAMPLES / "momentum"
API = "/api/v2"
DAG = f"{API}/dags/touchstone"
HOUSEKEEPING = f"{API}/dags/touchstone_housekeeping"
OURS = "/touchstone/api/v1"


@pytest.fixture(scope="module")
def engineer(installation):
    return User(installation, "engineer")


@pytest.fixture(scope="module")
def admin(installation):
    return User(installation, "admin")


@pytest.fixture(scope="module")
def own(installation):
    """A finished submission of the engineer's own."""
    done = installation.ask(
        *("submit", str(MOMENTUM), "--intervals", "1", "--override", "training.epochs=2", "--wait")
    )
    return done["submission_id"]


def build_acts(victim):
    """Return what an engineer's login tries on another's run, by name: method, path, body."""
    run = f"{DAG}/dagRuns/{victim}"
    clear = {"dry_run": False, "dag_run_id": victim, "only_failed": False}
    xcom = {"value": "mine", "map_index": -1}
    new_xcom = {"key": "k", "value": "mine", "map_index": -1}
    return {
        "clear": ("POST", f"{DAG}/clearTaskInstances", clear | {"task_ids": ["train"]}),
        "clear the run": ("POST", f"{run}/clear", {"dry_run": False, "only_failed": False}),
        "mark the run": ("PATCH", run, {"state": "failed"}),
        "mark a task": ("PATCH", f"{run}/taskInstances/evaluate", {"new_state": "failed"}),
        "mark a mapped task": ("PATCH", f"{run}/taskInstances/train/0", {"new_state": "failed"}),
        "delete the run": ("DELETE", run, None),
        "delete a task": ("DELETE", f"{run}/taskInstances/evaluate", None),
        "edit an XCom": ("PATCH", f"{run}/taskInstances/register/xcomEntries/return_value", xcom),
        "add an XCom": ("POST", f"{run}/taskInstances/register/xcomEntries", new_xcom),
        "delete an XCom": (
            "DELETE",
            f"{run}/taskInstances/register/xcomEntries/return_value",
            None,
        ),
        "pause the DAG": ("PATCH", DAG, {"is_paused": True}),
        "delete the DAG": ("DELETE", DAG, None),
        "pause housekeeping": ("PATCH", HOUSEKEEPING, {"is_paused": True}),
        "pause all DAGs": ("PATCH", f"{API}/dags?dag_id_pattern=~", {"is_paused": True}),
        "take slots": (
            "PATCH",
            f"{API}/pools/local",
            {"pool": "local", "slots": 99, "include_deferred": True},
        ),
        "delete a pool": ("DELETE", f"{API}/pools/touchstone_queue", None),
        "read a connection": ("GET", f"{API}/connections/touchstone_agent", None),
        "list connections": ("GET", f"{API}/connections", None),
        "read the configuration": ("GET", f"{API}/config", None),
        "set a variable": ("POST", f"{API}/variables", {"key": "k", "value": "v"}),
    }


ACTS = tuple(build_acts("victim"))


@pytest.mark.parametrize("act", ACTS)
def test_an_engineer_may_not_touch_in_airflow_what_is_everybodys(engineer, unharmed, act):
    method, path, body = build_acts(unharmed.submission_id)[act]

    answer = engineer.ask(method, path, body)

    assert answer.status_code == 403, f"{act}: {answer.status_code} {answer.text[:300]}"


@pytest.mark.parametrize("what", ["", "/results", "/tasks/i1", "/tasks/i1/log"])
def test_an_engineer_sees_nothing_of_others_in_our_api(engineer, unharmed, what):
    answer = engineer.ask("GET", f"{OURS}/submissions/{unharmed.submission_id}{what}")

    assert answer.status_code == 404


@pytest.mark.parametrize("verb", ["cancel", "retract"])
def test_an_engineer_ends_nothing_of_others_in_our_api(engineer, unharmed, verb):
    answer = engineer.ask("POST", f"{OURS}/submissions/{unharmed.submission_id}/{verb}", {})

    assert answer.status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        *("/fleet/check", "/fleet/apply", "/fleet/reload", "/servers/local/drain"),
        *("/servers/local/attach", "/placements/pause", "/placements/resume"),
    ],
)
def test_an_engineer_may_not_touch_the_fleet(engineer, path):
    assert engineer.ask("POST", f"{OURS}{path}", {}).status_code == 403


def upload(installation, module=MOMENTUM):
    from touchstone.client.packing import pack

    with installation.client("engineer") as client:
        return client.upload(pack(module, 1 << 20))


def build_intrusions(installation, victim):
    """Return confs and run ids by which somebody tries to get at another's submission."""
    source = upload(installation)
    return {
        "its next run id, with a source": ({"source": source, "intervals": "1"}, f"{victim}--2"),
        "its next run id, with its id": (
            {"submission_id": victim, "intervals": "1"},
            f"{victim}--2",
        ),
        "its next run id, with nothing": ({}, f"{victim}--3"),
        "its next run id, refused": ({"source": source, "sauce": 1}, f"{victim}--4"),
        "its id in the conf": ({"submission_id": victim, "intervals": "1"}, None),
        "its id in the conf and a source": (
            {"submission_id": victim, "source": source, "intervals": "1"},
            None,
        ),
        "its id in other letters": ({"source": source}, victim.upper()),
        "an id that is cut to it": ({"source": source}, f"{victim}--02"),
        "an image of my own": ({"source": source, "image": "attacker/any:1"}, None),
        "as somebody else": ({"source": source, "submitted_by": "admin"}, None),
    }


INTRUSIONS = (
    *("its next run id, with a source", "its next run id, with its id"),
    *("its next run id, with nothing", "its next run id, refused"),
    *("its id in the conf", "its id in the conf and a source"),
    *("its id in other letters", "an id that is cut to it"),
    *("an image of my own", "as somebody else"),
)


def test_no_run_id_or_conf_gets_at_anothers_submission(installation, engineer, unharmed):
    intrusions = build_intrusions(installation, unharmed.submission_id)
    assert set(intrusions) == set(INTRUSIONS)
    begun = {}
    for name, (conf, run_id) in intrusions.items():
        answer = engineer.trigger(conf, run_id)
        assert answer.status_code in (200, 400, 409, 422), f"{name}: {answer.text[:300]}"
        if answer.status_code == 200:
            begun[name] = answer.json()["dag_run_id"]

    ends = {name: installation.wait_for_run_end(run_id) for name, run_id in begun.items()}

    # An id that merely looks like another's brings a submission of its own, and harms nobody.
    harmless = {"its id in other letters", "an id that is cut to it"}
    assert {name: end for name, end in ends.items() if name not in harmless} == dict.fromkeys(
        set(ends) - harmless, "failed"
    )


def test_the_victims_run_id_cannot_be_had_twice(engineer, unharmed):
    answer = engineer.trigger({"source": "https://127.0.0.1/x.git"}, unharmed.submission_id)

    assert answer.status_code == 409


@pytest.mark.parametrize(
    ("field", "conf"),
    [
        ("config_overrides", {"config_overrides": ["training.epochs=" + "9" * 200_000]}),
        ("config_overrides", {"config_overrides": ["a.b=1"] * 100_000}),
        ("passthrough_args", {"passthrough_args": ["--x " + "y" * 200_000]}),
        ("allowed_hosts", {"allowed_hosts": ["h" * 200_000]}),
        ("gpu_models", {"gpu_models": ["g" * 200_000]}),
        ("notes", {"notes": "n" * 200_000}),
        ("intervals", {"intervals": ",".join(["1"] * 100_000)}),
        ("job", {"job": "j" * 200_000}),
        ("config_file", {"config_file": "c" * 200_000}),
    ],
)
def test_what_is_too_long_is_refused_at_once_with_the_fields_name(engineer, field, conf):
    answer = engineer.trigger(
        {"source": "https://127.0.0.1/x.git", "intervals": "1"} | conf,
        f"long-{uuid.uuid4().hex[:8]}",
    )

    assert answer.status_code == 400
    assert f"Invalid input for param {field}: " in answer.text


# --- somebody who may edit XComs and clear -------------------------------------------------


def settle(installation, run_id):
    """Wait until a cleared run has ended again."""
    wait_for(
        f"{run_id} runs again",
        lambda: installation.run_state(run_id) in {"queued", "running"},
        every=0.1,
    )
    return installation.wait_for_run_end(run_id)


def test_xcoms_are_for_people_to_look_at(installation, admin, own, unharmed):
    """
    A run whose every XCom names somebody else's work does its own, or nothing.

    Only admins may edit XComs on this stack; where a role allows more, authority follows the
    records and the run's own user all the same.
    """
    name = unharmed.submission_id
    spec = {**installation.task(name, "i1")["config"], "image": "attacker/any:1"}
    image_before = installation.task(own, "i1")["config"]["image"]
    assert admin.edit_xcom(own, "register", "return_value", name).status_code == 200
    for planned in ([spec], [name], [1, 1, 250]):
        assert admin.edit_xcom(own, "plan", "return_value", planned).status_code == 200
        assert admin.clear(own, "train", "collect", "evaluate").status_code == 200
        settle(installation, own)

    assert installation.task(own, "i1")["config"]["image"] == image_before
    assert installation.submission(own)["submitted_by"] == "engineer"


def test_clearing_each_step_of_a_run_harms_nobody_else(installation, admin, own, unharmed):
    found = admin.edit_xcom(own, "register", "return_value", unharmed.submission_id)
    assert found.status_code == 200
    for task_id in ("evaluate", "collect", "accept", "plan"):
        assert admin.clear(own, task_id).status_code == 200
        settle(installation, own)


def test_what_was_done_in_airflow_is_on_the_audit_record(installation, admin, own):
    assert admin.clear(own, "evaluate").status_code == 200
    settle(installation, own)

    def find():
        return [
            entry
            for entry in installation.submission(own).get("actions") or ()
            if entry["by"] == "admin" and "clear" in entry["action"]
        ]

    assert wait_for("the clear is on record", find)
