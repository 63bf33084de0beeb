"""The real trainer, on a real agent: what one training compiles the submission's next one loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fakes.control_plane import ControlPlane, make_ref
from touchstone_agent.protocol.messages import AttemptPhase, AttemptRef

from .conftest import AgentProcess

pytestmark = pytest.mark.integration

PYTHON = Path(__file__).parents[3] / "include" / "elnigma" / ".venv" / "bin" / "python"
MODEL = b"""
import keras


def build_model(n_features, params):
    return keras.Sequential([keras.Input((n_features,)), keras.layers.Dense(1, "sigmoid")])
"""
COMPILED, LOADED = "PERSISTENT COMPILATION CACHE MISS", "Persistent compilation cache hit"


@pytest.fixture
def runtime_name() -> str:
    """Only the runtime that needs no image with the trainer in it."""
    if not PYTHON.exists():
        pytest.skip("NO ENVIRONMENT OF THE TRAINER (make setup): compiled code was NOT tested")
    return "process"


@pytest.fixture
def trainer(stopped_agent: AgentProcess) -> AgentProcess:
    """A running agent with the real trainer."""
    stopped_agent.command = [str(PYTHON), "-P", "-m", "elnigma_runner"]
    return stopped_agent.start()


def train(plane: ControlPlane, ref: AttemptRef) -> tuple[str, int, int]:
    """Train; return the predictions' digest, and how much was compiled and loaded, by JAX's log."""
    start = plane.make_start(
        ["train"],
        ref=ref,
        inputs=(plane.make_input("content/model.py", MODEL),),
        memory_mib=4096,
    )
    arguments = (
        *("train", "--config", "fast.toml", "--prediction-interval", "5", "--out", "{out}"),
        *("--model-structure", "{in}/content"),
    )
    environment = {
        **start.environment,
        "TOUCHSTONE_TASK_ID": ref.task_id,
        "JAX_LOG_COMPILES": "1",
        "JAX_EXPLAIN_CACHE_MISSES": "1",
    }
    plane.send(start.model_copy(update={"argv": arguments, "environment": environment}))
    exited = plane.wait_phase(ref, AttemptPhase.EXITED)
    assert exited.details["exit_code"] == 0, exited.details
    plane.wait_phase(ref, AttemptPhase.UPLOADED)
    console = plane.read_console(ref).decode()
    result = json.loads(plane.read_output(ref, "result.json"))
    return result["predictions_sha256"], console.count(COMPILED), console.count(LOADED)


def test_the_second_training_of_a_submission_compiles_nothing_and_computes_the_same(
    trainer: AgentProcess, plane: ControlPlane
) -> None:
    first, another = make_ref(task_id="i5"), make_ref(task_id="i5")
    second = make_ref(first.submission_id, task_id="i7")

    cold, compiled, loaded = train(plane, first)
    assert compiled > 0
    assert train(plane, second) == (cold, 0, loaded + compiled)
    # The same code, and nothing of the first one's.
    assert train(plane, another) == (cold, compiled, loaded)
    assert len(list(trainer.folder.glob("state/compiled/*"))) == 2
