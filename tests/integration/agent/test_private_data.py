"""
Of data that stay at their server, not a byte gets out: a real training on prices that one knows.

Everything that has left the agent is looked through for those prices, their outcomes and the
predictions: as decimal text, as doubles and floats, in base64, and in what is packed.
"""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import itertools
import json
import math
import random
import re
import struct
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fakes.control_plane import ControlPlane
from fakes.data_sets import build_text
from fakes.tasks import build_spec
from touchstone.core import attempts, phases
from touchstone.core.data_sets import PinnedData
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
ROWS = 1100
BEGIN = datetime(2017, 10, 1, tzinfo=UTC)
DAYS = {"validation_from": "2017-10-29", "test_from": "2017-11-03"}

LEAKING = """
import sys
import numpy as np
import pandas as pd


def build_features(data):
    close = data["close"]
    for value in close.to_numpy():
        print(repr(float(value)))
        print(repr(float(value)), file=sys.stderr)
    print(close.to_numpy().tobytes().hex(), flush=True)
    return pd.DataFrame(
        {"change": close.pct_change(), "slow": close.pct_change(5)}, index=data.index
    )
"""
SIDES = ("score_long", "score_short")
FAILING = """
def build_features(data):
    raise ValueError(" ".join(repr(float(value)) for value in data["close"].to_numpy()[-40:]))
"""


class Prices:
    """
    Prices that nobody else has, and what follows from them.

    :param folder: Where their data set is written.
    """

    def __init__(self, folder: Path) -> None:
        draw = random.Random(20171001)
        logs = itertools.accumulate((draw.gauss(0, 0.002) for _ in range(ROWS)), initial=0.2)
        self.closes = [math.exp(value) for value in itertools.islice(logs, ROWS)]
        lines = [
            f"{(BEGIN + timedelta(hours=row)).isoformat()},{close!r}"
            for row, close in enumerate(self.closes)
        ]
        body = "\n".join(["time,close", *lines, ""]).encode()
        text = build_text(body=body, frequency='"1h"', calendar='"24x7"', **DAYS)
        folder.mkdir(mode=0o700)
        (folder / "data.toml").write_text(text)
        (folder / "eurusd.csv").write_bytes(body)
        self.folder = folder
        self.digest = hashlib.sha256(text.encode() + body).hexdigest()

    @property
    def pinned(self) -> PinnedData:
        """Return the data set as a task gets it."""
        return PinnedData(
            name="eurusd-hourly",
            version="2018-02",
            digest=self.digest,
            sha256="",
            size=0,
            bars_per_year=8760,
            is_private=True,
            **{name: datetime.fromisoformat(day).date() for name, day in DAYS.items()},
        )

    @property
    def outcomes(self) -> list[float]:
        """Return the return to the next close of each bar."""
        return [after / before - 1 for before, after in itertools.pairwise(self.closes)]


class Canaries:
    """
    Numbers that must be nowhere, in every form in which they could be.

    :param series: Lists of numbers, each in order.
    """

    def __init__(self, *series: Sequence[float]) -> None:
        values = [value for each in series for value in each if abs(value) > 1e-3]
        # Eight digits are enough to know one again, however it was rounded when it was written.
        texts = {f"{abs(value):.9f}"[:-1] for value in values}
        self._texts = re.compile(b"|".join(re.escape(text).encode() for text in sorted(texts)))
        packed = {struct.pack(order, value) for value in values for order in ("<d", ">d")}
        # A single float of four bytes is in any megabyte by chance.
        for each, order in itertools.product(series, "<>"):
            packed |= {struct.pack(f"{order}2f", *two) for two in itertools.pairwise(each)}
        packed |= {body.hex().encode() for body in tuple(packed)}
        self._packed = re.compile(b"|".join(re.escape(body) for body in sorted(packed)))

    def find(self, body: bytes) -> bytes | None:
        """Return a number that is in some bytes, or in what is packed in them."""
        for form in _unpack(body):
            found = self._texts.search(form) or self._packed.search(form)
            if found is not None:
                return found.group(0)
        return None


def _unpack(body: bytes, depth: int = 3) -> Iterator[bytes]:
    yield body
    if depth == 0:
        return
    inner: list[bytes] = []
    for run in re.findall(rb"[A-Za-z0-9+/_-]{24,}={0,2}", body):
        for start in range(4):
            part = run[start:].rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
            part = part[:-1] if len(part) % 4 == 1 else part
            inner.append(base64.b64decode(part + b"=" * (-len(part) % 4)))
    for start in re.finditer(rb"\x1f\x8b\x08", body):
        unpacker = zlib.decompressobj(31)
        try:
            inner.append(unpacker.decompress(body[start.start() :], 64 * 1024**2))
        except zlib.error:
            continue
    for each in inner:
        yield from _unpack(each, depth - 1)


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
        scores = [[float(row[side]) for row in csv.DictReader(file)] for side in SIDES]
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
