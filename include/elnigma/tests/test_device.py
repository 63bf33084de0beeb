"""The device of a training: asked for, looked for, told; and its loss told from other failures."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from conftest import Run
from elnigma import device, isolation
from elnigma.config import BY_KEY
from elnigma.device import Backend, Seen, find_device, find_loss, read_driver
from elnigma.errors import ConfigError, DeviceError, OutOfMemoryError, SubmissionError
from elnigma.task import Cuda, read_task
from elnigma.threads import DETERMINISTIC_GPU_FLAGS, limit_threads, prepare_device

RunAttempt = Callable[..., Run]
FAST = ("train", "--config", "fast.toml", "--prediction-interval", "5")
L4 = Seen(is_gpu=True, name="NVIDIA L4")
CPU = Seen(is_gpu=False, name="cpu")
UUID = "GPU-11111111-2222-3333-4444-555555555555"
CLOSED = "/proc/driver/nvidia/version"
VARIABLES = (
    *("XLA_FLAGS", "JAX_PLATFORMS", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"),
    *("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"),
    *("XLA_PYTHON_CLIENT_PREALLOCATE", "KERAS_BACKEND"),
)


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Each test begins without the variables, and leaves them as they were."""
    before = {name: os.environ.pop(name) for name in VARIABLES if name in os.environ}
    yield
    for name in VARIABLES:
        os.environ.pop(name, None)
    os.environ.update(before)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose files about a GPU are in a folder, and whose JAX is made for CUDA."""
    monkeypatch.setattr(device, "_DRIVER_FILE", tmp_path / "version")
    monkeypatch.setattr(device, "_GPU_FILES", tmp_path / "gpus")
    monkeypatch.setattr(device, "_DEVICE_FILES", (tmp_path / "nvidiactl",))
    versions = {"jax": "0.10.2", "jax-cuda12-plugin": "0.10.2"}
    versions["nvidia-cuda-runtime-cu12"] = "12.9.79"
    monkeypatch.setattr(device, "_find_version", versions.get)
    return tmp_path


def _set(
    monkeypatch: pytest.MonkeyPatch,
    list_devices: Callable[[], list[Seen]],
    compute: Callable[[], object] = object,
) -> None:
    """Let JAX answer otherwise than it does here."""
    backend = replace(device.BACKENDS["jax"], list_devices=list_devices, compute=compute)
    monkeypatch.setitem(device.BACKENDS, "jax", backend)


def _fail(text: str) -> Callable[[], NoReturn]:
    def fail() -> NoReturn:
        raise RuntimeError(text)

    return fail


# --- whole trainings, where there is no GPU ----------------------------------------------------


def test_a_gpu_that_is_required_and_missing_ends_the_attempt_before_its_work(
    run_attempt: RunAttempt,
) -> None:
    run = run_attempt(*FAST, CUDA="required")
    assert (run.exit_code, run.verdict["class"]) == (75, "device")
    assert run.verdict["reason"] == (
        "no GPU: JAX sees none: it is built for the CPU only; use the image of "
        "TOUCHSTONE_TRAINER_IMAGE_CUDA; nothing is wrong with the submission, it is tried elsewhere"
    )
    assert set(_read_phases(run)) <= {"starting", "looking for a GPU"}
    assert not (run.out / "result.json").exists()


def test_a_training_on_the_cpu_gives_the_same_bits_whatever_was_wanted(
    run_attempt: RunAttempt,
) -> None:
    silent = run_attempt(*FAST, name="silent")
    none = run_attempt(*FAST, name="none", CUDA="none")
    preferred = run_attempt(*FAST, name="preferred", CUDA="preferred", GPU_SHARE="0.5")
    runs = (silent, none, preferred)
    assert [run.exit_code for run in runs] == [0, 0, 0]
    assert len({run.result["predictions_sha256"] for run in runs}) == 1
    facts = [run.result["device"] for run in runs]
    assert {fact["platform"] for fact in facts} == {"cpu"}
    assert len({fact["determinism"] for fact in facts}) == 1
    assert [fact.get("wanted") for fact in facts] == [None, "none", "preferred"]
    note = (
        "no GPU: JAX sees none: it is built for the CPU only; use the image of "
        "TOUCHSTONE_TRAINER_IMAGE_CUDA; training on the CPU"
    )
    assert [fact.get("note") for fact in facts] == [None, None, note]
    assert preferred.console.splitlines().count(note) == 1
    assert "no GPU seen: training on the CPU" in _read_phases(preferred)
    assert not any("GPU" in phase for phase in _read_phases(silent) + _read_phases(none))
    assert "GPU" not in silent.console + none.console


def _read_phases(run: Run) -> list[str]:
    lines = (run.out / "progress.jsonl").read_text().splitlines()
    return [json.loads(line)["phase"] for line in lines]


@pytest.mark.parametrize(
    ("name", "value"),
    [("CUDA", "yes"), ("GPU_SHARE", "0"), ("GPU_SHARE", "1.5"), ("GPU_SHARE", "half")],
)
def test_an_impossible_wish_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"TOUCHSTONE_{name} must be .*, not '{value}'"):
        read_task({f"TOUCHSTONE_{name}": value})


def test_without_a_word_whatever_is_there_is_taken() -> None:
    task = read_task({})
    assert (task.cuda, task.gpu_share, task.wants_gpu) == (None, 1.0, False)


# --- what is set before the libraries are loaded -----------------------------------------------


@pytest.mark.parametrize("cuda", [Cuda.REQUIRED, Cuda.PREFERRED])
def test_a_gpu_is_made_deterministic_and_its_memory_bounded_by_the_share(cuda: Cuda) -> None:
    limit_threads(1)
    prepare_device(cuda, 0.5)
    assert os.environ["XLA_FLAGS"].endswith(DETERMINISTIC_GPU_FLAGS)
    assert "xla_cpu_max_isa=AVX2" in os.environ["XLA_FLAGS"]
    assert os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.450"
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert "JAX_PLATFORMS" not in os.environ


def test_a_whole_gpu_is_jaxs_to_divide() -> None:
    prepare_device(Cuda.REQUIRED, 1.0)
    assert not [name for name in os.environ if name.startswith("XLA_PYTHON_CLIENT_")]


def test_nothing_is_set_where_nobody_wants_a_gpu() -> None:
    limit_threads(1)
    flags = os.environ["XLA_FLAGS"]
    prepare_device(None, 0.5)
    assert os.environ["XLA_FLAGS"] == flags
    assert not [name for name in os.environ if name.startswith(("XLA_PYTHON_", "JAX_"))]
    prepare_device(Cuda.NONE, 0.5)
    assert os.environ["XLA_FLAGS"] == flags
    assert not [name for name in os.environ if name.startswith("XLA_PYTHON_")]
    assert os.environ["JAX_PLATFORMS"] == "cpu"


@pytest.mark.parametrize("name", ["XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"])
def test_what_is_set_already_stays(name: str) -> None:
    given = {name: ".2", "XLA_PYTHON_CLIENT_PREALLOCATE": "true"}
    given["XLA_FLAGS"] = "--xla_gpu_deterministic_ops=false"
    os.environ.update(given)
    prepare_device(Cuda.REQUIRED, 0.5)
    assert {key: os.environ.get(key) for key in given} == given
    fractions = [key for key in os.environ if key.endswith("CLIENT_MEM_FRACTION")]
    assert fractions == [name]


def test_the_libraries_are_not_loaded_before_all_is_set() -> None:
    """A variable that is set after the import is not read."""
    script = (
        "import sys, elnigma.train, elnigma.validation.run\n"
        "loaded = {'jax', 'keras'} & set(sys.modules)\nsys.exit(str(loaded) if loaded else 0)"
    )
    subprocess.run([sys.executable, "-P", "-c", script], check=True)


# --- what is told of a device ------------------------------------------------------------------


def test_a_gpu_is_told_with_all_that_its_bits_depend_on(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine / "version").write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build\n"
        "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
    )
    _set(monkeypatch, lambda: [L4, L4])
    os.environ["NVIDIA_VISIBLE_DEVICES"] = UUID
    limit_threads(1)
    prepare_device(Cuda.REQUIRED, 1.0)
    found = find_device(Cuda.REQUIRED, threads=1)
    assert found.headline == "using NVIDIA L4"
    assert found.describe() == {
        "platform": "gpu",
        "name": "NVIDIA L4",
        "uuid": UUID,
        "driver": "550.54.14",
        "cuda": "12.9",
        "backend": "jax 0.10.2",
        "determinism": "NVIDIA L4 driver 550.54.14 jax 0.10.2 cuda 12.9",
        "flags": DETERMINISTIC_GPU_FLAGS,
        "wanted": "required",
    }


def test_a_gpu_that_nobody_asked_for_promises_no_bits(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(monkeypatch, lambda: [L4])
    found = find_device(None, threads=1)
    assert found.determinism == ("NVIDIA L4 driver unknown jax 0.10.2 cuda 12.9 not deterministic")


def test_the_driver_tells_the_uuid_of_the_only_gpu(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, uuid in enumerate((UUID, UUID.replace("1", "2"))):
        folder = machine / "gpus" / f"0000:0{number}:00.0"
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t NVIDIA L4\nGPU UUID: \t {uuid}\n")
        _set(monkeypatch, lambda: [L4])
        assert find_device(None, threads=1).uuid == (UUID if number == 0 else None)


def test_on_the_cpu_bits_depend_on_instructions_library_and_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_find_version", {"jax": "0.10.2"}.get)
    monkeypatch.setattr(device, "_CPU_FILE", tmp_path / "cpuinfo")
    monkeypatch.setattr(device.platform, "machine", lambda: "x86_64")
    _set(monkeypatch, lambda: [CPU])
    limit_threads(1)
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu avx avx2 fma\n")
    assert find_device(None, threads=1).determinism == "cpu avx2 jax 0.10.2"
    assert find_device(None, threads=4).determinism == "cpu avx2 jax 0.10.2 4 threads"
    (tmp_path / "cpuinfo").write_text("flags\t\t: fpu avx\n")
    assert find_device(None, threads=1).determinism == "cpu x86_64 jax 0.10.2"


def test_texts_of_a_device_are_short_lines(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, lambda: [Seen(is_gpu=True, name="NVIDIA\nL4 " * 100)])
    facts = find_device(Cuda.PREFERRED, threads=1).describe()
    assert len(facts) <= 12
    assert max(len(text) for text in facts.values()) == 200
    assert all(text.isprintable() for text in facts.values())


# --- why there is no GPU -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "has_device", "said", "reason"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.57.02  Tue Jul 13 16:14:05 UTC",
            True,
            "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
            "the driver 470.57.02 is older than CUDA 12 needs (525.60.13)",
        ),
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  525.60.13",
            False,
            "",
            "none was handed over: there is no /dev/nvidiactl",
        ),
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  1000.1",
            True,
            "CUDA backend failed to initialize: out of luck.",
            "CUDA backend failed to initialize: out of luck.",
        ),
        ("nonsense", True, "", "it does not say why"),
    ],
)
def test_the_cause_is_looked_at_before_the_library_is_quoted(
    machine: Path,
    monkeypatch: pytest.MonkeyPatch,
    driver: str,
    has_device: bool,
    said: str,
    reason: str,
) -> None:
    (machine / "version").write_text(driver)
    if has_device:
        (machine / "nvidiactl").touch()

    def see() -> list[Seen]:
        # As JAX does it.
        if said:
            logging.getLogger("jax._src.xla_bridge").warning("%s", said)
        return [CPU]

    _set(monkeypatch, see)
    with pytest.raises(DeviceError) as raised:
        find_device(Cuda.REQUIRED, threads=1)
    assert str(raised.value) == (
        f"no GPU: JAX sees none: {reason}; nothing is wrong with the submission, "
        "it is tried elsewhere"
    )
    preferred = find_device(Cuda.PREFERRED, threads=1)
    assert preferred.note == f"no GPU: JAX sees none: {reason}; training on the CPU"
    assert find_device(Cuda.NONE, threads=1).note is None


def test_an_error_that_the_library_only_logs_is_quoted(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As JAX does where it cannot load CUDA's own libraries."""
    (machine / "nvidiactl").touch()

    def see() -> list[Seen]:
        try:
            raise RuntimeError("operation cuInit(0) failed: Unknown CUDA error 303")
        except RuntimeError:
            logging.getLogger("jax._src.xla_bridge").exception("Exception when calling %s", "it")
        return [CPU]

    _set(monkeypatch, see)
    with pytest.raises(DeviceError, match=r"sees none: operation cuInit\(0\) failed: Unknown CUDA"):
        find_device(Cuda.REQUIRED, threads=1)


