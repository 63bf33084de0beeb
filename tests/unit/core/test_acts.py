"""What requests to Airflow's API are told to have done to our runs."""

from __future__ import annotations

import json

import pytest

from touchstone.core.acts import MAX_ACTS, Act, concerns_us, find_acts

DAG = "/api/v2/dags/touchstone"
RUN = f"{DAG}/dagRuns/s-1"
TASK = f"{RUN}/taskInstances/train"


def tell(method, path, body=None):
    """Return what was done, and to which run, in short."""
    text = b"" if body is None else json.dumps(body).encode()
    return [(act.run_id, act.words) for act in find_acts(method, path, text)]


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("PATCH", RUN, {"state": "failed"}, "marked the run failed"),
        ("PATCH", RUN, {"note": "hi"}, "changed the run"),
        ("DELETE", RUN, None, "deleted the run"),
        ("POST", f"{RUN}/clear", {"dry_run": False}, "cleared the run"),
        ("PATCH", f"{TASK}/2", {"new_state": "success"}, "marked train[2] success"),
        ("PATCH", TASK, {"new_state": "failed"}, "marked train failed"),
        ("DELETE", TASK, None, "deleted train"),
        ("PATCH", f"{RUN}/taskGroupInstances/interval", {"new_state": "x"}, "marked interval x"),
        ("POST", f"{TASK}/xcomEntries", {"key": "a", "value": 1}, "made an XCom of train"),
        ("PATCH", f"{TASK}/xcomEntries/return_value", {"value": 1}, "changed an XCom of train"),
        ("DELETE", f"{TASK}/xcomEntries/list", None, "deleted an XCom of train"),
        ("DELETE", f"{TASK}/xcomEntries/2/dry_run", None, "deleted an XCom of train"),
        (
            "PUT",
            f"{TASK}/state-store/placement",
            {"value": {}},
            "changed the stored state of train",
        ),
        ("DELETE", f"{TASK}/state-store", None, "deleted the stored state of train"),
        ("PATCH", f"{TASK}/2/something/new", {}, "PATCH 2/something/new of train"),
        ("POST", f"{RUN}/something", {}, "POST something"),
        (
            "POST",
            f"{DAG}/clearTaskInstances",
            {"dry_run": False, "dag_run_id": "s-1", "task_ids": ["collect", ["train", 2]]},
            "cleared collect, train[2]",
        ),
        (
            "POST",
            f"{DAG}/clearTaskInstances",
            {"dry_run": "false", "dag_run_id": "s-1"},
            "cleared all tasks",
        ),
        (
            "POST",
            f"{DAG}/clearDagRuns",
            {"dry_run": 0, "dag_runs": [{"dag_run_id": "s-1"}]},
            "cleared the run",
        ),
        (
            "PATCH",
            f"{DAG}/dagRuns",
            {"actions": [{"action": "delete", "entities": ["s-1"]}]},
            "deleted the run",
        ),
        (
            "PATCH",
            "/api/v2/dags/~/dagRuns",
            {
                "actions": [
                    {
                        "action": "update",
                        "entities": [
                            {"dag_id": "touchstone", "dag_run_id": "s-1", "state": "failed"}
                        ],
                    }
                ]
            },
            "marked the run failed",
        ),
        (
            "PATCH",
            f"{RUN}/taskInstances",
            {
                "actions": [
                    {
                        "action": "update",
                        "entities": [{"task_id": "train", "map_index": 1, "new_state": "success"}],
                    }
                ]
            },
            "marked train[1] success",
        ),
        (
            "PATCH",
            "/api/v2/dags/~/dagRuns/~/taskInstances",
            {
                "actions": [
                    {
                        "action": "delete",
                        "entities": [
                            {"dag_id": "touchstone", "dag_run_id": "s-1", "task_id": "plan"}
                        ],
                    }
                ]
            },
            "deleted plan",
        ),
    ],
)
def test_what_is_done_to_a_run_is_told_of_that_run(method, path, body, words):
    assert tell(method, path, body) == [("s-1", words)]
    assert tell(method, f"/behind/a/proxy{path}", body) == [("s-1", words)]


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("PATCH", DAG, {"is_paused": True}, "paused the DAG touchstone"),
        ("PATCH", DAG, {"is_paused": "off"}, "unpaused the DAG touchstone"),
        ("PATCH", DAG, {"is_paused": ["?"]}, "changed the DAG touchstone"),
        ("PATCH", "/api/v2/dags", {"is_paused": True}, "paused several DAGs"),
        ("DELETE", DAG, None, "deleted the DAG touchstone"),
        ("PATCH", f"{DAG}_housekeeping", {"is_paused": True}, "paused the DAG touchstone_house"),
        ("DELETE", f"{DAG}_housekeeping/dagRuns/x", None, "deleted the run of touchstone_house"),
        (
            "POST",
            f"{DAG}/clearTaskInstances",
            {"dry_run": False, "task_ids": ["train"]},
            "cleared train, of several runs",
        ),
        ("POST", f"{DAG}/clearDagRuns", {"dry_run": False}, "cleared runs, of several runs"),
        ("PATCH", "/api/v2/pools/rio", {"slots": 0}, "changed the pool rio"),
        ("POST", "/api/v2/pools", {"name": "rio"}, "made the pool rio"),
        ("PATCH", "/api/v2/pools", {"actions": []}, "changed several pools"),
        ("DELETE", "/api/v2/connections/touchstone_agent", None, "deleted the connection touchsto"),
        ("POST", "/api/v2/variables", {"key": "a", "value": "secret"}, "made the variable a"),
    ],
)
def test_what_is_done_to_all_is_told_of_none_in_particular(method, path, body, words):
    ((run_id, told),) = tell(method, path, body)

    assert run_id is None
    assert told.startswith(words)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", RUN, None),
        ("HEAD", RUN, None),
        ("POST", f"{DAG}/dagRuns", {"dag_run_id": "s-1", "conf": {}}),
        ("POST", "/api/v2/dags/~/dagRuns/list", {}),
        ("POST", "/api/v2/dags/~/dagRuns/~/taskInstances/list", {}),
        ("POST", f"{DAG}/favorite", None),
        ("POST", f"{DAG}/clearTaskInstances", {"dag_run_id": "s-1"}),
        ("POST", f"{DAG}/clearTaskInstances", {"dag_run_id": "s-1", "dry_run": "yes"}),
        ("POST", f"{RUN}/clear", {}),
        ("PATCH", f"{TASK}/dry_run", {"new_state": "failed"}),
        ("PATCH", f"{TASK}/2/dry_run", {"new_state": "failed"}),
        ("PATCH", f"{TASK}/2/hitlDetails", {"chosen_options": ["ok"]}),
        ("PATCH", "/api/v2/dags/another", {"is_paused": True}),
        ("DELETE", "/api/v2/dags/another/dagRuns/s-1", None),
        ("POST", "/touchstone/api/v1/submissions/s-1/cancel", {}),
        ("POST", "/auth/token", {"username": "a"}),
        ("PATCH", "/api/v2/", None),
        ("PATCH", "", None),
        (
            "PATCH",
            "/api/v2/dags/~/dagRuns",
            {"actions": [{"action": "delete", "entities": [{"dag_id": "x", "dag_run_id": "y"}]}]},
        ),
    ],
)
def test_what_reads_or_triggers_or_is_of_others_is_not_told(method, path, body):
    assert tell(method, path, body) == []


