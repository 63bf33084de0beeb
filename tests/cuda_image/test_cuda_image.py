"""The trainer image for GPUs, built and started in containers that have none."""

from __future__ import annotations

from pathlib import Path

import docker
import pytest

from fakes.runpod.docker_pods import find_engine
from fakes.trainings import train
from touchstone.settings import Settings
from touchstone.stack.images import build_image, choose_runtime

# Some 3 GB of wheels, over any line.
pytestmark = pytest.mark.timeout(5400)
IMAGE = "touchstone-elnigma:cuda"


@pytest.fixture(scope="module")
def engine() -> docker.DockerClient:
    engine = find_engine()
    if engine is None:
        pytest.skip("NO CONTAINER ENGINE: the image for GPUs was NOT tested")
    build_image("cuda", IMAGE)
    return engine


def test_its_labels_say_what_it_needs(engine: docker.DockerClient) -> None:
    labels = engine.images.get(IMAGE).labels
    assert labels["touchstone.backend"] == "cuda"
    assert labels["touchstone.cuda"].startswith("12.")
    assert labels["touchstone.min_driver"] == "525.60.13"


def test_without_a_gpu_it_ends_where_one_is_required(
    engine: docker.DockerClient, tmp_path: Path
) -> None:
    training = train(engine, IMAGE, tmp_path / "out", CUDA="required")
    assert (training.exit_code, training.verdict["class"]) == (75, "device")
    assert training.verdict["reason"] == (
        "no GPU: JAX sees none: none was handed over: there is no /dev/nvidiactl; "
        "nothing is wrong with the submission, it is tried elsewhere"
    )
    assert "computing features" not in training.phases


def test_with_a_device_that_is_none_the_library_says_what_it_misses(
    engine: docker.DockerClient, tmp_path: Path
) -> None:
    device = "/dev/null:/dev/nvidiactl"
    training = train(engine, IMAGE, tmp_path / "out", devices=[device], CUDA="required")
    assert (training.exit_code, training.verdict["class"]) == (75, "device")
    assert "sees none: jaxlib/cuda" in training.verdict["reason"]
    assert "operation cuInit(0) failed" in training.verdict["reason"]


def test_where_one_is_preferred_it_trains_on_the_cpu_to_the_same_bits(
    engine: docker.DockerClient, tmp_path: Path
) -> None:
    choose_runtime("docker", lambda part, line: None)
    small = train(engine, Settings().trainer_image, tmp_path / "cpu")
    preferred = train(engine, IMAGE, tmp_path / "preferred", CUDA="preferred")
    none = train(engine, IMAGE, tmp_path / "none", CUDA="none")
    trainings = (small, preferred, none)
    assert [training.exit_code for training in trainings] == [0, 0, 0]
    assert len({training.result["predictions_sha256"] for training in trainings}) == 1
    assert {training.result["device"]["platform"] for training in trainings} == {"cpu"}
    assert "no GPU seen: training on the CPU" in preferred.phases
    note = preferred.result["device"]["note"]
    assert note.endswith("there is no /dev/nvidiactl; training on the CPU")
    assert preferred.verdict["usage"]["gpu"] is None
    assert "jax-cuda12-plugin" in preferred.result["versions"]
