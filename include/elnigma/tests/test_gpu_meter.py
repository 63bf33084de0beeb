"""What the runner tells of a GPU: from stand-ins for NVML and nvidia-smi, since CI has no GPU."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import GOOD_VALIDATION, Run
from elnigma_runner import gpu
from elnigma_runner.gpu import GpuMeter
from elnigma_runner.settings import read_settings
from elnigma_runner.verdict import Ending, Stop, decide

RunScript = Callable[..., Run]
STAND_INS = Path(__file__).parent / "stand_ins"
UUID = "GPU-11111111-2222-3333-4444-555555555555"
OTHER_UUID = "GPU-99999999-2222-3333-4444-555555555555"
MIB = 1024**2
L4: dict[str, Any] = {
    "uuid": UUID,
    "name": "NVIDIA L4",
    "percent": 40,
    "used": 3000 * MIB,
    "total": 23034 * MIB,
    "processes": [],
    "milliwatts": 72_000,
    "millijoules": 5_000_000,
}
# What the figures of an L4 that says nothing else come to.
USED = {
    "name": "NVIDIA L4",
    "uuid": UUID,
    "driver": "550.54.14",
    "mean_utilisation_percent": 40.0,
    "peak_memory_mib": 3000.0,
    "memory_of": "device",
    "memory_mib": 23034.0,
    "mean_power_watts": 72.0,
}


class Gpus:
    """The GPUs that the stand-ins tell of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {"PYTHONPATH": str(STAND_INS), "STAND_IN_GPU": str(path)}
        self.set(L4)

    def set(self, *devices: dict[str, Any]) -> None:
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps({"driver": "550.54.14", "devices": devices}))
        partial.replace(self.path)


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gpus]:
    """GPUs that NVML tells of, in this process and in those that get the environment."""
    gpus = Gpus(tmp_path / "gpus.json")
    monkeypatch.setenv("STAND_IN_GPU", str(gpus.path))
    monkeypatch.syspath_prepend(str(STAND_INS))
    monkeypatch.setenv("PATH", "/nowhere")
    yield gpus
    sys.modules.pop("pynvml", None)


@pytest.fixture
def put_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a nvidia-smi on the PATH that runs a line of shell; no other tells of a GPU."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    def put(line: str) -> None:
        command = tmp_path / "bin" / "nvidia-smi"
        command.write_text(f"#!/bin/sh\n{line}\n")
        command.chmod(0o755)

    return put


def test_the_verdict_tells_what_a_gpu_was_used_for(run_script: RunScript, gpus: Gpus) -> None:
    later = json.dumps({"driver": "550.54.14", "devices": [{**L4, "millijoules": 5_900_000}]})
    run = run_script(
        GOOD_VALIDATION + f"gpus = pathlib.Path({str(gpus.path)!r})\n"
        "while not gpus.with_suffix('.json.asked').exists(): pass\n"
        f"gpus.with_suffix('.new').write_text({later!r})\n"
        "gpus.with_suffix('.new').replace(gpus)",
        environment=gpus.environment,
    )
    assert run.exit_code == 0
    assert run.verdict["usage"]["gpu"] == {**USED, "energy_joules": 900.0, "note": None}


def test_without_a_gpu_there_is_nothing_to_tell(
    run_script: RunScript, put_smi: Callable[[str], None]
) -> None:
    run = run_script(GOOD_VALIDATION)
    assert run.verdict["usage"]["gpu"] is None
    put_smi("echo 'No devices were found'; exit 6")
    meter = GpuMeter({})
    meter.sample(())
    assert (meter.is_present, meter.summary()) == (False, None)


