from __future__ import annotations

from pathlib import Path

from tests.unit.pod.conftest import make_start

from touchstone_agent.pod import trainer
from touchstone_agent.pod.home import PodHome
from touchstone_agent.protocol.messages import Limits, Preparation
from touchstone_agent.protocol.pods import PodStart

HOME = PodHome(Path("/workspace/touchstone"))
ATTEMPT = "/workspace/touchstone/attempt"


def build_command(start: PodStart) -> list[str]:
    return trainer.build_command(start, start.argv, HOME)


def build_environment(start: PodStart, image: dict[str, str], **facts: bool) -> dict[str, str]:
    is_apart = facts.get("is_apart", False)
    return trainer.build_environment(start, HOME, image, limits=start.limits, is_apart=is_apart)


def test_the_folders_take_the_place_of_their_names() -> None:
    assert build_command(make_start()) == [
        *("elnigma-run", "train", "--feature-set", f"{ATTEMPT}/in/content"),
        *("--out", f"{ATTEMPT}/out"),
    ]


def test_a_command_is_taken_as_it_is() -> None:
    start = make_start(command=("/bin/sh", "-c", "echo {in}"), argv=())
    assert build_command(start) == ["/bin/sh", "-c", "echo {in}"]


def test_the_environment_is_the_images_the_orders_and_the_contracts() -> None:
    environment = build_environment(make_start(), {"PATH": "/bin", "HOME": "/root"})
    assert environment == {
        "PATH": "/bin",
        "TOUCHSTONE_SEED": "7",
        "TOUCHSTONE_WALL_SECONDS": "100",
        "TOUCHSTONE_MEMORY_MIB": "512",
        "TOUCHSTONE_CONSOLE_BYTES": str(8 * 1024**2),
        "TOUCHSTONE_OUTPUT_BYTES": str(1024**3),
        "TOUCHSTONE_IN": f"{ATTEMPT}/in",
        "TOUCHSTONE_OUT": f"{ATTEMPT}/out",
        "TOUCHSTONE_PROGRESS_FILE": f"{ATTEMPT}/out/progress.jsonl",
        "HOME": f"{ATTEMPT}/tmp",
        "TMPDIR": f"{ATTEMPT}/tmp",
    }


def test_an_order_cannot_move_the_folders_or_lift_the_limits() -> None:
    start = make_start(
        environment={"TOUCHSTONE_OUT": "/", "HOME": "/root", "TOUCHSTONE_WALL_SECONDS": "9e9"},
        limits=Limits(wall_seconds=5, cpu_seconds=4),
    )
    environment = build_environment(start, {})
    assert environment["TOUCHSTONE_OUT"] == f"{ATTEMPT}/out"
    assert environment["HOME"] == f"{ATTEMPT}/tmp"
    assert environment["TOUCHSTONE_WALL_SECONDS"] == "5"
    assert environment["TOUCHSTONE_CPU_SECONDS"] == "4"


def test_a_runner_that_stays_root_is_told_whom_to_start() -> None:
    assert "TOUCHSTONE_TRAINER_USER" not in build_environment(make_start(), {})
    environment = build_environment(make_start(), {}, is_apart=True)
    assert environment["TOUCHSTONE_TRAINER_USER"] == "65534:65534"


def test_what_is_prepared_is_beside_the_attempt() -> None:
    start = make_start(prepare=Preparation(argv=("prepare",), inputs=("elnigma",)))
    environment = build_environment(start, {})
    assert environment["TOUCHSTONE_CACHE"] == "/workspace/touchstone/cache"
