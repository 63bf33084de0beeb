"""
Of data that stay at their server, not a byte gets out: a real training on prices that one knows.

Everything that has left the agent is looked through for those prices, their outcomes and the
predictions: as decimal text, as doubles and floats, in base64, and in what is packed.
"""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import random
import struct
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fakes.canaries import LEAKING, Canaries, Prices
from fakes.control_plane import ControlPlane
from fakes.tasks import build_spec
from touchstone.core import attempts, phases
from touchstone.core.judging_rules import build_rules
from touchstone.core.records.tasks import Task
from touchstone.core.tasks import TaskSpec, build_start, list_inputs
from touchstone.operators.collect import publish_figures
from touchstone_agent.protocol.messages import (
    AttemptPhase,
    AttemptRef,
    GrantsWanted,
    Limits,
    PhaseChanged,
    Progress,
)

from .conftest import AgentProcess

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[3]
TRAINER = REPOSITORY / "include/elnigma/.venv/bin/python"
JUDGE = REPOSITORY / "judge/.venv/bin/python"
SIDES = ("score_long", "score_short")
FAILING = """
def build_features(data):
    raise ValueError(" ".join(repr(float(value)) for value in data["close"].to_numpy()[-40:]))
"""


@pytest.fixture
def prices(tmp_path: Path) -> Prices:
    return Prices(tmp_path / "prices")


@pytest.fixture
def agent(tmp_path: Path, plane: ControlPlane, prices: Prices) -> Iterator[AgentProcess]:
    """An agent that holds the prices, with the real trainer and the real judge."""
    for python in (TRAINER, JUDGE):
        if not python.exists():
            pytest.skip(f"{python} is not there: make setup")
    agent = AgentProcess(tmp_path, plane, "process")
    agent.command = [str(TRAINER), "-P", "-m", "elnigma_runner"]
    agent.process["may_hold_private_data"] = True
    agent.more = "\n".join(
        [
            f'[judge]\npython = "{JUDGE}"',
            '[[private_data]]\nname = "eurusd-hourly"\nversion = "2018-02"',
            f'digest = "{prices.digest}"\nfolder = "{prices.folder}"\n',
        ]
    )
    yield agent.start()
    agent.close()


def order(plane: ControlPlane, prices: Prices, source: str) -> tuple[TaskSpec, AttemptRef]:
    """Send a training as the control plane does."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        member = tarfile.TarInfo("features.py")
        member.size = len(source)
        archive.addfile(member, io.BytesIO(source.encode()))
    content = plane.make_input("content", memory.getvalue(), unpack=True)
    spec = build_spec(
        submission_id=f"s{prices.digest[:8]}",
        task_id="i1",
        interval=1,
        content_sha256=content.sha256,
        content_size=content.size,
        data=prices.pinned,
        limits=Limits(memory_mib=4096, cpus=1),
        schedule={
            "config_file": "fast.toml",
            "config_overrides": ["training.epochs=1"],
            "intervals": [1],
        },
    )
    assert list(list_inputs(spec)) == ["content"]
    ref = AttemptRef(submission_id=spec.submission_id, task_id="i1", attempt=1, fence=1)
    plane.send(build_start(spec, ref, {"content": content.grant}))
    return spec, ref


def list_what_left(plane: ControlPlane) -> Iterator[tuple[str, bytes]]:
    """Yield everything that the agent has put anywhere: messages, and objects."""
    for number, text in enumerate(plane.texts):
        yield f"message {number}", text.encode()
    for key in plane.list(""):
        if not key.startswith("input/"):
            yield key, plane.get(key)


def put_on_record(plane: ControlPlane, spec: TaskSpec, ref: AttemptRef) -> Task:
    """Return the task's record as the dispatcher and ``collect`` write it."""
    now = datetime.now(UTC)
    task = attempts.claim_attempt(
        attempts.new_task(spec, run_id=spec.submission_id, map_index=0, now=now),
        attempt=1,
        server=plane.server,
        container_of=lambda ref: ref.container_name(plane.env),
        now=now,
    )
    for event in plane.bodies(PhaseChanged):
        if event.ref == ref:
            task = phases.apply_phase(task, event, now=now) or task
    if task.newest.uploaded_at is not None and task.newest.exit_code == 0:
        task = phases.publish(task, publish_figures(task), fence=1, now=now) or task
    return task


