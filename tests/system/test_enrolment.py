"""From an SSH connection to a trained example: one command, one submit."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess

import httpx
import pytest
from tests.integration.enrolling.conftest import Server, key_pair, make_server, more_image

from system.installation import EXAMPLES, REPOSITORY, TOUCHSTONE, Installation
from waiting import wait_for

__all__ = ["key_pair", "make_server", "more_image"]

pytestmark = [pytest.mark.docker, pytest.mark.campaign(sample=50)]


def call(installation: Installation, *arguments: str) -> dict:
    """Run ``touchstone agent`` as an admin on the control plane, with the test's connections."""
    connections = {n: v for n, v in os.environ.items() if n.startswith("AIRFLOW_CONN_SSH_")}
    done = subprocess.run(
        [str(TOUCHSTONE), "agent", *arguments, "--json"],
        env=installation.environment | connections,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_what_joins_by_one_command_trains_what_is_submitted(
    installation: Installation, make_server
) -> None:
    server = make_server()
    where = ("--ssh", server.conn_id, "--no-service", "--state-dir", str(server.state_dir))

    joined = call(installation, "enroll", server.name, *where, "--gpu", "none")

    (row,) = joined["servers"]
    assert row["is_changed"] is True
    assert {"server": server.name, "state": "enrolled"}.items() <= next(
        r for r in call(installation, "list")["servers"] if r["server"] == server.name
    ).items()
    needs = ("--needs", f"allowed_hosts={server.name}")
    done = installation.run(
        *("submit", str(EXAMPLES / "momentum"), "--intervals", "1", "--wait", *needs)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    submission_id = done.stdout.split(":")[0].split()[-1]
    (task,) = [t for t in installation.ask("show", submission_id)["tasks"] if t["task_id"] == "i1"]
    assert task["server"] == server.name

    call(installation, "remove", server.name)

    assert server.list_traces() == []
    assert server.name not in json.dumps(call(installation, "list"))


DAG = "/dags/touchstone_enrol"


def trigger(installation: Installation, listed: list[dict]) -> str:
    """Run the DAG as an admin does on its page: unpause it, and give it a list."""
    airflow = installation.airflow
    airflow.patch(DAG, json={"is_paused": False}).raise_for_status()
    body = {"logical_date": None, "conf": {"servers": listed}}
    return str(airflow.post(f"{DAG}/dagRuns", json=body).raise_for_status().json()["dag_run_id"])


def connect_in_airflow(installation: Installation, server: Server, **changes: object) -> None:
    """Add the connection that leads to a server, as an admin does."""
    known = server.build_connection() | changes
    body = known | {"connection_id": server.conn_id, "extra": json.dumps(known["extra"])}
    installation.airflow.post("/connections", json=body).raise_for_status()


def test_of_three_in_one_run_two_train_and_the_third_is_told(
    installation: Installation, make_server
) -> None:
    servers = [make_server("one"), make_server("two"), make_server("three")]
    one, two, three = servers
    connect_in_airflow(installation, one)
    connect_in_airflow(installation, two, port=1)
    connect_in_airflow(installation, three)
    paused = installation.airflow.get(DAG).raise_for_status().json()["is_paused"]
    assert paused is True

    run_id = trigger(
        installation,
        [
            {
                "server": server.name,
                "ssh_conn_id": server.conn_id,
                "gpu": "none",
                "state_dir": str(server.state_dir),
                "has_service": False,
            }
            for server in servers
        ],
    )
    run = f"{DAG}/dagRuns/{run_id}"

    def find_end() -> str | None:
        state = installation.airflow.get(run).raise_for_status().json()["state"]
        return state if state in {"success", "failed"} else None

    assert wait_for("the run has ended", find_end, every=1) == "failed"
    tasks = installation.airflow.get(f"{run}/taskInstances").raise_for_status().json()
    states = {(t["task_id"], t["map_index"]): t for t in tasks["task_instances"]}
    assert {place: task["state"] for place, task in states.items()} == {
        ("list", -1): "success",
        ("enrol", 0): "success",
        ("enrol", 1): "failed",
        ("enrol", 2): "success",
    }
    assert states["enrol", 1]["rendered_map_index"] == two.name

    # The third is told, in its own task's log, and nothing of it is anywhere.
    attempt = states["enrol", 1]["try_number"]
    log = installation.airflow.get(
        f"{run}/taskInstances/enrol/logs/{attempt}", params={"map_index": 1, "full_content": True}
    ).text
    assert f"{two.name}: root@127.0.0.1:1 cannot be reached" in log
    assert one.private_key.splitlines()[1] not in log
    assert two.list_traces() == []
    listed = {row["server"] for row in call(installation, "list")["servers"]}
    assert two.name not in listed
    assert not installation.has_pool(two.name)

    links = installation.airflow.get(
        f"{run}/taskInstances/enrol/links", params={"map_index": 2}
    ).raise_for_status()
    link = links.json()["extra_links"]["Server's record"]
    assert link.endswith(f"/touchstone/api/v1/servers/{three.name}")
    headers = {"Authorization": installation.airflow.headers["Authorization"]}
    shown = httpx.get(link, headers=headers, timeout=300).raise_for_status().json()
    assert shown["server"]["enrolment"]["state"] == "enrolled"

    # The other two work.
    momentum = str(EXAMPLES / "momentum")
    submitted = {
        server.name: installation.submit(
            momentum, "--intervals", "1", "--needs", f"allowed_hosts={server.name}"
        )
        for server in (one, three)
    }
    for name, submission_id in submitted.items():
        assert installation.wait_for_submission(submission_id, "success")["status"] == "success"
        assert installation.task(submission_id, "i1")["server"] == name

    for server in (one, three):
        call(installation, "remove", server.name, "--ssh", server.conn_id)
        assert server.list_traces() == []
    for server in servers:
        installation.airflow.delete(f"/connections/{server.conn_id}").raise_for_status()


PAGE = (REPOSITORY / "docs/servers.md").read_text()


def find_commands(start: str) -> list[tuple[str, list[str]]]:
    """Return the commands of the page that begin so, each with what it prints there."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ ").partition("  #")[0].strip(), []))
            elif found:
                found[-1][1].append(line)
    return [(command, said) for command, said in found if command.startswith(start)]


def test_the_page_is_what_happens(
    installation: Installation, make_server, more_image: str, monkeypatch
) -> None:
    """Every command of "Add a server" for a server with systemd, as it stands there."""
    server = make_server("gpu-1", has_systemd=True, image=more_image, is_only=True)

    def do(command: str) -> subprocess.CompletedProcess[str]:
        words = shlex.split(command)
        assert words[0] == "touchstone"
        connections = {n: v for n, v in os.environ.items() if n.startswith("AIRFLOW_CONN_SSH_")}
        done = subprocess.run(
            [str(TOUCHSTONE), *words[1:]],
            env=installation.environment | connections,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    ((enrol, said),) = find_commands("touchstone agent enroll gpu-1 --ssh ssh_gpu_1")
    done = do(enrol)
    print(done.stderr)
    told = [line.split()[:4] for line in done.stderr.splitlines() if line.startswith("gpu-1 ")]
    steps = [words for words in map(find_step, told) if words[1] != "warn"]
    assert steps == [step for step in map(find_step, map(str.split, said)) if step[1] != "warn"]
    assert do(enrol).stderr.count(" same ") == 1

    needs = ("--needs", "allowed_hosts=gpu-1")
    trained = installation.run(
        *("submit", str(EXAMPLES / "momentum"), "--intervals", "1", "--wait", *needs)
    )
    assert trained.returncode == 0, trained.stdout + trained.stderr
    submission_id = trained.stdout.split(":")[0].split()[-1]
    assert installation.task(submission_id, "i1")["server"] == "gpu-1"

    ((doctor, _),) = find_commands("/opt/touchstone-agent/current/bin/touchstone-agent doctor")
    print(server.run(*shlex.split(doctor)))
    ((listing, _),) = find_commands("touchstone agent list")
    assert "gpu-1" in do(listing).stdout
    ((upgrade, _),) = find_commands("touchstone agent upgrade gpu-1")
    # Where somebody has committed meanwhile, there is a newer version.
    last = do(upgrade).stderr.splitlines()[-1].split()
    assert last[:2] == ["gpu-1", "upgrade"]
    assert last[2] in {"same", "done"}
    removals = [command for command, _ in find_commands("touchstone agent remove gpu-1")]
    assert removals[0] == "touchstone agent remove gpu-1"
    do(removals[0])
    assert server.list_traces() == []
    assert "gpu-1" not in do(listing).stdout


def find_step(words: list[str]) -> tuple[str, str]:
    """Return a step's name, which may be two words, and its state."""
    states = {"done", "same", "warn", "planned", "waits"}
    place = next(place for place, word in enumerate(words) if word in states)
    return " ".join(words[1:place]), words[place]
