"""The largest submission that is legal, through the steps that write its records."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace

import pytest

from fakes.agents import FakeAgentHook
from fakes.stores import FakeObjectStore, FakeRecordStore
from touchstone.confined.archives import PackedFile, write_archive
from touchstone.core import attempts, phases
from touchstone.core.attempts import find_attempts_of_run
from touchstone.core.conf import MAX_CONF_BYTES, MAX_RUNS
from touchstone.core.model_config import CodeFinding
from touchstone.core.names import build_content_key, build_output_key
from touchstone.core.offers import Candidate
from touchstone.core.pod_attempts import close_attempt, note_gone, note_order, note_pod
from touchstone.core.pods import Cloud, Pod, PodStatus
from touchstone.core.records.tasks import AttemptPlacement
from touchstone.core.results import MAX_METRICS
from touchstone.core.retries import may_retry
from touchstone.core.schedule import MAX_INTERVALS, MAX_TRAININGS, Platform
from touchstone.hooks.mlflow import PublishedRun
from touchstone.operators import submission as steps
from touchstone.operators.authority import name_training
from touchstone.operators.collect import CollectOperator
from touchstone.operators.register import RegisterOperator
from touchstone.settings import Settings
from touchstone.stores import tables
from touchstone.stores.parts import Parts, find_long_list
from touchstone.ui.queries import show_cost, show_results
from touchstone_agent.protocol.messages import AttemptPhase, PhaseChanged

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
GOOD = {"outcome": "succeeded", "class": "ok", "exit_code": 0}
GPU = {"name": "n" * 200, "uuid": "u" * 200, "mean_utilisation_percent": 33.3}
LONG_RUN_ID = "r" * 250
CANDIDATE = Candidate(
    gpu="NVIDIA GeForce RTX 4090",
    cloud=Cloud.SECURE,
    data_center="EU-RO-1",
    price_per_hour=Decimal("0.69"),
    memory_gb=24,
)
SETTINGS = Settings(env="dev")


@pytest.fixture
def records(monkeypatch):
    # Below what DynamoDB takes, with room for what later versions add.
    monkeypatch.setattr(tables, "MAX_RECORD_BYTES", 350 * 1024)
    return FakeRecordStore(SETTINGS)


@pytest.fixture
def objects():
    return FakeObjectStore()


class Mlflow:
    def __init__(self, settings):
        pass

    def publish(self, **_):
        url = "https://mlflow.example.org/" + "x" * 400
        return PublishedRun(run_id="f" * 32, url=url, artifact_url=f"{url}&path=")


@pytest.fixture(autouse=True)
def world(records, objects, monkeypatch):
    monkeypatch.setattr("touchstone.stores.records.RecordStore.connect", lambda _: records)
    monkeypatch.setattr("touchstone.stores.objects.ObjectStore.connect", lambda _: objects)
    monkeypatch.setattr("touchstone.hooks.agent.AgentHook", lambda settings=None: FakeAgentHook())
    monkeypatch.setattr("touchstone.hooks.mlflow.MlflowHook", Mlflow)
    # Each would be a process; what it finds is as long as it can be.
    finding = CodeFinding(may_carry_code=True, code_reason="layer 999 is a '" + "L" * 60 + "...'")
    monkeypatch.setattr("touchstone.confined.models.inspect_model", lambda _: finding)


def upload(objects):
    import io

    packed = io.BytesIO()
    write_archive([PackedFile(name="features.py", body=b"x = 1\n")], packed)
    body = packed.getvalue()
    sha256 = hashlib.sha256(body).hexdigest()
    objects.put_new(SETTINGS.content_bucket, build_content_key(sha256), body)
    return f"upload:{sha256}"


def build_conf(source, folds=()):
    conf = {
        **({"folds": list(folds)} if folds else {}),
        "source": source,
        "intervals": ",".join(str(number) for number in range(1, MAX_INTERVALS + 1)),
        "notes": "\u65e5" * 1300,
        "config_overrides": [],
        "allowed_hosts": ["h" * 60] * 20,
        "job": "j" * 100,
    }
    while len(json.dumps(conf, ensure_ascii=False).encode()) < MAX_CONF_BYTES - 400:
        conf["config_overrides"].append('a.b="' + '"' * 150 + "\u65e5" * 20)
    return conf


def build_context(conf=None, *, map_index=None):
    run = SimpleNamespace(
        conf=conf or {},
        run_id="largest",
        triggering_user_name="\u65e5" * 100,
        logical_date=None,
        clear_number=0,
    )
    return {
        "dag_run": run,
        "params": {},
        "ti": SimpleNamespace(xcom_push=lambda **_: None, run_id="largest", map_index=map_index),
    }


def register(conf):
    return RegisterOperator(task_id="register").execute(build_context(conf))


def change(records, task_id, decide):
    return records.change_task("largest", task_id, decide)


def claim(records, task_id, number):
    return change(
        records,
        task_id,
        lambda record: attempts.claim_attempt(
            record,
            attempt=number,
            server="s" * 60,
            container_of=lambda ref: ref.container_name("dev"),
            now=NOW,
            placement=AttemptPlacement(
                reason="r" * 400, server="s" * 60, try_number=number, max_tries=99
            ),
            platform=Platform.RUNPOD,
        ),
    )


def fail_in_a_pod(records, task_id, number):
    """Go through one attempt in a pod that comes to nothing."""
    record = claim(records, task_id, number)
    fence = record.fence
    pod = Pod(
        id=f"pod-{number}",
        name=record.newest.container,
        status=PodStatus.RUNNING,
        image="trainer",
        gpu=CANDIDATE.gpu,
        gpu_count=1,
        cloud=Cloud.SECURE,
        data_center="EU-RO-1",
        price_per_hour=Decimal("0.69"),
        created_at=NOW,
    )
    for decide in (
        lambda r: note_order(
            r, CANDIDATE, image="i" * 250, fence=fence, life_seconds=3600, now=NOW
        ),
        lambda r: note_pod(r, pod, fence=fence, now=NOW),
        lambda r: note_gone(r, fence=fence, seconds=60, usd=Decimal("0.01"), now=NOW),
        lambda r: close_attempt(
            r, fence=fence, now=NOW, problem=attempts_problem("pod", "\u65e5" * 5000)
        ),
    ):
        record = change(records, task_id, decide)
    return record


def attempts_problem(failure_class, reason):
    from touchstone.core.pod_attempts import Problem

    return Problem(failure_class, reason)


def build_result(task_id, interval, files):
    names = [f"m{number:03}" + "n" * 196 for number in range(MAX_METRICS - 1)]
    return {
        "contract": 1,
        "submission_id": "largest",
        "task_id": task_id,
        "prediction_interval": interval,
        "metrics": {"net_sharpe": 0.123456789012345} | dict.fromkeys(names, -1.2345678901234e-12),
        "metric_notes": dict.fromkeys(names, "why it is so" * 8),
        "params": {f"param.{number}": "v" * 200 for number in range(90)},
        "versions": {f"package-{number}": "1.2.3" for number in range(50)},
        "data": {"name": "d" * 200, "rows": 5031},
        "device": {f"{'f' * 196}{number:04}": "\u65e5" * 200 for number in range(12)},
        "seed": 2**31 - 1,
        "files": [item for item in files if item["path"].endswith(".h5")],
    }


def finish(records, objects, task_id, *, charts=0):
    """Let an attempt end well, with as many files as an agent tells of, and collect them."""
    record = records.get_task("largest", task_id)
    ref = record.ref
    bodies = {"models/long.h5": b"long", "models/short.h5": b"short"}
    bodies |= {f"charts/{'c' * 24}/{number:03}{'d' * 20}.png": b"x" for number in range(charts)}
    listed = [
        {"path": path, "sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}
        for path, body in bodies.items()
    ]
    result = build_result(task_id, record.interval, listed)
    bodies["result.json"] = json.dumps(result).encode()
    body = bodies["result.json"]
    sha256 = hashlib.sha256(body).hexdigest()
    listed.append({"path": "result.json", "sha256": sha256, "size": len(body)})
    for path, body in bodies.items():
        objects.put_new(SETTINGS.content_bucket, build_output_key(ref, path), body)
    parts = Parts(objects, SETTINGS.content_bucket)
    verdict = GOOD | {
        "files": listed,
        "usage": {"wall_seconds": 1.5, "gpu": GPU},
        "x" * 5000: "y" * 50_000,
    }
    for phase in (AttemptPhase.EXITED, AttemptPhase.UPLOADED):
        details = {"exit_code": 0, "verdict": verdict, "files": listed}
        event = PhaseChanged(ref=ref, phase=phase, at=NOW, details=details)
        files = find_long_list(event)
        part = parts.put_files(ref, files) if files else None
        change(
            records,
            task_id,
            lambda r, e=event, p=part: phases.apply_phase(r, e, now=NOW, files_part=p),
        )
    context = build_context(map_index=record.map_index)
    name = name_training(record.spec)
    CollectOperator(task_id="collect", interval=name).publish(context)


@pytest.mark.parametrize("folds", [(), ("2005-01-01", "2012-01-01")], ids=["plain", "folds"])
def test_every_record_of_the_largest_submission_fits_and_nothing_of_it_is_lost(
    records, objects, folds
):
    """Its results were lost: fifty intervals with two hundred metrics each fit in no record."""
    register(build_conf(upload(objects), folds))
    records.change_submission(
        "largest", lambda found: found.change(status="accepted", accepted_at=NOW)
    )
    planned = steps.PlanOperator(task_id="plan").execute(build_context())
    count = MAX_TRAININGS if folds else MAX_INTERVALS
    assert len(planned) == count
    task_ids = records.get_submission("largest").tasks
    for number in range(1, 100):
        record = fail_in_a_pod(records, task_ids[0], number)
    assert may_retry(record)
    for task_id in task_ids:
        claim(records, task_id, 100)
        finish(records, objects, task_id, charts=497 if task_id == task_ids[0] else 0)

    steps.evaluate_submission(**build_context())

    submission = records.get_submission("largest")
    assert submission.status == "success"
    assert (submission.score, submission.verdict) == (None, "not judged")
    shown = show_results(submission, Parts(objects, SETTINGS.content_bucket))
    lines = [line for line in shown["results"] if line["task_id"] in task_ids]
    assert [len(line["reported"]) for line in lines] == [MAX_METRICS] * count
    assert len(shown["results"]) == count + (MAX_INTERVALS if folds else 0)
    assert len(shown["chart_links"]) == 497
    assert lines[0]["models"][0]["may_carry_code"] is True
    assert len(records.list_evaluations("largest")) == 2 * count
    task = records.get_task("largest", task_ids[0])
    assert len(find_attempts_of_run(task)) == 100
    cost = show_cost([task], NOW + timedelta(days=1))
    assert cost == {"usd": "0.9900", "is_open": False}


def test_a_submission_that_is_scheduled_as_often_as_it_may_be_still_fits(records, objects):
    register(build_conf(upload(objects)))
    records.change_submission(
        "largest", lambda found: found.change(status="accepted", accepted_at=NOW)
    )
    found = records.get_submission("largest")
    for number in range(1, MAX_RUNS):
        run_id = f"{number:03}{LONG_RUN_ID[3:]}"
        found = records.change_submission(
            "largest",
            lambda found, run_id=run_id: found.change(run_ids=found.take_up(run_id)).note_action(
                at=NOW, by="\u65e5" * 200, action=f"scheduled as {run_id}"
            ),
        )

    assert len(found.run_ids) == MAX_RUNS