def test_a_question_that_fails_fails_nothing_but_what_required_an_answer(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine / "nvidiactl").touch()
    _set(monkeypatch, _fail("cuInit hangs"))
    with pytest.raises(DeviceError, match="sees none: RuntimeError: cuInit hangs;"):
        find_device(Cuda.REQUIRED, threads=1)
    for wanted in (Cuda.PREFERRED, Cuda.NONE, None):
        found = find_device(wanted, threads=1)
        assert (found.platform, found.name) == (None, None)
        assert found.note is not None
        assert "cuInit hangs" in found.note


def test_a_backend_that_knows_no_gpu_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    os.environ["KERAS_BACKEND"] = "numpy"
    found = find_device(None, threads=1)
    assert (found.platform, found.backend.split()[0]) == ("cpu", "numpy")


def test_the_drivers_version_is_what_this_machine_says() -> None:
    assert (read_driver() is None) == (not Path(CLOSED).exists())


# --- a GPU that is lost in the middle of a training --------------------------------------------

ECC = "INTERNAL: CUDA_ERROR_ECC_UNCORRECTABLE: uncorrectable ECC error encountered"
LAUNCH = "INTERNAL: CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure"


def _fit(tmp_path: Path, line: str) -> None:
    """Build a model whose module does as a line says."""
    limit_threads(1)
    from elnigma.networks import Structure

    (tmp_path / "model.py").write_text(
        f"import jax\ndef build_model(n_features, params):\n    {line}\n"
    )
    Structure(str(tmp_path), {key: param.default for key, param in BY_KEY.items()}).build(4)


