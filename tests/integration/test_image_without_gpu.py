"""The trainer image that a machine builds for itself, in a container without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from fakes.runpod.docker_pods import find_engine
from fakes.trainings import train
from touchstone.settings import Settings
from touchstone.stack.images import choose_runtime

pytestmark = [pytest.mark.integration, pytest.mark.docker]


def test_a_container_without_a_gpu_does_not_train_where_one_is_required(tmp_path: Path) -> None:
    engine = find_engine()
    if engine is None:
        pytest.skip("no Docker Engine answers")
    choose_runtime("docker", lambda part, line: None)
    image = Settings().trainer_image

    labels = engine.images.get(image).labels
    assert labels["touchstone.backend"] == "cpu"
    assert not {"touchstone.cuda", "touchstone.min_driver"} & set(labels)

    training = train(engine, image, tmp_path / "out", CUDA="required")

    assert (training.exit_code, training.verdict["class"]) == (75, "device")
    assert training.verdict["reason"].startswith(
        "no GPU: JAX sees none: it is built for the CPU only; use the image of "
        "TOUCHSTONE_TRAINER_IMAGE_CUDA"
    )
    assert "computing features" not in training.phases
