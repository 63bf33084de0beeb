"""The real trainer image as a pod: nothing of the program under test comes from this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.runpod.conftest import SshClient, World, open_world
from tests.integration.runpod.connected_pod import connect_pod

from fakes.runpod.docker_pods import find_engine
from touchstone.settings import Settings
from touchstone.stack.images import choose_runtime
from touchstone_agent.protocol.messages import AttemptRef, Limits
from touchstone_agent.protocol.pods import PodPhase, PodStart

pytestmark = [pytest.mark.integration, pytest.mark.docker]


@pytest.fixture(scope="module")
def image() -> str:
    """The image that belongs to this checkout; built unless it is there."""
    if find_engine() is None:
        pytest.skip("no Docker Engine answers")
    choose_runtime("docker", lambda part, line: None)
    return Settings().trainer_image


@pytest.fixture(scope="module")
def shared_world(
    image: str, tmp_path_factory: pytest.TempPathFactory, ssh: SshClient
) -> Iterator[World]:
    with open_world(tmp_path_factory.mktemp("runpod"), ssh, "docker") as world:
        yield world


def test_the_trainer_image_trains_in_a_pod(world: World, image: str) -> None:
    pod = connect_pod(world, image=image, lease=120)
    ref = AttemptRef(submission_id="s", task_id="i5", attempt=1, fence=1)
    arguments = ("--prediction-interval", "5", "--config", "fast.toml", "--out", "{out}")
    environment = {
        "TOUCHSTONE_CONTRACT": "1",
        "TOUCHSTONE_SUBMISSION_ID": ref.submission_id,
        "TOUCHSTONE_TASK_ID": ref.task_id,
        "TOUCHSTONE_MODEL_GROUP_ID": ref.submission_id,
        "TOUCHSTONE_THREADS": "1",
    }
    pod.start(
        PodStart(
            ref=ref,
            command=("elnigma-run",),
            argv=("train", *arguments),
            environment=environment,
            limits=Limits(memory_mib=4096, wall_seconds=3000),
        )
    )

    state = pod.wait_phase(PodPhase.EXITED)

    assert (state.problem, state.exit_code) == (None, 0)
    assert state.verdict is not None
    assert state.verdict.outcome == "succeeded"
    assert {"models/long.h5", "models/short.h5"} <= {file.path for file in state.files}
    assert state.gpus[0].name == "NVIDIA L4"
    assert pod.list_of_nobody() == ""
    pod.poll(lease_seconds=1)
    pod.wait_gone()
