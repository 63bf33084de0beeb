"""The team deployment from nothing to a trained model and back to nothing, in this order."""

from __future__ import annotations

import json
import subprocess

import pytest
import yaml

from compose.deployment import DONE_ONCE, REPOSITORY

pytestmark = [pytest.mark.docker, pytest.mark.system, pytest.mark.timeout(3600)]

EXAMPLE = REPOSITORY / "include/examples/momentum"
ROOT = {"agent"}
"""Services that need to be root, with the reason beside them in the compose file."""


@pytest.fixture(scope="module")
def described(new_deployment):
    """The compose file with all profiles, as compose understands it."""
    return yaml.safe_load(new_deployment.compose("config"))


@pytest.fixture(scope="module")
def trained(deployment):
    """An example that was trained over one interval by one command."""
    return deployment.touchstone(
        *("submit", str(EXAMPLE), "--intervals", "1", "--config", "fast.toml", "--wait"),
    )


def list_files():
    status = ["git", "-C", str(REPOSITORY), "status", "--short", "--ignored", "deploy", ".env"]
    return subprocess.run(status, capture_output=True, text=True, check=True).stdout


def test_without_the_profile_nothing_local_is_started(new_deployment):
    described = yaml.safe_load(new_deployment.compose("config", profile="none"))
    profiles = {name: s.get("profiles") for name, s in described["services"].items()}
    started = {name for name, needed in profiles.items() if not needed}
    assert started == {
        *("postgres", "redis", "mlflow", "init", "api-server", "scheduler", "dag-processor"),
        *("triggerer", "worker", "dispatcher"),
    }


def test_only_the_agent_is_root_and_nothing_is_privileged(described):
    services = described["services"]
    roots = {name for name, s in services.items() if s.get("user", "").startswith("0")}
    # The trainer's image names its own user, and its service runs nothing.
    nameless = {name for name, s in services.items() if not s.get("user")}
    assert (roots, nameless) == (ROOT, {"trainer"})
    assert not any(s.get("privileged") for s in services.values())
    assert all(s["cap_drop"] == ["ALL"] for s in services.values())


def test_every_lasting_service_has_a_health_check_and_is_restarted(described):
    lasting = {n: s for n, s in described["services"].items() if n not in DONE_ONCE}
    assert all("healthcheck" in s for s in lasting.values())
    assert {s["restart"] for s in lasting.values()} == {"unless-stopped"}


def test_ports_are_published_on_loopback_only(deployment):
    bindings = [
        binding["HostIp"]
        for container in deployment.list_containers().values()
        for published in container.attrs["NetworkSettings"]["Ports"].values()
        for binding in published or ()
    ]
    assert bindings == ["127.0.0.1"] * 2


def test_no_secret_is_in_a_containers_configuration(deployment):
    configured = json.dumps([c.attrs for c in deployment.list_containers().values()])
    assert [name for name, secret in deployment.get_secrets().items() if secret in configured] == []


def test_the_agents_pool_begins_with_the_slots_it_has(deployment):
    pool = deployment.airflow("pools/local")
    assert (pool["slots"], pool["include_deferred"]) == (2, True)


def test_a_submission_trains_to_the_end(trained):
    assert trained["status"] == "success"


def test_its_steps_ran_on_celery_workers(deployment, trained):
    run = f"dags/touchstone/dagRuns/{trained['submission_id']}"
    steps = deployment.airflow(f"{run}/taskInstances")["task_instances"]
    worker = deployment.list_containers()["worker"].attrs["Config"]["Hostname"]
    hosts = {step["hostname"] for step in steps if step["state"] == "success"}
    assert hosts == {worker}


def test_its_model_is_in_the_results(deployment, trained):
    results = deployment.touchstone("results", trained["submission_id"])
    [interval] = results["results"]
    assert {model["strategy"] for model in interval["models"]} == {"long", "short"}


def test_no_secret_is_in_a_log(deployment, trained):
    logs = deployment.compose("logs", "--no-color")
    assert trained["submission_id"] in logs
    assert [name for name, secret in deployment.get_secrets().items() if secret in logs] == []


def test_everything_is_still_healthy_after_a_restart(deployment, trained):
    deployment.compose("restart", "ministack", "agent", "dispatcher")
    deployment.wait_until_healthy()
    shown = deployment.touchstone("show", trained["submission_id"])
    assert shown["submission"]["status"] == "success"


def test_an_agent_refuses_a_folder_that_is_another_one_on_the_host(deployment):
    with pytest.raises(AssertionError, match="is another folder on the host"):
        deployment.compose(
            *("run", "--rm", "--no-deps", "-e", "TOUCHSTONE_AGENT_DIR=/elsewhere", "agent")
        )


def test_taking_it_down_leaves_nothing(deployment, trained):
    before = list_files()
    deployment.compose("down", "-v")
    assert deployment.find_left_over() == {}
    assert list_files() == before
