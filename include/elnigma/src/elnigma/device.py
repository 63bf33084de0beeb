"""The device that a training runs on, as its numeric backend sees it: asked, never assumed."""

from __future__ import annotations

import importlib
import logging
import os
import platform
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from elnigma.errors import DeviceError
from elnigma.task import Cuda

MAX_TEXT = 200
ELSEWHERE = "nothing is wrong with the submission, it is tried elsewhere"
LEAST_DRIVERS = {"12": "525.60.13"}
"""By CUDA's major version: the oldest driver for Linux that runs all of it (NVIDIA's table)."""
PLUGINS = ("jax-cuda12-plugin",)
"""What JAX needs beside itself to see a GPU of NVIDIA's."""
_CUDA_RUNTIME = "nvidia-cuda-runtime-cu12"
_DRIVER_FILE = Path("/proc/driver/nvidia/version")
_GPU_FILES = Path("/proc/driver/nvidia/gpus")
_CPU_FILE = Path("/proc/cpuinfo")
_CPU_BYTES = 8192
# The container runtime puts the first into a container that is given a GPU; WSL has the other.
_DEVICE_FILES = (Path("/dev/nvidiactl"), Path("/dev/dxg"))
_DRIVER = re.compile(r"\b\d{3,4}\.\d{1,4}(?:\.\d{1,4})?\b")
_UUID = re.compile(r"(?:GPU|MIG)-[0-9A-Za-z/-]{1,80}")
_MAX_ISA = re.compile(r"--xla_cpu_max_isa=(\w+)")
_GPU_PLATFORMS = frozenset({"gpu", "cuda", "rocm"})
# What CUDA calls a device that fails. A launch that failed is not among it: a module's own kernel
# can do that. If the device is gone as well, the runner sees it.
_LOSSES = re.compile(
    r"CUDA_ERROR_(ECC_UNCORRECTABLE|NVLINK_UNCORRECTABLE|DEVICE_UNAVAILABLE|HARDWARE_STACK_ERROR"
    r"|CONTAINED)|uncorrectable (ECC|NVLink) error|GPU is lost|fallen off the bus"
    r"|no longer available|\bXid\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """
    A device that a backend sees.

    :param is_gpu: Whether it is one.
    :param name: Its model.
    """

    is_gpu: bool
    name: str


_CPU = Seen(is_gpu=False, name="cpu")


@dataclass(frozen=True, kw_only=True)
class Backend:
    """
    A numeric backend of Keras, and what it can be asked.

    :param name: As people write it.
    :param package: Its distribution.
    :param list_devices: Returns what it sees, the one that it uses first.
    :param error: Module and name of what it raises when a device fails; ``None`` where a lost one
        is not told from other failures.
    :param compute: Does a little work on the device that it uses.
    """

    name: str
    package: str
    list_devices: Callable[[], list[Seen]]
    error: tuple[str, str] | None = None
    compute: Callable[[], object] = object


@dataclass(frozen=True, kw_only=True)
class Device:
    """
    What a training runs on. ``None`` is unknown, or does not apply.

    :param platform: ``gpu`` or ``cpu``.
    :param name: Its model.
    :param uuid: What the driver calls it.
    :param driver: Version of the driver.
    :param cuda: Version of CUDA in this environment.
    :param backend: Numeric backend, with version.
    :param determinism: Where this is the same, the same training gives the same bits.
    :param flags: What XLA was told about GPUs.
    :param wanted: How much a GPU was wanted.
    :param note: What is to be said of it.
    """

    platform: str | None
    name: str | None
    uuid: str | None = None
    driver: str | None = None
    cuda: str | None = None
    backend: str
    determinism: str
    flags: str | None = None
    wanted: Cuda | None
    note: str | None = None

    @property
    def is_gpu(self) -> bool:
        """Return whether it is a GPU."""
        return self.platform == "gpu"

    @property
    def headline(self) -> str:
        """Return what it means for the training, in a few words."""
        return f"using {self.name}" if self.is_gpu else "no GPU seen: training on the CPU"

    def describe(self) -> dict[str, str]:
        """Return what is known of it, one short line each."""
        return {name: _shorten(value) for name, value in vars(self).items() if value is not None}


def find_device(wanted: Cuda | None, threads: int) -> Device:
    """
    Ask the backend which device it uses. Imports it.

    :param wanted: How much a GPU is wanted.
    :param threads: CPU threads that it may use.
    :raises DeviceError: If a GPU is required and there is none, with the reason.
    """
    backend = _find_backend()
    seen, said = _ask(backend)
    first = seen[0] if seen else None
    is_gpu = first is not None and first.is_gpu
    note = None if seen else f"{backend.name} does not tell its devices: {said or 'no answer'}"
    if wanted in (Cuda.REQUIRED, Cuda.PREFERRED) and not is_gpu:
        reason = f"no GPU: {backend.name} sees none: {_explain(backend, said)}"
        if wanted is Cuda.REQUIRED:
            raise DeviceError(f"{reason}; {ELSEWHERE}")
        note = f"{reason}; training on the CPU"
    driver, cuda = (read_driver(), find_cuda()) if is_gpu else (None, None)
    return Device(
        platform=None if first is None else "gpu" if is_gpu else "cpu",
        name=None if first is None else first.name,
        uuid=_find_uuid() if is_gpu else None,
        driver=driver,
        cuda=cuda,
        backend=_name_version(backend),
        determinism=_find_determinism(first, backend, driver, cuda, threads),
        flags=_find_gpu_flags() if is_gpu else None,
        wanted=wanted,
        note=note,
    )


def find_loss(error: BaseException | None) -> str | None:
    """
    Return what the backend says of a GPU that is lost; ``None`` if this error is of something else.

    A text proves nothing, since anybody can raise it. The error must be of the backend's own type,
    and the device must fail at work of ours, too: after such an error it serves no process that had
    it in use.

    :param error: What the work on the device raised.
    """
    backend = _find_backend()
    if error is None or backend.error is None:
        return None
    module, name = backend.error
    kind = getattr(importlib.import_module(module), name)
    line = _take_line(str(error), _LOSSES) if isinstance(error, kind) else None
    if line is None:
        return None
    seen, _ = _ask(backend)
    if not seen or not seen[0].is_gpu:
        return None
    try:
        backend.compute()
    except Exception:  # whatever a device that is gone answers
        return line
    return None


def read_driver() -> str | None:
    """Return the version of the kernel's driver; ``None`` if it is unknown."""
    with suppress(OSError):
        match = _DRIVER.search(_DRIVER_FILE.read_text(errors="replace")[:1000])
        return match[0] if match else None
    return None


def find_cuda() -> str | None:
    """Return major and minor version of the CUDA that is installed beside the backend."""
    found = _find_version(_CUDA_RUNTIME)
    return ".".join(found.split(".")[:2]) if found else None


def _list_jax() -> list[Seen]:
    jax = importlib.import_module("jax")
    return [
        Seen(is_gpu=device.platform in _GPU_PLATFORMS, name=device.device_kind)
        for device in jax.devices()
    ]


def _compute_jax() -> object:
    jax = importlib.import_module("jax")
    return jax.block_until_ready(jax.numpy.zeros(1) + 1)


def _list_torch() -> list[Seen]:
    cuda = importlib.import_module("torch").cuda
    names = [cuda.get_device_name(number) for number in range(cuda.device_count())]
    return [Seen(is_gpu=True, name=name) for name in names] or [_CPU]


def _list_tensorflow() -> list[Seen]:
    config = importlib.import_module("tensorflow").config
    gpus = config.list_physical_devices("GPU")
    details = [config.experimental.get_device_details(gpu) for gpu in gpus]
    names = [str(facts.get("device_name", "GPU")) for facts in details]
    return [Seen(is_gpu=True, name=name) for name in names] or [_CPU]


BACKENDS = {
    "jax": Backend(
        name="JAX",
        package="jax",
        list_devices=_list_jax,
        error=("jax.errors", "JaxRuntimeError"),
        compute=_compute_jax,
    ),
    "torch": Backend(name="PyTorch", package="torch", list_devices=_list_torch),
    "tensorflow": Backend(name="TensorFlow", package="tensorflow", list_devices=_list_tensorflow),
}
"""By the name that Keras has for each. The others know no device but the CPU."""


def _find_backend() -> Backend:
    name = os.environ.get("KERAS_BACKEND", "jax")
    other = Backend(name=name, package=name, list_devices=lambda: [_CPU])
    return BACKENDS.get(name, other)


def _ask(backend: Backend) -> tuple[list[Seen], str]:
    """Return what a backend sees, and what it says meanwhile."""
    with _heard("jax", "jax_plugins") as lines:
        try:
            return backend.list_devices(), " ".join(lines)
        except Exception as error:  # an answer, too: of a library that is broken
            return [], " ".join([*lines, f"{type(error).__name__}: {error}"])


def _explain(backend: Backend, said: str) -> str:
    """Say why there is no GPU, from what can be looked at before what the library says."""
    cuda, driver = find_cuda(), read_driver()
    if backend.package == "jax" and not any(_find_version(name) for name in PLUGINS):
        return "it is built for the CPU only; use the image of TOUCHSTONE_TRAINER_IMAGE_CUDA"
    major = (cuda or "").split(".")[0]
    least = LEAST_DRIVERS.get(major)
    if driver and least and _split(driver) < _split(least):
        return f"the driver {driver} is older than CUDA {major} needs ({least})"
    if not any(path.exists() for path in _DEVICE_FILES):
        return "none was handed over: there is no /dev/nvidiactl"
    return _shorten(said) or "it does not say why"


def _find_determinism(
    device: Seen | None, backend: Backend, driver: str | None, cuda: str | None, threads: int
) -> str:
    library = _name_version(backend)
    if device is None:
        return f"unknown {library}"
    if not device.is_gpu:
        suffix = "" if threads == 1 else f" {threads} threads"
        return f"cpu {_find_isa()} {library}{suffix}"
    class_name = f"{device.name} driver {driver or 'unknown'} {library} cuda {cuda or 'unknown'}"
    is_fixed = "--xla_gpu_deterministic_ops=true" in os.environ.get("XLA_FLAGS", "")
    return class_name if is_fixed else f"{class_name} not deterministic"


def _find_isa() -> str:
    """Return the instruction set that XLA keeps to, if this processor has it."""
    match = _MAX_ISA.search(os.environ.get("XLA_FLAGS", ""))
    wanted = match[1].lower() if match else ""
    with suppress(OSError), _CPU_FILE.open(errors="replace") as file:
        if wanted and wanted in file.read(_CPU_BYTES).split():
            return wanted
    return platform.machine()


def _find_gpu_flags() -> str | None:
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "xla_gpu_" in flag]
    return " ".join(flags) or None


