"""What a submission has compiled is its own, bounded, and never a reason to fail."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from fakes.agent_world import make_grant, make_ref, make_start
from touchstone_agent.adapters import compiled
from touchstone_agent.adapters.compiled import FILE, KEPT_SECONDS, CompiledCache, build_key
from touchstone_agent.core.gpus import DetectedGpu
from touchstone_agent.core.ports import Exit, LaunchSpec
from touchstone_agent.machine import Machine
from touchstone_agent.protocol.messages import Input, SlotClass
from touchstone_agent.supervisor import Supervisor

from .conftest import AgentWorld

MIB = 1024**2
INPUTS = (("content", "aa"),)


class Shelf:
    """A cache, and attempts that use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "compiled"
        self.cache = self.make()

    def make(self, *, most_bytes: int = 10 * MIB, boot: str = "b1", free: int = 0) -> CompiledCache:
        return CompiledCache(
            self.root, most_bytes=most_bytes, free_bytes=free, devices=list, boot=boot
        )

    def begin(
        self, name: str, *, submission: str = "s1", gpus: tuple[str, ...] = (), **key: str
    ) -> Path:
        """Give an attempt what there is, as its supervisor does."""
        attempt = self.folder / "attempts" / name
        for part in ("in", "out"):
            (attempt / part).mkdir(parents=True)
        inputs = [("content", key.get("content", "aa"))]
        self.cache.give(attempt, submission, inputs, key.get("image", "digest"), gpus)
        return attempt

    def train(self, name: str, content: bytes, **key: str) -> Path:
        """Let an attempt leave something, and take it over."""
        attempt = self.begin(name, **key)
        (attempt / "out" / FILE).write_bytes(content)
        self.cache.take(attempt)
        return attempt

    def files(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir()) if self.root.exists() else []


def read_given(attempt: Path) -> bytes | None:
    path = attempt / "in" / FILE
    return path.read_bytes() if path.exists() else None


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_the_next_training_of_a_submission_gets_what_the_last_has_left(shelf: Shelf) -> None:
    first = shelf.train("first", b"code")
    assert read_given(first) is None
    assert not (first / "out" / FILE).exists()

    assert read_given(shelf.begin("second")) == b"code"


@pytest.mark.parametrize(
    "other",
    [
        {"submission": "s2"},
        {"content": "bb"},
        {"image": "another"},
        {"gpus": ("NVIDIA H100 driver 550.1",)},
    ],
    ids=["submission", "content", "image", "device"],
)
def test_nobody_else_gets_it(shelf: Shelf, other: dict[str, str]) -> None:
    shelf.train("first", b"code")

    assert read_given(shelf.begin("second", **other)) is None


def test_what_was_left_before_the_last_boot_is_not_used(shelf: Shelf) -> None:
    shelf.train("first", b"code")
    shelf.cache = shelf.make(boot="b2")

    assert read_given(shelf.begin("second")) is None


