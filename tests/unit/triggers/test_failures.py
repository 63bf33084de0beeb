"""Whether a rented host is good for what is to run there."""

from __future__ import annotations

import pytest

from touchstone.core.schedule import Training
from touchstone.core.tasks import TaskSpec
from touchstone.settings import RunPodSettings
from touchstone.triggers.pods.failures import PodFailed, check_host
from touchstone_agent.protocol.messages import Limits
from touchstone_agent.protocol.pods import PodState

GPU = {"name": "RTX 4090", "memory_mib": 24 * 1024, "driver": "550.54"}


def check(kind="training", *, gpus=(GPU,), disk_gb=10.0, min_vram_gib=0.0, min_disk_gib=0.0):
    spec = TaskSpec(
        submission_id="s-1",
        task_id="i5",
        kind=kind,
        system="feature_set",
        image="trainer",
        content_sha256="0" * 64,
        content_size=10,
        limits=Limits(),
        schedule=Training(min_vram_gib=min_vram_gib, min_disk_gib=min_disk_gib),
    )
    state = PodState(boot_id="b", gpus=gpus, disk_free_bytes=int(disk_gb * 10**9))
    check_host(state, spec, RunPodSettings())


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"gpus": ()}, "no GPU"),
        ({"gpus": ({**GPU, "driver": "470.1"},)}, "driver is 470.1"),
        ({"min_vram_gib": 48}, "has 24 GiB"),
        ({"disk_gb": 1.0}, "1.0 GB of disk"),
        ({"min_disk_gib": 9.5}, "9.3 GiB of free disk, it needs 9.5"),
    ],
)
def test_a_host_that_is_no_good_for_a_training_is_refused(host, words):
    check()
    with pytest.raises(PodFailed, match=words):
        check(**host)


def test_a_validation_is_asked_for_no_gpu_but_for_disk():
    check("validation", gpus=())
    with pytest.raises(PodFailed, match="disk"):
        check("validation", gpus=(), disk_gb=1.0)


def test_a_host_with_as_much_disk_as_its_training_asks_for_is_good():
    check(min_disk_gib=9.3)