def _find_uuid() -> str | None:
    """Return the UUID of the one GPU: from the environment, else from the driver."""
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
        if _UUID.fullmatch(os.environ.get(name, "")):
            return os.environ[name]
    with suppress(OSError):
        texts = [path.read_text(errors="replace") for path in _GPU_FILES.glob("*/information")]
        found = [match[0] for text in texts if (match := _UUID.search(text))]
        return found[0] if len(found) == 1 else None
    return None


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _name_version(backend: Backend) -> str:
    return f"{backend.package} {_find_version(backend.package) or 'unknown'}"


def _split(dotted: str) -> tuple[int, ...]:
    return tuple(int(part) for part in dotted.split("."))


def _take_line(text: str, pattern: re.Pattern[str]) -> str | None:
    lines = (line for line in text.splitlines() if pattern.search(line))
    return next((_shorten(line) for line in lines), None)


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_TEXT else f"{line[: MAX_TEXT - 1]}…"


class _Ear(logging.Handler):
    """Keeps the warnings that a library logs."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one; Python calls this."""
        error = record.exc_info[1] if record.exc_info else None
        # Of an error that is logged, the error says more than what is said of it.
        self.lines.append(record.getMessage() if error is None else f"{error}")


@contextmanager
def _heard(*names: str) -> Iterator[Sequence[str]]:
    """Yield what the named loggers warn of while the block runs."""
    ear = _Ear()
    loggers: list[Any] = [logging.getLogger(name) for name in names]
    for logger in loggers:
        logger.addHandler(ear)
    try:
        yield ear.lines
    finally:
        for logger in loggers:
            logger.removeHandler(ear)