def test_the_loss_of_a_gpu_is_the_machines_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _set(monkeypatch, lambda: [L4], _fail("the device is gone"))
    with pytest.raises(DeviceError) as raised:
        _fit(tmp_path, f"raise jax.errors.JaxRuntimeError({ECC!r})")
    assert str(raised.value) == (
        f"the GPU is lost: {ECC}; nothing is wrong with the submission, it is tried elsewhere"
    )
    assert (raised.value.exit_code, raised.value.error_class) == (75, "device")


@pytest.mark.parametrize(
    ("line", "devices", "answer"),
    [
        # Anybody can raise the text,
        (f"raise RuntimeError({ECC!r})", [L4], _fail("gone")),
        # and the type, where the device still works,
        (f"raise jax.errors.JaxRuntimeError({ECC!r})", [L4], object),
        # or where there is none;
        (f"raise jax.errors.JaxRuntimeError({ECC!r})", [CPU], _fail("gone")),
        # and a kernel of one's own can break what it runs on.
        (f"raise jax.errors.JaxRuntimeError({LAUNCH!r})", [L4], _fail("gone")),
    ],
    ids=["text", "works", "no-gpu", "launch"],
)
def test_a_module_that_says_so_has_lost_no_gpu(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    devices: list[Seen],
    answer: Callable[[], object],
) -> None:
    _set(monkeypatch, lambda: devices, answer)
    with pytest.raises(SubmissionError, match="CUDA_ERROR"):
        _fit(tmp_path, line)


def test_what_is_no_error_of_a_backend_is_no_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_loss(None) is None
    monkeypatch.setitem(
        device.BACKENDS, "jax", Backend(name="x", package="x", list_devices=lambda: [L4])
    )
    assert find_loss(RuntimeError(ECC)) is None


def test_what_a_gpu_has_no_memory_for_is_out_of_memory(tmp_path: Path) -> None:
    said = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes."
    with pytest.raises(OutOfMemoryError, match="RESOURCE_EXHAUSTED"):
        _fit(tmp_path, f"raise jax.errors.JaxRuntimeError({said!r})")


def test_the_loss_of_a_gpu_in_a_child_is_told_as_that() -> None:
    facts = {"class": "device", "message": "the GPU is lost", "traceback": ""}
    assert isinstance(isolation._rebuild_error(facts), DeviceError)
