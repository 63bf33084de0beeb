"""What an image says of itself, compared with a server's GPUs."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from fakes.agent_world import FakeRuntime
from touchstone_agent.images import look_at_images
from touchstone_agent.protocol.errors import PermanentError
from touchstone_agent.protocol.images import (
    ImageFacts,
    ServerImage,
    find_driver_problem,
    find_idle_gpus,
    parse_version,
    read_image_labels,
)
from touchstone_agent.protocol.messages import MAX_IMAGES, Inventory

CUDA = ImageFacts(backend="cuda", cuda="12.8", min_driver="525.60.13")
CPU = ImageFacts(backend="cpu")
LABELS = {
    "touchstone.backend": "cuda",
    "touchstone.cuda": "12.8",
    "touchstone.min_driver": "525.60.13",
}


def test_the_labels_of_an_image_are_read_and_all_others_left_out() -> None:
    assert read_image_labels({**LABELS, "maintainer": "x" * 100_000}) == CUDA
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


# --- what an agent tells of them ----------------------------------------------------------------


class Engine(FakeRuntime):
    """Has the images that it is given."""

    def __init__(self, **images: Mapping[str, str]) -> None:
        super().__init__()
        self.images = images
        self.asked: list[str] = []

    def read_image_labels(self, image: str) -> Mapping[str, str]:
        self.asked.append(image)
        if image not in self.images:
            raise PermanentError(f"image {image}: no such image")
        return self.images[image]


def test_an_agent_tells_what_images_say_and_which_are_not_here() -> None:
    engine = Engine(cuda=LABELS, cpu={"touchstone.backend": "cpu"}, silent={})

    told = look_at_images(("cuda", "cpu", "gone", "silent", "any/*", "on?", "[a]"), engine)

    assert told == (
        ServerImage(name="cuda", backend="cuda", cuda="12.8", min_driver="525.60.13"),
        ServerImage(name="cpu", backend="cpu"),
        ServerImage(name="gone", is_here=False),
    )
    assert engine.asked == ["cuda", "cpu", "gone", "silent"]


def test_an_agent_tells_of_no_more_images_than_a_message_takes() -> None:
    names = ["x" * 201, *(f"image-{number}" for number in range(50))]

    told = look_at_images(names, Engine())

    assert [image.name for image in told] == names[1 : MAX_IMAGES + 1]
    assert len(Inventory.model_validate(make_inventory(images=told)).images) == MAX_IMAGES


def test_an_inventory_without_images_is_written_as_before_there_were_any() -> None:
    assert "images" not in Inventory.model_validate(make_inventory()).model_dump(mode="json")


@pytest.mark.parametrize("nonsense", ["rocm", 7, None, ["cpu"], "9" * 1000, {"a": 1}])
def test_a_newer_agents_word_on_an_image_costs_it_no_heartbeat(nonsense: object) -> None:
    item = {"name": "x", "backend": nonsense, "cuda": nonsense, "min_driver": nonsense, "new": 1}

    (read,) = Inventory.model_validate(make_inventory(images=[item])).images

    assert read == ServerImage(name="x")


def make_inventory(**fields: object) -> dict[str, object]:
    return {
        "slots": 1,
        "validation_slots": 1,
        "runtime": "docker",
        "agent_version": "1",
        "cpus": 1,
        "memory_mib": 1,
        **fields,
    }
