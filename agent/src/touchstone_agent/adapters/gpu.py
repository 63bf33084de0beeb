"""
Asks ``nvidia-smi`` which GPUs this server has, and what computes on them.

The library for NVML would save a process for each question. It calls the driver from inside the
agent, though, and a driver that hangs in the kernel would take the agent with it: a process can be
left behind.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import time
from typing import Literal

from touchstone_agent.core.gpus import (
    GPU_FIELDS,
    PROCESS_FIELDS,
    DetectedGpu,
    GpuLook,
    parse_gpus,
    parse_processes,
    split_gpus,
    tell_lines,
)
from touchstone_agent.logs import Log

PROGRAM = "nvidia-smi"
LOOK_SECONDS = 15.0
"""For all questions of a look together; a driver that has not been asked for long may need ten."""

MAX_BYTES = 256 * 1024
"""More than that nobody has to say of 64 GPUs."""

_KILL_SECONDS = 1.0
_FORMAT = "--format=csv,noheader,nounits"

log = Log("gpu")

Wanted = Literal["auto", "none"] | tuple[int, ...]


class DriverSilent(Exception):
    """``nvidia-smi`` cannot be run, does not end, or does not stop talking; says which."""


def look_at_gpus(*, has_slices: bool = True) -> GpuLook:
    """
    Ask once what GPUs there are and what computes on them; takes :data:`LOOK_SECONDS` at most.

    :param has_slices: Whether GPUs may be split.
    :return: No GPUs and no problem where there is no driver.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        return GpuLook()
    ends = time.monotonic() + LOOK_SECONDS
    try:
        code, text = _ask(program, f"--query-gpu={','.join(GPU_FIELDS)}", _FORMAT, ends=ends)
        gpus, broken = parse_gpus(text)
        if code != 0 and not gpus and broken:
            return GpuLook(broken=broken, problem=f"{PROGRAM} ended with {code}: {broken[0]}")
        if not gpus:
            return GpuLook(broken=broken)
        if has_slices:
            _, text = _ask(program, "-L", ends=ends)
            gpus = split_gpus(gpus, text)
        fields = ",".join(PROCESS_FIELDS)
        _, text = _ask(program, f"--query-compute-apps={fields}", _FORMAT, ends=ends)
    except DriverSilent as error:
        return GpuLook(problem=str(error))
    processes, others = parse_processes(text)
    return GpuLook(gpus=gpus, processes=processes, broken=tell_lines((*broken, *others)))


def select_gpus(gpus: tuple[DetectedGpu, ...], wanted: Wanted) -> tuple[DetectedGpu, ...]:
    """
    Return the GPUs that may be handed to attempts.

    :param wanted: The setting ``gpu``.
    """
    if wanted == "none":
        return ()
    return gpus if wanted == "auto" else tuple(gpu for gpu in gpus if gpu.index in wanted)


def detect_gpus(wanted: Wanted) -> tuple[DetectedGpu, ...]:
    """
    Return the GPUs that may be handed to attempts; none when the driver does not answer.

    :param wanted: The setting ``gpu``.
    """
    if wanted == "none":
        return ()
    look = look_at_gpus()
    for line in filter(None, (look.problem, *look.broken)):
        log.warning("gpu.broken", problem=line)
    gpus = select_gpus(look.gpus, wanted)
    for gpu in gpus:
        log.info("gpu.found", gpu=gpu.uuid, index=gpu.index, name=gpu.name, driver=gpu.driver)
    return gpus


def _ask(program: str, *arguments: str, ends: float) -> tuple[int, str]:
    """
    Run it and return its exit code and what it prints.

    :param ends: Until when, by the monotonic clock.
    :raises DriverSilent: If it does not end by then, or says more than anybody has to say.
    """
    try:
        process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OSError as error:
        raise DriverSilent(f"{PROGRAM} cannot be run: {error.strerror}") from error
    assert process.stdout is not None  # noqa: S101 - asked for above
    with process.stdout as pipe:
        try:
            text = _read(pipe.fileno(), ends)
            return process.wait(max(0.0, ends - time.monotonic())), text
        except subprocess.TimeoutExpired as error:
            raise DriverSilent(_TOO_LATE) from error
        finally:
            _let_go(process)


_TOO_LATE = f"{PROGRAM} does not answer within {LOOK_SECONDS:g} s: the GPU's driver hangs"


def _read(pipe: int, ends: float) -> str:
    data = b""
    readable = select.poll()
    readable.register(pipe, select.POLLIN)
    while readable.poll(max(0.0, ends - time.monotonic()) * 1000):
        block = os.read(pipe, 65536)
        if not block:
            return data.decode(errors="replace")
        data += block
        if len(data) > MAX_BYTES:
            raise DriverSilent(f"{PROGRAM} says more than {MAX_BYTES} bytes")
    raise DriverSilent(_TOO_LATE)


def _let_go(process: subprocess.Popen[bytes]) -> None:
    """End it if it has not ended; one that hangs in the kernel is not waited for."""
    if process.poll() is None:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_SECONDS)