def test_a_library_without_a_driver_is_no_gpu(gpus: Gpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STAND_IN_GPU")
    meter = GpuMeter({})
    meter.sample(())
    assert (meter.is_present, meter.summary()) == (False, None)


def test_memory_is_the_trainers_own_where_the_driver_tells_whose_it_is(gpus: Gpus) -> None:
    processes = [{"pid": 41, "used": 700 * MIB}, {"pid": 42, "used": 900 * MIB}]
    gpus.set({**L4, "processes": [*processes, {"pid": 7, "used": 1400 * MIB}]})
    meter = GpuMeter({})
    meter.sample((40, 41, 42))
    summary = meter.summary()
    assert summary is not None
    assert (summary["memory_of"], summary["peak_memory_mib"]) == ("trainer", 1600.0)


@pytest.mark.parametrize("processes", [[{"pid": 9, "used": MIB}], [{"pid": 41, "used": None}]])
def test_memory_is_the_devices_where_the_driver_does_not_tell(
    gpus: Gpus, processes: list[dict[str, Any]]
) -> None:
    """Other numbers of processes, as outside of a container; or no figure for one."""
    gpus.set({**L4, "processes": processes})
    meter = GpuMeter({})
    meter.sample((41,))
    summary = meter.summary()
    assert summary is not None
    assert (summary["memory_of"], summary["peak_memory_mib"]) == ("device", 3000.0)


@pytest.mark.parametrize(
    ("environment", "uuids"),
    [
        ({}, f"{UUID}, {OTHER_UUID}"),
        ({"NVIDIA_VISIBLE_DEVICES": "all"}, f"{UUID}, {OTHER_UUID}"),
        # The engine's number of the one that is number 0 in here.
        ({"NVIDIA_VISIBLE_DEVICES": "1"}, f"{UUID}, {OTHER_UUID}"),
        ({"NVIDIA_VISIBLE_DEVICES": OTHER_UUID}, OTHER_UUID),
        ({"CUDA_VISIBLE_DEVICES": UUID, "NVIDIA_VISIBLE_DEVICES": "all"}, UUID),
        ({"NVIDIA_VISIBLE_DEVICES": "void"}, None),
        ({"CUDA_VISIBLE_DEVICES": ""}, None),
        ({"TOUCHSTONE_CUDA": "none"}, None),
        ({"NVIDIA_VISIBLE_DEVICES": "GPU-00000000-0000-0000-0000-000000000000"}, None),
    ],
)
def test_only_the_attempts_own_gpus_are_looked_at(
    gpus: Gpus, environment: dict[str, str], uuids: str | None
) -> None:
    gpus.set(L4, {**L4, "uuid": OTHER_UUID})
    meter = GpuMeter(environment)
    meter.sample(())
    summary = meter.summary()
    assert (summary and summary["uuid"]) == uuids


def test_energy_is_power_over_time_where_nothing_counts_it(
    gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {name: value for name, value in L4.items() if name != "millijoules"}
    times = iter([100.0, 110.0, 120.0])
    monkeypatch.setattr(gpu.time, "monotonic", lambda: next(times))
    meter = GpuMeter({})
    for milliwatts in (60_000, 80_000, 80_000):
        gpus.set({**plain, "milliwatts": milliwatts})
        meter.sample(())
    summary = meter.summary()
    assert summary is not None
    # 70 W for ten seconds, then 80 W.
    assert (summary["energy_joules"], summary["mean_power_watts"]) == (1500.0, 73.3)


def test_an_energy_counter_that_went_back_says_nothing(gpus: Gpus) -> None:
    meter = GpuMeter({})
    for millijoules in (9000, 100):
        gpus.set({**L4, "millijoules": millijoules})
        meter.sample(())
    summary = meter.summary()
    assert summary is not None
    assert summary["energy_joules"] is None


def test_what_a_device_does_not_tell_is_null(gpus: Gpus) -> None:
    gpus.set({"uuid": UUID, "name": "NVIDIA A100 MIG 1g.5gb"})
    meter = GpuMeter({})
    meter.sample((1,))
    assert meter.summary() == {
        "name": "NVIDIA A100 MIG 1g.5gb",
        "uuid": UUID,
        "driver": "550.54.14",
        "mean_utilisation_percent": None,
        "peak_memory_mib": None,
        "memory_of": "device",
        "memory_mib": None,
        "mean_power_watts": None,
        "energy_joules": None,
    }


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1, 10**400, "x", None, [1]])
def test_a_figure_that_cannot_be_is_none(gpus: Gpus, bad: Any) -> None:
    gpus.set({**L4, "percent": bad, "milliwatts": bad, "millijoules": bad, "used": bad})
    meter = GpuMeter({})
    meter.sample(())
    summary = meter.summary()
    assert summary is not None
    json.dumps(summary, allow_nan=False)
    figures = ("mean_utilisation_percent", "mean_power_watts", "energy_joules", "peak_memory_mib")
    assert [summary[name] for name in figures] == [None] * 4


