"""What an image says of itself, compared with a server's GPUs."""

from __future__ import annotations

import pytest

from touchstone_agent.protocol.images import (
    ImageFacts,
    find_driver_problem,
    find_idle_gpus,
    parse_version,
    read_image_labels,
)

CUDA = ImageFacts(backend="cuda", cuda="12.8", min_driver="525.60.13")
CPU = ImageFacts(backend="cpu")


def test_the_labels_of_an_image_are_read_and_all_others_left_out() -> None:
    labels = {
        "touchstone.backend": "cuda",
        "touchstone.cuda": "12.8",
        "touchstone.min_driver": "525.60.13",
        "maintainer": "x" * 100_000,
    }

    assert read_image_labels(labels) == CUDA
    assert read_image_labels({}) == ImageFacts()


@pytest.mark.parametrize(
    "text", ["", "12.", "a.b", "525.60.13.1.2", "5" * 50, "²", "12\n", "-1", " 12"]
)
def test_a_label_that_makes_no_sense_counts_as_absent(text: str) -> None:
    labels = {"touchstone.backend": text, "touchstone.cuda": text, "touchstone.min_driver": text}

    assert read_image_labels(labels) == ImageFacts()


@pytest.mark.parametrize("driver", ["525.60.13", "525.60.14", "525.105", "550.54.14", "1000.1"])
def test_a_driver_that_is_new_enough_is_no_problem(driver: str) -> None:
    assert find_driver_problem("trainer:1", CUDA, [driver]) is None


@pytest.mark.parametrize("driver", ["470.57.02", "525.60.12", "525.60", "99.9"])
def test_an_older_driver_is_told_with_the_way_out(driver: str) -> None:
    assert find_driver_problem("trainer:1", CUDA, ["550.54.14", driver]) == (
        "image trainer:1 is for CUDA 12.8 and needs driver 525.60.13 or newer, this server has "
        f"{driver}: install a newer driver"
    )


@pytest.mark.parametrize(
    ("facts", "drivers"),
    [
        (CUDA, []),
        (CUDA, ["who knows"]),
        (CPU, ["470.57.02"]),
        (ImageFacts(), ["470.57.02"]),
        (ImageFacts(backend="cuda"), ["470.57.02"]),
    ],
)
def test_nothing_is_said_where_nothing_can_be_compared(
    facts: ImageFacts, drivers: list[str]
) -> None:
    assert find_driver_problem("trainer:1", facts, drivers) is None


def test_an_image_for_the_cpu_on_a_server_with_gpus_is_told() -> None:
    assert find_idle_gpus("trainer:1", CPU, has_gpus=True) == (
        "image trainer:1 computes on the CPU only: its trainings would not use the GPUs of this "
        "server; set touchstone's trainer_image_cuda"
    )


@pytest.mark.parametrize(("facts", "has_gpus"), [(CPU, False), (CUDA, True), (ImageFacts(), True)])
def test_no_other_image_leaves_a_gpu_idle(facts: ImageFacts, has_gpus: bool) -> None:
    assert find_idle_gpus("trainer:1", facts, has_gpus=has_gpus) is None


def test_versions_compare_by_their_numbers() -> None:
    assert parse_version("525.60.13") == (525, 60, 13)
    assert parse_version("v1") is None