def test_the_look_for_canaries_finds_them_in_every_form() -> None:
    values = [0.123456789012, 1.987654321098]
    canaries = Canaries(values)

    for body in (
        json.dumps(values).encode(),
        b"x %.8f y" % values[1],
        struct.pack("<d", values[0]),
        struct.pack(">d", values[1]),
        struct.pack("<2f", *values),
        struct.pack("<d", values[0]).hex().encode(),
    ):
        assert canaries.find(b"some" + body), body
        assert canaries.find(b"{" + base64.b64encode(b"begin of a row" + body) + b"}"), body
        assert canaries.find(b"PK" + gzip.compress(body)), body
        assert canaries.find(base64.urlsafe_b64encode(gzip.compress(body))), body
    assert canaries.find(b"0.1234 1.99" + random.Random(1).randbytes(100_000)) is None


def test_of_a_training_on_private_data_only_figures_leave_its_server(
    agent: AgentProcess, plane: ControlPlane, prices: Prices
) -> None:
    spec, ref = order(plane, prices, LEAKING)

    told = plane.wait_phase(ref, AttemptPhase.UPLOADED)

    judged = told.details["judged"]
    assert (judged["status"], judged["reason"]) == ("judged", None)
    assert {"net_sharpe", "net_sharpe_low", "rank_corr", "brier_long"} <= judged["metrics"].keys()
    assert all(value is None or value == round(value, 4) for value in judged["metrics"].values())
    assert judged["rules_sha256"] == build_rules(prices.pinned).sha256
    assert set(judged["models"]) == {"long", "short"}

    # Everything is where its owner finds it.
    (kept,) = (agent.folder / "state/private").iterdir()
    console = (kept / "console.log").read_bytes()
    with (kept / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    scores = [[float(row[side]) for row in rows] for side in SIDES]
    own = Canaries(prices.closes)
    assert own.find(console), "what is submitted has printed prices"
    assert (kept / "models/long.h5").exists()

    # And nowhere else.
    canaries = Canaries(prices.closes, prices.outcomes, *scores)
    assert canaries.find((kept / "predictions.csv").read_bytes())
    left = list(list_what_left(plane))
    assert [name for name, _ in left if not name.startswith("message")] == []
    assert {name: found for name, body in left if (found := canaries.find(body))} == {}
    assert plane.bodies(Progress) == []
    assert plane.bodies(GrantsWanted) == []
    assert told.details["files"] == []

    task = put_on_record(plane, spec, ref)
    record = json.dumps(task.dump()).encode()
    assert canaries.find(record) is None
    published = task.newest.published
    assert published is not None
    assert published.judged is not None
    assert published.judged.is_judged
    assert published.judged.there is not None
    assert published.judged.there.server == plane.server
    assert published.metrics["net_sharpe"] == judged["metrics"]["net_sharpe"]
    assert (published.mlflow_run_id, published.charts, published.models) == (None, (), ())


def test_a_failure_is_told_by_its_class_and_not_in_its_own_words(
    agent: AgentProcess, plane: ControlPlane, prices: Prices
) -> None:
    spec, ref = order(plane, prices, FAILING)

    told = plane.wait_phase(ref, AttemptPhase.UPLOADED)

    verdict = told.details["verdict"]
    assert (verdict["class"], told.details["exit_code"]) == ("submission", 3)
    assert "stays" in verdict["reason"]
    assert "judged" not in told.details
    canaries = Canaries(prices.closes)
    (kept,) = (agent.folder / "state/private").iterdir()
    assert canaries.find((kept / "error.json").read_bytes())
    assert {name for name, body in list_what_left(plane) if canaries.find(body)} == set()
    task = put_on_record(plane, spec, ref)
    assert task.status == "error"
    assert canaries.find(json.dumps(task.dump()).encode()) is None


def test_data_that_are_not_as_they_were_are_given_to_nobody(
    agent: AgentProcess, plane: ControlPlane, prices: Prices
) -> None:
    (prices.folder / "eurusd.csv").write_bytes(b"time,close\n")
    _, ref = order(plane, prices, LEAKING)

    told = plane.wait_phase(ref, AttemptPhase.LOST)

    assert told.details == {"refusal": "data"}
    assert "another content" in str(told.reason)