def test_airflow_may_be_below_a_path():
    assert tell("DELETE", f"/airflow{RUN}") == tell("DELETE", RUN) != []
    assert tell("DELETE", "/airflow/api/v2/dags/another") == []


@pytest.mark.parametrize("run_id", ["list", "dry_run", "favorite", "hitlDetails", "clear", "dags"])
def test_a_run_may_be_called_like_a_route(run_id):
    """By the id of his run somebody could have kept what is done to it from being told."""
    assert tell("DELETE", f"{DAG}/dagRuns/{run_id}") == [(run_id, "deleted the run")]
    assert tell("PATCH", f"{DAG}/dagRuns/{run_id}", {"state": "failed"}) == [
        (run_id, "marked the run failed")
    ]


def test_other_runs_that_are_meant_as_well_are_told_of():
    body = {"dry_run": False, "dag_run_id": "s-1", "task_ids": ["train"], "include_past": True}

    assert tell("POST", f"{DAG}/clearTaskInstances", body) == [
        ("s-1", "cleared train"),
        (None, "cleared train, also of other runs"),
    ]


def test_of_very_many_some_are_told():
    entities = [f"s-{number}" for number in range(5000)]
    body = {"actions": [{"action": "delete", "entities": entities}]}

    told = tell("PATCH", f"{DAG}/dagRuns", body)

    assert len(told) == MAX_ACTS + 1
    assert told[-1] == (None, f"deleted the run, and more than {MAX_ACTS} such things")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"actions": {"a": 1}}',
        b'{"actions": [1, null, {"action": [], "entities": {"a": 1}}]}',
        b'{"actions": [{"action": "delete", "entities": [null, 5, [], {"dag_id": []}]}]}',
        b'{"dry_run": false, "task_ids": 7, "dag_run_id": {"a": 1}, "dag_runs": [[]]}',
        b'{"state": {"a": [1]}, "new_state": [], "is_paused": {}}',
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", DAG),
        ("PATCH", RUN),
        ("PATCH", f"{DAG}/dagRuns"),
        ("PATCH", f"{RUN}/taskInstances"),
        ("POST", f"{DAG}/clearTaskInstances"),
        ("POST", f"{DAG}/clearDagRuns"),
        ("POST", "/api/v2/pools"),
    ],
)
def test_no_body_is_too_odd_to_be_told_of(method, path, body):
    for act in find_acts(method, path, body):
        assert act.words
        assert act.words.isprintable()


def test_what_is_told_is_short_and_on_one_line():
    ((_, words),) = tell("PATCH", RUN, {"state": "x" * 5000 + "\n\x1b[31m"})
    (act,) = find_acts("DELETE", f"{DAG}/dagRuns/{'r' * 5000}", b"")

    assert len(words) < 200
    assert len(act.run_id) == 250


def test_a_run_that_is_gone_is_told_apart():
    deletions = [
        act.is_deletion
        for method, body in (("DELETE", b""), ("PATCH", b'{"state": "failed"}'))
        for act in find_acts(method, RUN, body)
    ]

    assert deletions == [True, False]
    assert Act(words="x").is_deletion is False


def test_a_request_is_told_apart_by_its_line_alone():
    assert concerns_us("DELETE", RUN)
    assert not concerns_us("GET", RUN)
    assert not concerns_us("POST", f"{DAG}/dagRuns")