def test_nvidia_smi_tells_the_same_where_there_is_no_library(
    put_smi: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_smi(f'echo "$*" > "$0.said"; echo "NVIDIA L4, {UUID}, 550.54.14, 40, 3000, 23034, 72.00"')
    times = iter([100.0, 110.0])
    monkeypatch.setattr(gpu.time, "monotonic", lambda: next(times))
    meter = GpuMeter({"NVIDIA_VISIBLE_DEVICES": UUID})
    meter.sample(())
    meter.finish()
    assert meter.summary() == {**USED, "energy_joules": 720.0}
    assert f"--id={UUID}" in (tmp_path / "bin" / "nvidia-smi.said").read_text()


def test_what_nvidia_smi_does_not_tell_is_null(put_smi: Callable[[str], None]) -> None:
    put_smi(f'echo "NVIDIA L4, {UUID}, 550.54.14, [N/A], [Not Supported], 23034, [N/A]"')
    meter = GpuMeter({})
    meter.sample(())
    summary = meter.summary()
    assert summary is not None
    assert summary["mean_utilisation_percent"] is summary["energy_joules"] is None
    assert summary["memory_mib"] == 23034.0


def test_a_gpu_that_was_hardly_used_is_told(run_script: RunScript, gpus: Gpus) -> None:
    gpus.set({**L4, "percent": 3})
    run = run_script(
        GOOD_VALIDATION + "(out / 'result.json').write_text(json.dumps({'contract': 1,"
        " 'validated': True, 'params': {'parameters_long': 4000, 'parameters_short': 3000}}))\n"
        f"while not os.path.exists({str(gpus.path)!r} + '.asked'): pass",
        environment=gpus.environment,
        CUDA="required",
    )
    note = (
        "the GPU was in use for 3 % of the time: the model has 4,000 parameters; "
        "a CPU slot would do"
    )
    assert run.exit_code == 0
    assert run.verdict["usage"]["gpu"]["note"] == note
    assert run.console.splitlines()[-1] == f"[runner] {note}"


@pytest.mark.parametrize(
    ("wanted", "percent", "parameters", "said"),
    [
        ("required", 10, 4000, None),
        ("required", 9, 4000, "the model has 4,000 parameters; a CPU slot would do"),
        ("preferred", 9, None, "most of it went elsewhere, into features, data or start-up"),
        ("required", 9, 7_000_000, "most of it went elsewhere, into features, data or start-up"),
        # Nobody asked for it, or nobody knows.
        ("", 0, 4000, None),
        ("required", None, 4000, None),
    ],
)
def test_the_likely_cause_is_told_to_who_wanted_the_gpu(
    gpus: Gpus, wanted: str, percent: int | None, parameters: int | None, said: str | None
) -> None:
    gpus.set({**L4, "percent": percent})
    meter = GpuMeter({"TOUCHSTONE_CUDA": wanted})
    meter.sample(())
    waste = meter.find_waste(parameters)
    assert (waste and waste.partition(": ")[2]) == said


# --- a GPU that is lost ------------------------------------------------------------------------


WAIT = """
import json, os, pathlib, sys, time
path = pathlib.Path(%r)
while not path.with_suffix(".json.asked").exists(): time.sleep(0.01)
state = json.loads(path.read_text())
state["devices"][0]["lost"] = True
path.with_suffix(".new").write_text(json.dumps(state))
path.with_suffix(".new").replace(path)
"""
LOST = "the GPU is lost: GPU is lost; nothing is wrong with the submission, it is tried elsewhere"


@pytest.mark.parametrize("ending", ["os.abort()", "sys.exit(3)", "sys.exit(1)"])
def test_a_trainer_that_fails_when_its_gpu_is_lost_is_not_to_blame(
    run_script: RunScript, gpus: Gpus, ending: str
) -> None:
    run = run_script(WAIT % str(gpus.path) + ending, environment=gpus.environment)
    assert (run.exit_code, run.verdict["class"], run.verdict["reason"]) == (75, "device", LOST)


def test_a_trainer_that_waits_for_a_lost_gpu_is_ended(
    run_script: RunScript, gpus: Gpus, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import elnigma_runner.supervise as supervise\nsupervise._GPU_SECONDS = 0.2\n"
    )
    paths = f"{STAND_INS}:{site}"
    run = run_script(
        WAIT % str(gpus.path) + "time.sleep(6000)",
        environment={**gpus.environment, "PYTHONPATH": paths},
    )
    assert (run.exit_code, run.verdict["class"], run.verdict["reason"]) == (75, "device", LOST)


def test_a_trainer_that_succeeds_all_the_same_has_succeeded(
    run_script: RunScript, gpus: Gpus
) -> None:
    run = run_script(WAIT % str(gpus.path) + GOOD_VALIDATION, environment=gpus.environment)
    assert (run.exit_code, run.verdict["class"]) == (0, "ok")


def test_a_gpu_that_was_never_there_is_no_loss(run_script: RunScript, gpus: Gpus) -> None:
    gpus.set({**L4, "lost": True})
    run = run_script("import sys; print('bad shape'); sys.exit(3)", environment=gpus.environment)
    assert (run.exit_code, run.verdict["reason"]) == (3, "bad shape")


def test_nvidia_smi_tells_a_lost_gpu_by_its_exit_code(put_smi: Callable[[str], None]) -> None:
    row = f"NVIDIA L4, {UUID}, 550.54.14, 40, 3000, 23034, 72.00"
    put_smi(f'test -e "$0.once" && {{ echo "GPU is lost.  Reboot the system"; exit 15; }}\n'
            f': > "$0.once"; echo "{row}"')  # fmt: skip
    meter = GpuMeter({})
    meter.sample(())
    assert meter.fault is None
    meter.finish()
    assert meter.fault == "GPU is lost. Reboot the system"
    assert meter.summary() is not None


def test_what_the_device_did_does_not_change_who_asked_for_the_end(tmp_path: Path) -> None:
    settings = read_settings(tmp_path, {})
    for stop, code in ((Stop.ABORT, 143), (Stop.MEMORY, 137), (Stop.GPU, 75), (None, 75)):
        decision = decide(
            Ending(exit_code=-9, stop=stop),
            settings,
            error={"class": "submission", "message": "wrong shape"},
            result_problem="missing",
            last_line="",
            gpu_fault="GPU is lost",
        )
        assert decision.exit_code == code


@pytest.mark.parametrize(
    ("code", "claimed", "decided"),
    [
        (75, "device", (75, "device")),
        (75, "temporary", (75, "temporary")),
        (75, "data", (1, "unknown")),
        (10, "device", (1, "unknown")),
        (3, "device", (3, "submission")),
        (1, "device", (1, "unknown")),
    ],
)
def test_class_and_code_of_a_device_belong_together(
    tmp_path: Path, code: int, claimed: str, decided: tuple[int, str]
) -> None:
    decision = decide(
        Ending(exit_code=code),
        read_settings(tmp_path, {}),
        error={"class": claimed, "message": "no GPU"},
        result_problem="missing",
        last_line="",
    )
    assert (decision.exit_code, decision.error_class) == decided