def test_another_processor_has_another_key(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shelf.train("first", b"code")
    other = tmp_path / "cpuinfo"
    other.write_text("processor\t: 0\nmodel name\t: Another\nflags\t\t: sse2\n\nprocessor\t: 1\n")
    monkeypatch.setattr(compiled, "_CPU_FILE", other)
    shelf.cache = shelf.make()

    assert read_given(shelf.begin("second")) is None


def test_a_gpu_is_its_model_and_its_driver() -> None:
    gpu = DetectedGpu(uuid="GPU-1", index=0, name="A100", memory_mib=40_000, driver="550.1")
    machine = Machine(cpus=1, memory_mib=1, gpus=(gpu,))

    assert machine.describe_gpus(("GPU-1", "GPU-2")) == ["A100 driver 550.1", "GPU-2"]


def test_what_is_given_is_a_copy(shelf: Shelf) -> None:
    """The input folder of a plain process can be written to by whatever runs there."""
    shelf.train("first", b"code")
    (shelf.begin("second") / "in" / FILE).write_bytes(b"poison")

    assert read_given(shelf.begin("third")) == b"code"


def test_the_last_of_two_at_once_is_kept_whole(shelf: Shelf) -> None:
    attempts = [shelf.begin(f"a{number}") for number in range(8)]
    for number, attempt in enumerate(attempts):
        (attempt / "out" / FILE).write_bytes(bytes([number]) * MIB)
    threads = [threading.Thread(target=shelf.cache.take, args=(a,)) for a in attempts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    given = read_given(shelf.begin("next"))
    assert given is not None
    assert given == given[:1] * MIB
    assert len(shelf.files()) == 1


def leave_link(out: Path) -> None:
    (out.parent / "secret").write_bytes(b"secret")
    (out / FILE).symlink_to(out.parent / "secret")


def leave_hard_link(out: Path) -> None:
    (out.parent / "secret").write_bytes(b"secret")
    (out / FILE).hardlink_to(out.parent / "secret")


def leave_sparse(out: Path) -> None:
    with (out / FILE).open("wb") as file:
        file.truncate(2**40)


def leave_nothing(_: Path) -> None:
    """A training that has compiled nothing new."""


HOSTILE = {
    "link": leave_link,
    "hard link": leave_hard_link,
    "pipe": lambda out: os.mkfifo(out / FILE),
    "folder": lambda out: (out / FILE / "deep").mkdir(parents=True),
    "sparse": leave_sparse,
    "too large": lambda out: (out / FILE).write_bytes(bytes(10 * MIB + 1)),
    "empty": lambda out: (out / FILE).touch(),
    "nothing": leave_nothing,
}


@pytest.mark.parametrize("leave", HOSTILE.values(), ids=HOSTILE.keys())
def test_of_anything_but_a_small_file_nothing_is_taken(shelf: Shelf, leave) -> None:
    shelf.train("first", b"code")
    hostile = shelf.begin("hostile")
    leave(hostile / "out")

    shelf.cache.take(hostile)

    assert read_given(shelf.begin("next")) == b"code"
    assert len(shelf.files()) == 1


def test_one_key_has_its_own_bound(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "MOST_BYTES", MIB)
    shelf.train("first", bytes(MIB + 1))

    assert shelf.files() == []


def test_the_least_used_go_first(shelf: Shelf) -> None:
    shelf.cache = shelf.make(most_bytes=3 * MIB)
    for number in range(3):
        attempt = shelf.train(f"first{number}", bytes(MIB), submission=f"s{number}")
        key = (attempt / "compiled").read_text()
        used_at = time.time() - 1000 + number
        os.utime(shelf.root / key, (used_at, used_at))
    # Used again, the oldest is the newest.
    assert read_given(shelf.begin("again", submission="s0")) is not None

    shelf.train("more", bytes(MIB), submission="s9")

    names = ("s0", "s1", "s2", "s9")
    given = [read_given(shelf.begin(name, submission=name)) is not None for name in names]
    assert given == [True, False, True, True]


def test_what_nobody_has_used_for_long_goes(shelf: Shelf) -> None:
    shelf.train("first", b"code")
    (path,) = shelf.root.iterdir()
    old = path.stat().st_mtime - KEPT_SECONDS - 1
    os.utime(path, (old, old))

    shelf.cache.sweep()

    assert shelf.files() == []


def test_half_a_copy_is_never_used_and_goes(shelf: Shelf) -> None:
    """The agent was killed in the middle of taking it over."""
    attempt = shelf.begin("first")
    shelf.root.mkdir()
    (shelf.root / ".partial-1").write_bytes(b"co")

    assert read_given(shelf.begin("second")) is None
    shelf.cache.sweep()
    assert shelf.files() == []
    (attempt / "out" / FILE).write_bytes(b"code")
    shelf.cache.take(attempt)
    assert read_given(shelf.begin("third")) == b"code"


def test_a_full_disk_is_said_once_and_costs_nothing_else(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.train("first", b"code")
    shelf.cache = shelf.make(free=2**62)
    for number in range(3):
        attempt = shelf.train(f"full{number}", b"more")
        assert read_given(attempt) is None
        assert not (attempt / "out" / FILE).exists()

    assert [record.getMessage() for record in caplog.records].count("compiled.failed") == 1
    shelf.cache = shelf.make()
    assert read_given(shelf.begin("later")) == b"code"


def test_a_folder_that_cannot_be_made_costs_nothing_else(shelf: Shelf) -> None:
    shelf.root.write_text("a file in its place")

    shelf.train("first", b"code")

    assert read_given(shelf.begin("second")) is None
    shelf.cache.sweep()
    assert not shelf.cache.clear()


def test_all_of_it_goes_when_others_need_the_disk(shelf: Shelf) -> None:
    shelf.train("first", b"code")

    assert shelf.cache.clear()
    assert not shelf.cache.clear()
    assert read_given(shelf.begin("second")) is None


def test_with_0_nothing_is_given_or_kept_and_what_there_was_goes(shelf: Shelf) -> None:
    shelf.train("first", b"code")
    shelf.cache = shelf.make(most_bytes=0)

    attempt = shelf.train("second", b"more")
    assert read_given(attempt) is None
    assert not shelf.cache.is_wanted(attempt)
    shelf.cache.sweep()
    assert shelf.files() == []


def test_an_input_of_that_name_stays_what_it_is(shelf: Shelf) -> None:
    shelf.train("first", b"code")
    attempt = shelf.folder / "attempts" / "second"
    (attempt / "in").mkdir(parents=True)
    (attempt / "in" / FILE).write_bytes(b"an input")

    shelf.cache.give(attempt, "s1", INPUTS, "digest", ())

    assert read_given(attempt) == b"an input"
    assert not shelf.cache.is_wanted(attempt)


def test_a_key_that_is_none_is_not_used(shelf: Shelf) -> None:
    """A plain process can write into its attempt's folder."""
    attempt = shelf.begin("first")
    (attempt / "compiled").write_text("../journal.db")
    (attempt / "out" / FILE).write_bytes(b"code")

    shelf.cache.take(attempt)

    assert shelf.files() == []


def test_parts_of_a_key_cannot_take_each_others_place() -> None:
    one = build_key("s1", [("a", "b")], "image", ["cpu"])
    assert one == build_key("s1", [("a", "b")], "image", ["cpu"])
    assert one != build_key("s1", [("a", "b")], "image", ["cpu", ""])
    assert one != build_key("s1a", [("", "b")], "image", ["cpu"])


# --- through an attempt ----------------------------------------------------------------------


def make_input() -> Input:
    return Input(path="content", grant=make_grant("input/content"), sha256="aa", size=3)


class Run:
    """What an attempt was given."""

    def __init__(self) -> None:
        self.given: bytes | None = None
        self.environment: Mapping[str, str] = {}


def run(
    world: AgentWorld,
    supervised: list[Supervisor],
    task_id: str,
    *,
    fence: int = 1,
    fails: bool = False,
    **start: object,
) -> Run:
    """Run an attempt whose runner leaves something compiled."""
    run = Run()

    def work(spec: LaunchSpec) -> Exit:
        run.given, run.environment = read_given(spec.folder), spec.environment
        out = spec.folder / "out"
        (out / FILE).write_bytes(b"code")
        verdict = {"exit_code": int(fails), "outcome": "failed" if fails else "succeeded"}
        (out / "verdict.json").write_text(json.dumps({**verdict, "files": []}))
        return Exit(exit_code=int(fails))

    world.runtime._work = work
    world.store.objects["input/content"] = b"abc"
    ref = make_ref(task_id=task_id, fence=fence)
    world.order(make_start(ref, inputs=(make_input(),), **start))
    supervised[-1].run()
    return run


def test_seeds_and_intervals_of_a_submission_share(
    world: AgentWorld, supervised: list[Supervisor]
) -> None:
    first = run(world, supervised, "i1")
    assert first.given is None
    assert first.environment["TOUCHSTONE_COMPILED_BYTES"] == str(64 * MIB)

    assert run(world, supervised, "i5", environment={"TOUCHSTONE_SEED": "7"}).given == b"code"


def test_a_training_that_failed_leaves_nothing(
    world: AgentWorld, supervised: list[Supervisor]
) -> None:
    run(world, supervised, "i1", fails=True)

    assert run(world, supervised, "i5").given is None


def test_a_validation_neither_gets_nor_leaves_anything(
    world: AgentWorld, supervised: list[Supervisor]
) -> None:
    first = run(world, supervised, "validation", slot_class=SlotClass.VALIDATION)
    assert "TOUCHSTONE_COMPILED_BYTES" not in first.environment
    assert run(world, supervised, "i1").given is None

    second = run(world, supervised, "validation", fence=2, slot_class=SlotClass.VALIDATION)
    assert second.given is None


def test_a_start_is_not_refused_for_what_is_only_faster(
    world: AgentWorld, supervised: list[Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(world, supervised, "i1")
    world.tell()
    sizes = iter([0, 2**40])
    monkeypatch.setattr(
        "touchstone_agent.daemon.shutil.disk_usage",
        lambda _: type("Usage", (), {"free": next(sizes)})(),
    )

    world.order(make_start(make_ref(task_id="i5"), inputs=(make_input(),)))

    assert world.tell_phases() == [("i5", 1, "accepted")]
    assert list((world.folder / "compiled").iterdir()) == []
