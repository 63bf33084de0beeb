"""The main job: submit, validate, train three intervals, publish; and the numbers everywhere."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess

import docker
import httpx
import pytest

from system.installation import EXAMPLES, TRAINER
from touchstone.core.records.tasks import Task
from touchstone.stores.parts import Parts, read_published
from touchstone.ui.queries import show_results

INTERVALS = (1, 5, 20)
LOAD = """
import os, sys
os.environ["KERAS_BACKEND"] = "jax"
import keras, numpy
for path in sys.argv[1:]:
    model = keras.saving.load_model(path, compile=False)
    rows = numpy.zeros((3, *model.input_shape[1:]), dtype="float32")
    found = model.predict(rows, verbose=0)
    assert found.shape[0] == 3 and numpy.isfinite(found).all(), path
    print("loaded", path)
"""


RESAMPLED = {"net_sharpe_low", "net_sharpe_high"}


def assert_agree(judged, told):
    """Check that the judge's figures are the trainer's, but for what depends on random draws."""
    assert judged.keys() == told.keys()
    for name in told.keys() - RESAMPLED:
        assert judged[name] == pytest.approx(told[name], rel=1e-9, abs=1e-9), name
    width = judged["net_sharpe_high"] - judged["net_sharpe_low"]
    for name in RESAMPLED:
        assert judged[name] == pytest.approx(told[name], abs=width / 4), name


def read_figures(installation, task):
    """Return all figures of a training; its record has the main ones alone."""
    parts = Parts(installation.objects, installation.settings.content_bucket)
    return dict(read_published(Task.load(task), parts).metrics)


@pytest.fixture(scope="module")
def model_structure(installation):
    """A model structure, submitted to be trained."""
    return installation.submit(
        EXAMPLES / "wide_mlp",
        *("--system", "model_structure", "--intervals", "5"),
        *("--override", "training.epochs=2", "--override", "model.params.width=17"),
    )


@pytest.fixture(scope="module")
def on_a_branch(installation):
    """A feature set, submitted to be trained by a branch of el-nigma."""
    return installation.submit(
        EXAMPLES / "mean_reversion",
        *("--branch", "feature/louder", "--intervals", "5", "--override", "training.epochs=2"),
    )


@pytest.fixture(scope="module")
def trained(installation, model_structure, on_a_branch):
    """A good example, submitted and trained over all intervals by one command, beside others."""
    done = installation.run(
        "submit",
        str(EXAMPLES / "momentum"),
        "--intervals",
        "1,5,20",
        "--seed",
        "3",
        *("--override", "training.epochs=4", "--wait", "--json"),
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout)["submission_id"]


@pytest.fixture(scope="module")
def tasks(installation, trained):
    return [installation.task(trained, f"i{interval}") for interval in INTERVALS]


def test_the_submission_succeeds_with_a_score_and_all_its_times(installation, trained):
    submission = installation.submission(trained)

    assert submission["status"] == "success"
    assert submission["score"] is not None
    assert submission["submitted_by"] == "engineer"
    times = [submission[f"{name}_at"] for name in ("created", "accepted", "queued", "ended")]
    assert all(times)
    assert times[0] < times[1] < times[3]


def test_six_models_are_in_the_models_bucket_with_the_digests_of_the_results(
    installation, tasks, tmp_path
):
    paths = []
    for task in tasks:
        listed = {item["path"]: item for item in installation.read_result(task)["files"]}
        for model in task["published"]["models"]:
            body = installation.objects.get(installation.settings.models_bucket, model["key"])
            assert hashlib.sha256(body).hexdigest() == model["sha256"]
            assert listed[f"models/{model['strategy']}.h5"]["sha256"] == model["sha256"]
            assert model["may_carry_code"] is False, model["code_reason"]
            path = tmp_path / f"{task['task_id']}-{model['strategy']}.h5"
            path.write_bytes(body)
            paths.append(str(path))

    assert len(paths) == 6
    python = TRAINER / ".venv" / "bin" / "python"
    loaded = subprocess.run(
        [str(python), "-c", LOAD, *paths],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.count("loaded") == 6


def test_every_metric_is_the_same_in_result_evaluation_and_mlflow(installation, trained, tasks):
    rows = installation.records.list_evaluations(trained)
    assert len(rows) == 6
    mlflow = httpx.Client(base_url=installation.stack["urls"]["mlflow"], timeout=300)
    for task in tasks:
        assert task["published"]["judged"]["status"] == "judged"
        metrics = read_figures(installation, task)
        assert_agree(metrics, installation.read_result(task)["metrics"])
        assert {"net_sharpe", "hit_rate", "hit_rate_base", "max_drawdown"} <= set(metrics)
        mine = [row for row in rows if row.task_id == task["task_id"]]
        assert [row.strategy for row in mine] == ["long", "short"]
        assert all(dict(row.metrics) == metrics for row in mine)
        assert all(row.model_group_id == trained for row in mine)

        run = mlflow.get(
            "/api/2.0/mlflow/runs/get", params={"run_id": task["published"]["mlflow_run_id"]}
        ).json()["run"]
        logged = {item["key"]: item["value"] for item in run["data"]["metrics"]}
        assert logged == {name: value for name, value in metrics.items() if value is not None}
        params = {item["key"]: item["value"] for item in run["data"]["params"]}
        assert params["training.epochs"] == "4"
        assert params["prediction_interval"] == str(task["config"]["interval"])
        assert params["seed"] == "3"
        which = {"experiment_id": run["info"]["experiment_id"]}
        experiment = mlflow.get("/api/2.0/mlflow/experiments/get", params=which).json()
        assert experiment["experiment"]["name"] == "touchstone_service"


def test_charts_open_from_mlflow(installation, trained):
    parts = Parts(installation.objects, installation.settings.content_bucket)
    links = show_results(installation.records.get_submission(trained), parts)["chart_links"]

    assert {link["task_id"] for link in links} == {"i1", "i5", "i20"}
    assert {("equity", "judge"), ("equity", "trainer")} <= {(x["name"], x["by"]) for x in links}
    for link in links:
        chart = httpx.get(link["url"], timeout=300)
        assert chart.status_code == 200
        begins = b"<?xml" if link["by"] == "judge" else b"\x89PNG"
        assert chart.content.startswith(begins)


def test_the_consoles_are_in_the_logs_bucket_and_readable(installation, trained, tasks):
    for task in tasks:
        prefix = f"{trained}/{task['task_id']}/"
        chunks = installation.objects.list(installation.settings.logs_bucket, prefix)
        assert chunks

        shown = installation.run("logs", trained, task["task_id"])

        assert shown.returncode == 0
        assert shown.stdout.strip()
        assert sum(chunk.size for chunk in chunks) == task["verdict"]["console"]["kept_bytes"]


def read_epochs(installation, task):
    effective = json.loads(installation.read_output(task, "effective_config.json"))
    return effective["training"]["epochs"]


def test_the_image_that_trained_is_on_record_by_its_digest(installation, tasks):
    if installation.runtime != "docker":
        pytest.skip("only an engine has images")
    (name,) = {task["config"]["image"] for task in tasks}
    image = docker.from_env().images.get(name)
    assert {task["image_digest"] for task in tasks} == {image.id}


def test_phases_have_times_and_the_configuration_is_on_record(installation, tasks):
    for task in tasks:
        times = [
            task[f"{n}_at"] for n in ("accepted", "preparing", "running", "exited", "uploaded")
        ]
        assert times == sorted(times)
        assert task["config"]["schedule"]["config_overrides"] == ["training.epochs=4"]
        assert task["container"] == f"touchstone-{installation.settings.env}-" + "-".join(
            [task["submission_id"], task["task_id"], "1", "1"]
        )
        assert read_epochs(installation, task) == 4


def test_an_accepted_submission_is_scheduled_again_without_another_validation(
    installation, trained, tasks
):
    before = installation.task(trained, "validation")
    done = installation.run(
        "schedule",
        trained,
        "--intervals",
        "5",
        "--seed",
        "3",
        *("--override", "training.epochs=4", "--wait", "--json"),
    )

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    again = installation.task(trained, "i5")
    assert again["run_id"] == f"{trained}--2"
    assert installation.task(trained, "validation") == before
    # Same commit, configuration, data and seed: the same predictions, bit for bit.
    first = next(task for task in tasks if task["task_id"] == "i5")
    assert (
        installation.read_result(again)["predictions_sha256"]
        == installation.read_result(first)["predictions_sha256"]
    )


def test_a_model_structure_is_trained_on_the_reference_features(installation, model_structure):
    installation.wait_for_submission(model_structure, "success")

    task = installation.task(model_structure, "i5")
    rows = installation.records.list_evaluations(model_structure)
    assert [row.strategy for row in rows] == ["long", "short"]
    for model in task["published"]["models"]:
        body = installation.objects.get(installation.settings.models_bucket, model["key"])
        # The reference model has no such layer, and none of this width.
        assert b"BatchNormalization" in body
        assert b'"units": 17' in body
    # What was overridden for another submission that trained at the same time is not here.
    assert read_epochs(installation, task) == 2


def test_a_branch_of_elnigma_trains_instead_of_the_images_own(
    installation, elnigma_repository, on_a_branch
):
    installation.wait_for_submission(on_a_branch, "success")

    commit = subprocess.check_output(
        ["git", "-C", str(elnigma_repository), "rev-parse", "feature/louder"], text=True
    ).strip()
    task = installation.task(on_a_branch, "i5")
    assert installation.read_result(task)["versions"]["elnigma_commit"] == commit
    console = installation.run("logs", on_a_branch, "i5").stdout
    assert f"el-nigma commit {commit}" in console
    assert "LOUDER" in console


def test_results_are_shown_with_the_figures_of_the_result(installation, trained, tasks):
    results = installation.ask("results", trained)

    by_task = {item["task_id"]: item for item in results["results"]}
    assert by_task["i5"]["judged"] == "judged"
    assert by_task["i5"]["metrics"] == read_figures(installation, tasks[1])
    assert_agree(by_task["i5"]["metrics"], installation.read_result(tasks[1])["metrics"])


def test_nothing_is_left_running(installation, trained):
    assert not any(trained in name for name in installation.running_attempts())


def test_a_training_that_is_run_again_comes_to_the_same_bits(installation, trained, tasks):
    before = installation.submission(trained), installation.task(trained, "i1")

    done = installation.run("replay", trained, "i1", "--wait", "--json")

    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found = json.loads(done.stdout)
    assert (found["verdict"], found["replay_of"]) == ("identical", f"{trained}/i1")
    replay = found["submission_id"]
    (task,) = installation.tasks(replay)
    assert task["published"]["replay"]["is_same_class"] is True
    assert task["image_digest"] == tasks[0]["image_digest"]
    assert (installation.submission(trained), installation.task(trained, "i1")) == before
    assert installation.records.list_evaluations(replay) == []
    assert not installation.objects.list(installation.settings.models_bucket, f"{replay}/")
    listed = installation.ask("list")["submissions"]
    assert {item["submission_id"]: item["replay_of"] for item in listed}[replay] == f"{trained}/i1"
