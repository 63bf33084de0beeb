"""What an admin is told before anything is relied on."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from fakes.agent_world import FakeRuntime
from fakes.gpus import RTX, FakeGpus
from touchstone_agent import __main__ as command
from touchstone_agent import host_checks, preflight
from touchstone_agent.adapters import gpu
from touchstone_agent.core.ports import EngineFacts
from touchstone_agent.host_checks import Origin
from touchstone_agent.preflight import CheckResult, run_checks
from touchstone_agent.settings import AgentSettings

from .conftest import CONTROL_PUBLIC


class SharingRuntime(FakeRuntime):
    """Cannot keep runner and trainer apart."""

    def find_shared_user(self, image: str | None = None) -> str | None:
        return "this agent is not root"


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[CheckResult]]:
    monkeypatch.setattr(preflight, "_check_queue", lambda settings, queue: "reachable")
    monkeypatch.setattr(host_checks, "ask_origin", lambda url: Origin(skew=timedelta(0)))

    def check(
        runtime: FakeRuntime, *, is_enrolled: bool = True, **settings: object
    ) -> list[CheckResult]:
        known = AgentSettings(
            **{
                "env": "dev",
                "server": "box",
                "state_dir": tmp_path,
                "private_key_file": tmp_path / "key",
                "control_public_key": CONTROL_PUBLIC,
                "images_allowed": ("trainer:1", "registry/*"),
                "min_free_mib": 0,
                **settings,
            }
        )
        return list(run_checks(known, lambda _: runtime, is_enrolled=is_enrolled))

    return check


def test_it_is_told_whether_runner_and_trainer_are_two_users(check) -> None:
    told = [r for r in check(FakeRuntime()) if r.name.startswith("users")]
    assert [r.name for r in told] == ["users", "users in trainer:1"]
    assert all(r.is_ok and not r.is_warning for r in told)


def test_who_shares_a_user_is_warned_of_loudly_and_may_go_on(
    check, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = check(SharingRuntime())
    told, _ = [r for r in found if r.name.startswith("users")]
    assert told.is_ok
    assert told.is_warning
    assert "SHARE A USER: this agent is not root" in told.text

    monkeypatch.setattr(preflight, "run_checks", lambda *_, **__: (told,))
    assert command.doctor(None) == 0
    assert capsys.readouterr().out.startswith("WARN users: RUNNER AND TRAINER")


# --- GPUs -------------------------------------------------------------------------------------


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    """Two GPUs, of which preflight can ask."""
    found = FakeGpus(tmp_path / "machine")
    monkeypatch.setenv("PATH", f"{found.bin}:{os.environ['PATH']}")
    # A busy machine is no driver that hangs.
    monkeypatch.setattr(gpu, "LOOK_SECONDS", 600)
    return found


@pytest.fixture
def look(check) -> Callable[..., CheckResult]:
    """Return a function that checks, and returns what is said of one thing."""

    def look(
        name: str = "GPUs", runtime: FakeRuntime | None = None, **settings: object
    ) -> CheckResult:
        (found,) = [r for r in check(runtime or FakeRuntime(), **settings) if r.name == name]
        return found

    return look


@pytest.fixture
def stranger() -> Iterator[int]:
    """The process id of somebody who is no attempt."""
    process = subprocess.Popen(["sleep", "3600"])
    yield process.pid
    process.kill()
    process.wait()


def test_the_gpus_are_told_with_memory_driver_and_shares(gpus: FakeGpus, look) -> None:
    told = look(slots=4, gpu_shares=2)

    assert told.is_ok
    assert not told.is_warning
    one = f"{RTX} (24576 MiB, driver 550.54.14, 2 shares)"
    assert told.text == f"0: {one}, 1: {one}"


def test_a_machine_without_gpus_needs_none(monkeypatch: pytest.MonkeyPatch, look) -> None:
    monkeypatch.setenv("PATH", "/nowhere")

    told = look()

    assert (told.is_ok, told.is_warning, told.text) == (True, False, "none")


def test_gpus_that_nobody_wants_are_not_asked_of(gpus: FakeGpus, look) -> None:
    assert look(gpu="none").text == "none"
    assert gpus.asked == []


def test_the_driver_is_asked_once_for_all_checks(gpus: FakeGpus, check) -> None:
    check(FakeRuntime(), images_allowed=("a:1", "b:1", "c:1"))

    assert [line.partition("=")[0] for line in gpus.asked] == [
        *("--query-gpu", "-L", "--query-compute-apps"),
    ]


def test_somebody_else_on_a_gpu_is_warned_of(gpus: FakeGpus, look, stranger: int) -> None:
    gpus.use(1, stranger)

    told = look()

    assert told.is_warning
    assert f"another process uses GPU 1 (pid {stranger}, 12000 MiB); end it, or" in told.text


def test_what_this_agent_runs_is_nobody_else(gpus: FakeGpus, look, stranger: int) -> None:
    gpus.use(1, stranger)
    runtime = FakeRuntime()
    runtime.labels["touchstone-dev-s1-i5-1-1"] = {"touchstone.gpus": "GPU-1"}

    assert not look(runtime=runtime).is_warning, "nobody can look, and it holds that GPU"
    runtime.main_pids["touchstone-dev-s1-i5-1-1"] = os.getpid()
    assert not look(runtime=runtime).is_warning
    runtime.main_pids["touchstone-dev-s1-i5-1-1"] = stranger
    gpus.use(0, os.getpid())
    assert look(runtime=runtime).is_warning


@pytest.mark.parametrize("fault", ["lost", "error"])
def test_a_broken_gpu_is_warned_of_and_the_others_told(gpus: FakeGpus, look, fault: str) -> None:
    gpus.change_gpu(0, fault=fault)

    told = look()

    assert told.is_warning
    assert told.text.startswith(f"1: {RTX}")
    assert "lost" in told.text or "Unknown Error" in told.text


def test_a_driver_that_does_not_work_is_warned_of_with_its_own_words(gpus: FakeGpus, look) -> None:
    gpus.change(fault="failed")

    told = look()

    assert told.is_warning
    assert told.text.startswith("none; nvidia-smi ended with 9: NVIDIA-SMI has failed")


def test_a_driver_that_hangs_is_warned_of(
    gpus: FakeGpus, look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "LOOK_SECONDS", 0.2)
    gpus.change(fault="hang")

    assert look().text.startswith("none; nvidia-smi does not answer within")


def test_a_gpu_of_the_settings_that_is_not_there_is_a_failure(gpus: FakeGpus, look) -> None:
    gpus.change_gpu(1, fault="lost")

    told = look(gpu=(0, 1))

    assert not told.is_ok
    assert told.text.startswith("GPUs [1] are named in the settings and not found; Unable to")


def test_memory_that_is_used_up_by_nobody_who_is_told_is_warned_of(gpus: FakeGpus, look) -> None:
    gpus.change_gpu(0, used_mib=23000)
    gpus.change_gpu(1, used_mib=400)

    told = look()

    assert told.text.endswith(
        "; 23000 of 24576 MiB of GPU 0 are used, and no process is listed there"
    )


def test_shares_of_a_gpu_that_takes_one_process_are_warned_of(gpus: FakeGpus, look) -> None:
    gpus.change_gpu(0, mode="Exclusive_Process")

    assert not look().is_warning
    told = look(gpu_shares=2)
    assert told.text.endswith(
        "GPU 0 is in compute mode Exclusive_Process, so only one of its 2 shares can be used: "
        "nvidia-smi -i 0 -c DEFAULT"
    )


def test_more_slots_than_gpus_are_warned_of(gpus: FakeGpus, look) -> None:
    assert not look(slots=2).is_warning
    assert look(slots=3).text.endswith(
        "the setting slots is 3, but the GPUs are enough for 2: lower it, or raise gpu_shares"
    )
    assert not look(slots=3, gpu_shares=2).is_warning


# --- images and GPUs --------------------------------------------------------------------------


@pytest.fixture
def look_at_image(look) -> Callable[..., CheckResult]:
    def look_at_image(**labels: str) -> CheckResult:
        runtime = FakeRuntime()
        runtime.image_labels = {f"touchstone.{name}": value for name, value in labels.items()}
        return look("GPUs for trainer:1", runtime)

    return look_at_image


CUDA = {"backend": "cuda", "cuda": "12.8", "min_driver": "525.60.13"}


def test_an_image_that_fits_the_driver_is_well(gpus: FakeGpus, look_at_image) -> None:
    told = look_at_image(**CUDA)

    assert (told.is_ok, told.is_warning, told.text) == (True, False, "cuda")


def test_an_image_that_needs_a_newer_driver_is_a_failure(gpus: FakeGpus, look_at_image) -> None:
    gpus.change(driver="470.57.02")

    told = look_at_image(**CUDA)

    assert not told.is_ok
    assert told.text == (
        "image trainer:1 is for CUDA 12.8 and needs driver 525.60.13 or newer, this server has "
        "470.57.02: install a newer driver"
    )


def test_an_image_for_the_cpu_is_warned_of_where_there_are_gpus(
    gpus: FakeGpus, look_at_image, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert look_at_image(backend="cpu").is_warning
    assert "set touchstone's trainer_image_cuda" in look_at_image(backend="cpu").text
    monkeypatch.setenv("PATH", "/nowhere")
    assert not look_at_image(backend="cpu").is_warning


def test_an_image_that_says_nothing_is_taken_as_given(gpus: FakeGpus, look_at_image) -> None:
    told = look_at_image()

    assert (told.is_ok, told.is_warning) == (True, False)


# --- the machine ------------------------------------------------------------------------------


def build_engine(**facts: object) -> FakeRuntime:
    runtime = FakeRuntime()
    known = {
        "storage_driver": "overlay2",
        "root": Path("/"),
        "has_live_restore": True,
        "runtimes": ("runc",),
    }
    runtime.engine = EngineFacts(**{**known, **facts})
    return runtime


def test_a_machine_as_it_should_be_is_told_line_by_line(check) -> None:
    told = check(build_engine(), gpu="none", is_enrolled=False)

    assert [r.name for r in told] == [
        *("Python", "kernel", "memory", "disk", "clock", "way to the queues", "engine"),
        *("storage driver", "live-restore", "disk of the engine", "GPU runtime", "GPUs", "users"),
    ]
    assert all(r.is_ok for r in told)


def test_of_a_server_that_is_not_enrolled_neither_keys_nor_queues_are_asked(check) -> None:
    named = {r.name for r in check(build_engine()) if "key" in r.name or "queue " in r.name}
    assert "queue req-box.fifo" in named
    left = {r.name for r in check(build_engine(), is_enrolled=False)}
    assert not named & left


@pytest.mark.parametrize(
    ("name", "facts", "words"),
    [
        ("storage driver", {"storage_driver": "vfs"}, "overlay2"),
        ("live-restore", {"has_live_restore": False}, '"live-restore": true'),
    ],
)
def test_an_engine_that_serves_badly_is_warned_of_with_the_way_out(
    look, name: str, facts: dict[str, object], words: str
) -> None:
    told = look(name, build_engine(**facts), gpu="none")
    assert told.is_ok
    assert told.is_warning
    assert words in told.text
    assert not look(name, build_engine(), gpu="none").is_warning


def test_gpus_that_the_engine_cannot_hand_over_are_a_failure(
    gpus: FakeGpus, look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_checks, "_CDI_FOLDERS", ())
    told = look("GPU runtime", build_engine())
    assert not told.is_ok
    assert "NVIDIA Container Toolkit" in told.text
    assert look("GPU runtime", build_engine(runtimes=("nvidia", "runc"))).is_ok
    assert look("GPU runtime", build_engine(), gpu="none").is_ok


@pytest.mark.parametrize(
    ("seconds", "words"), [(3600, "3600 s ahead"), (-3600, "3600 s behind"), (-121, "121 s behind")]
)
def test_a_clock_that_is_wrong_is_a_failure(
    look, check, monkeypatch: pytest.MonkeyPatch, seconds: int, words: str
) -> None:
    skewed = Origin(skew=timedelta(seconds=seconds))
    monkeypatch.setattr(host_checks, "ask_origin", lambda url: skewed)
    (told,) = [r for r in check(FakeRuntime()) if r.name == "clock"]
    assert not told.is_ok
    assert told.text.startswith(words)
    assert "timedatectl set-ntp true" in told.text


def test_an_object_store_that_cannot_be_reached_is_a_failure(
    check, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(url: str) -> Origin:
        if "objects" in url:
            raise OSError(f"{url} cannot be reached: firewall")
        return Origin(skew=timedelta(0))

    monkeypatch.setattr(host_checks, "ask_origin", ask)
    told = {r.name: r for r in check(FakeRuntime(), objects_url="https://objects.example")}
    assert told["way to the queues"].is_ok
    assert not told["way to the object store"].is_ok


def test_the_same_list_is_a_document_for_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = CheckResult(name="disk", is_ok=False, text="1 MiB free")
    monkeypatch.setattr(preflight, "run_checks", lambda *_, **__: (told,))
    assert command.doctor(None, as_json=True) == 1
    assert json.loads(capsys.readouterr().out) == [
        {"name": "disk", "is_ok": False, "text": "1 MiB free", "is_warning": False}
    ]


@pytest.mark.parametrize(
    ("answer", "said"), [(3, "Landlock 3"), (-1, "take Linux 5.13"), (0, "has no Landlock")]
)
def test_a_kernel_without_landlock_is_told(answer, said, monkeypatch):
    class Libc:
        def syscall(self, number, *_):
            assert number == 444
            return answer

    monkeypatch.setattr(host_checks.ctypes, "CDLL", lambda _: Libc())
    found = host_checks.check_kernel()
    assert said in found
    assert isinstance(found, host_checks.Warned) == (answer < 1)
