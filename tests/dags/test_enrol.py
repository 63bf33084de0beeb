"""The DAG by which admins let servers join."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from touchstone.enrolling.registering import Registrar
from touchstone.operators.enrolling import SERVERS, EnrolOperator, read_requests
from touchstone_agent.protocol.errors import TransientError

DAG_FILE = Path(__file__).parents[2] / "dags" / "examples" / "touchstone_enrol.py"


def build_context(*servers: object, user: str | None = "admin", place: int = 0) -> dict:
    run = SimpleNamespace(run_id="r", conf={}, triggering_user_name=user)
    return {
        "dag_run": run,
        "params": {SERVERS: list(servers)},
        "ti": SimpleNamespace(map_index=place),
    }


GOOD = {"server": "gpu-1", "ssh_conn_id": "ssh_gpu_1", "slots": 2}


def test_it_is_off_until_somebody_wants_it() -> None:
    dag = runpy.run_path(str(DAG_FILE), run_name="dag_file")["dag"]

    assert dag.is_paused_upon_creation is True
    assert dag.schedule is None
    assert dag.get_task("enrol").is_mapped


def test_parsing_imports_no_client_and_no_provider() -> None:
    code = (
        f"import runpy, sys; runpy.run_path({str(DAG_FILE)!r});"
        "print(sorted({'paramiko', 'boto3', 'docker', 'httpx'} & set(sys.modules)))"
    )
    before = "import sys; from airflow.sdk import DAG; print(sorted({'httpx'} & set(sys.modules)))"
    outputs = [
        subprocess.run(
            [sys.executable, "-c", text], capture_output=True, text=True, check=True
        ).stdout.split("\n")[-2]
        for text in (code, before)
    ]
    assert outputs[0] == outputs[1], "more than Airflow itself imports"


@pytest.mark.parametrize("user", ["engineer", None, ""])
@pytest.mark.parametrize("operate", [read_requests, EnrolOperator(task_id="e", place=0).execute])
def test_nobody_but_admins_may_enrol(user: str | None, operate) -> None:
    with pytest.raises(AirflowFailException, match=r"nothing was done: .* may enrol no servers"):
        operate(build_context(GOOD, user=user))


def test_what_a_run_lists_is_read_with_its_defaults() -> None:
    (requested,) = read_requests(build_context(GOOD))

    assert (requested.server, requested.ssh_conn_id, requested.slots) == ("gpu-1", "ssh_gpu_1", 2)
    assert requested.images
    assert requested.has_service


@pytest.mark.parametrize(
    ("servers", "words"),
    [
        ((), "is no list of 1 to"),
        (("gpu-1",), r"servers\[0\]: is not an object"),
        ((GOOD, GOOD), "gpu-1 stands there twice"),
        (({"server": "gpu-1"},), r"servers\[0\]: ssh_conn_id: is missing"),
        (({**GOOD, "server": "Not Good"},), "cannot be a server's name"),
        (({**GOOD, "slots": "many"},), r"servers\[0\]: "),
        (({**GOOD, "slots": -1},), "slots: -1 is not from 0"),
        (({**GOOD, "state_dir": "/etc"},), "state_dir: /etc is not the agent's alone"),
        (({**GOOD, "state_dir": "/data;rm"},), "is not an absolute path of letters"),
        (({**GOOD, "command": "rm"},), "command: is not known"),
    ],
)
def test_what_is_wrong_is_told_by_its_place(servers: tuple, words: str) -> None:
    with pytest.raises(AirflowFailException, match=words):
        read_requests(build_context(*servers))


def test_its_link_leads_to_that_servers_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise TransientError("nobody answers")

    monkeypatch.setattr(Registrar, "connect", refuse)
    task = EnrolOperator(task_id="e", place=0)
    (link,) = task.operator_extra_links
    assert link.get_link(task, ti_key=None).endswith("/touchstone/api/v1/servers")
    # However the task has ended.
    with pytest.raises(AirflowException, match="gpu-1: nobody answers"):
        task.execute(build_context({**GOOD, "server": "first"}, GOOD, place=1))
    assert link.get_link(task, ti_key=None).endswith("/touchstone/api/v1/servers/gpu-1")


def test_an_index_that_somebody_else_wrote_leads_nowhere() -> None:
    with pytest.raises(AirflowFailException, match="there is no server 7"):
        EnrolOperator(task_id="e", place=0).execute(build_context(GOOD, place=7))
