"""
The GPUs of a server: what its driver tells of them, and which of them somebody else uses. Pure.

What ``nvidia-smi`` prints is read line by line into bounded fields. A broken GPU makes it print
anything, so a line that is none of a good GPU's is kept as a text for people and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace

from touchstone_agent.protocol.images import parse_version
from touchstone_agent.protocol.messages import MAX_GPUS
from touchstone_agent.protocol.words import build_line

GPU_FIELDS = (
    *("index", "name", "memory.total", "uuid"),
    *("driver_version", "compute_mode", "memory.used"),
)
"""What :func:`parse_gpus` reads of each GPU, as ``nvidia-smi --query-gpu`` calls it."""

PROCESS_FIELDS = ("gpu_uuid", "pid", "used_memory")
"""What :func:`parse_processes` reads, as ``nvidia-smi --query-compute-apps`` calls it."""

PROHIBITED = "Prohibited"
"""The compute mode of a GPU on which nothing may compute."""

EXCLUSIVE = "Exclusive_Process"
"""The compute mode of a GPU on which one process may compute."""

NO_GPUS = "No devices were found"

_MAX_INDEX = 1000
_MAX_LINES = 1000
_MAX_TOLD = 8
_MAX_LINE = 160
_MIB_PER_GIB = 1024

_NUMBER = re.compile(r"[0-9]{1,9}")
_UUID = re.compile(r"(GPU|MIG)-[0-9A-Za-z/-]{1,120}")
_GPU_ID = re.compile(rf"[0-9]{{1,4}}|{_UUID.pattern}")
_GPU_LINE = re.compile(r"GPU [0-9]{1,4}: .{1,200} \(UUID: (GPU-[0-9A-Za-z-]{1,120})\)")
_SLICE_LINE = re.compile(
    r"\s+MIG (\S{1,40})\s+Device\s+[0-9]{1,3}: \(UUID: (MIG-[0-9A-Za-z/-]{1,120})\)"
)
_PROFILE = re.compile(r"([0-9]+c\.)?[0-9]+g\.([0-9]{1,4})gb")
_UNTOLD = frozenset({"[N/A]", "N/A", "[Not Supported]", "[Insufficient Permissions]"})
"""What stands for a figure that a good GPU does not have, or not for everybody."""


@dataclass(frozen=True, kw_only=True)
class DetectedGpu:
    """
    What is handed to an attempt as one device: a GPU, or a slice of one that MIG has split.

    :param uuid: Its own id, the same after each boot.
    :param index: Number of the GPU, which may be another one after a boot; of a slice its GPU's.
    :param name: Its model.
    :param memory_mib: Its memory, MiB; of a slice what its profile promises.
    :param driver: Version of its driver.
    :param compute_mode: Who may compute on it, in the driver's word; empty if it tells none.
    :param used_mib: Memory that was in use when it was looked at, MiB; ``None`` if that is not
        told.
    :param parent: UUID of the GPU that it is a slice of; ``None`` for a whole one.
    """

    uuid: str
    index: int
    name: str
    memory_mib: int
    driver: str
    compute_mode: str = ""
    used_mib: int | None = None
    parent: str | None = None

    def is_among(self, gpu_ids: Collection[str]) -> bool:
        """
        Tell whether one of some ids is this one's.

        :param gpu_ids: UUIDs, or indexes as the version before kept them; an index stands for all
            slices of a GPU.
        """
        return self.uuid in gpu_ids or str(self.index) in gpu_ids


@dataclass(frozen=True, kw_only=True)
class GpuProcess:
    """
    A process that computes on a GPU.

    :param uuid: The GPU, or the slice where the driver tells which.
    :param pid: Its process id; ``None`` if the driver does not tell it.
    :param memory_mib: Memory of the GPU that it uses, MiB; ``None`` if that is not told.
    """

    uuid: str
    pid: int | None
    memory_mib: int | None = None


@dataclass(frozen=True, kw_only=True)
class GpuLook:
    """
    What one look at the driver has shown.

    :param gpus: GPUs that answer, each slice of a split one for itself.
    :param processes: What computes on them.
    :param broken: What the driver tells beside that, mostly of GPUs that do not answer.
    :param problem: Why nothing is known of them; ``None`` if the driver has answered.
    """

    gpus: tuple[DetectedGpu, ...] = ()
    processes: tuple[GpuProcess, ...] = ()
    broken: tuple[str, ...] = ()
    problem: str | None = None


def parse_gpus(text: str) -> tuple[tuple[DetectedGpu, ...], tuple[str, ...]]:
    """
    Read a line for each GPU.

    :param text: CSV without header and units, with :data:`GPU_FIELDS`.
    :return: The GPUs that answer, and every other line as a text for people.
    """
    gpus: dict[str, DetectedGpu] = {}
    others = []
    for line in _list_lines(text):
        gpu = _read_gpu([field.strip() for field in line.split(",")])
        if gpu is not None and gpu.compute_mode == PROHIBITED:
            others.append(f"GPU {gpu.index} is in compute mode {PROHIBITED}")
        elif gpu is not None and len(gpus) < MAX_GPUS:
            gpus.setdefault(gpu.uuid, gpu)
        elif line.strip() != NO_GPUS:
            others.append(line)
    return tuple(gpus.values()), tell_lines(others)


def split_gpus(gpus: Iterable[DetectedGpu], text: str) -> tuple[DetectedGpu, ...]:
    """
    Return the slices of each GPU that has some in its place.

    :param text: What ``nvidia-smi -L`` prints; a slice of unknown size is left out.
    """
    whole = {gpu.uuid: gpu for gpu in gpus}
    devices: dict[str, dict[str, DetectedGpu]] = {uuid: {} for uuid in whole}
    parent: DetectedGpu | None = None
    for line in _list_lines(text):
        if not line[0].isspace():
            found = _GPU_LINE.fullmatch(line.rstrip())
            parent = whole.get(found[1]) if found else None
        elif parent is not None and (found := _SLICE_LINE.fullmatch(line.rstrip())):
            profile, uuid = found.groups()
            if size := _PROFILE.match(profile):
                devices[parent.uuid][uuid] = replace(
                    parent,
                    uuid=uuid,
                    name=f"{parent.name} MIG {profile}",
                    memory_mib=int(size[2]) * _MIB_PER_GIB,
                    used_mib=None,
                    parent=parent.uuid,
                )
    return tuple(
        device
        for uuid, slices in devices.items()
        for device in (slices.values() if slices else (whole[uuid],))
    )[:MAX_GPUS]


def parse_processes(text: str) -> tuple[tuple[GpuProcess, ...], tuple[str, ...]]:
    """
    Read a line for each process that computes.

    :param text: CSV without header and units, with :data:`PROCESS_FIELDS`.
    :return: The processes, and every other line as a text for people.
    """
    processes, others = [], []
    for line in _list_lines(text):
        uuid, _, rest = line.partition(",")
        pid, _, memory = (part.strip() for part in rest.partition(","))
        if _UUID.fullmatch(uuid.strip()):
            # A process that hides its number uses it all the same.
            process = GpuProcess(
                uuid=uuid.strip(), pid=_find_number(pid), memory_mib=_find_number(memory)
            )
            processes.append(process)
        else:
            others.append(line)
    return tuple(processes), tell_lines(others)


def find_unusable(
    known: Iterable[DetectedGpu],
    look: GpuLook,
    *,
    own_pids: Collection[int],
    unseen: Collection[str] = (),
) -> dict[str, str]:
    """
    Say of each GPU that must not be handed over now why not.

    :param known: The GPUs in question.
    :param look: What the driver tells now.
    :param own_pids: Processes of attempts.
    :param unseen: UUIDs of GPUs that attempts hold whose processes cannot be looked at: whatever
        computes there is believed to be theirs.
    :return: A line for each, by UUID.
    """
    known = tuple(known)
    if look.problem is not None:
        return {gpu.uuid: look.problem for gpu in known}
    there = {gpu.uuid for gpu in look.gpus}
    hidden = {uuid for gpu in known if gpu.uuid in unseen for uuid in (gpu.uuid, gpu.parent)}
    foreign = [p for p in look.processes if p.pid not in own_pids and p.uuid not in hidden]
    told = f": {look.broken[0]}" if look.broken else ""
    found = {}
    for gpu in known:
        # Some drivers tell only the GPU of a process and not the slice: it may be any of them.
        at_work = [p for p in foreign if p.uuid in (gpu.uuid, gpu.parent)]
        if gpu.uuid not in there:
            found[gpu.uuid] = f"GPU {gpu.index} does not answer any more{told}"
        elif at_work:
            found[gpu.uuid] = _tell_use(gpu, at_work)
    return found


def is_gpu_id(text: str) -> bool:
    """Tell whether a text can be the id of a GPU: a UUID, or an index of the version before."""
    return _GPU_ID.fullmatch(text) is not None


def tell_lines(lines: Iterable[str]) -> tuple[str, ...]:
    """Return the first few lines that say anything, clean and cut."""
    told = (build_line(line, _MAX_LINE) for line in lines)
    return tuple(line for line in told if line)[:_MAX_TOLD]


def _list_lines(text: str) -> list[str]:
    return [line for line in text.splitlines()[:_MAX_LINES] if line.strip()]


def _read_gpu(row: list[str]) -> DetectedGpu | None:
    if len(row) != len(GPU_FIELDS):
        return None
    index, name, memory, uuid, driver, mode, used = row
    number, memory_mib = _find_number(index), _find_number(memory)
    if number is None or number > _MAX_INDEX or not memory_mib:
        return None
    if not name or not _UUID.fullmatch(uuid) or parse_version(driver) is None:
        return None
    if any(_tells_damage(field) for field in (name, mode, used)):
        return None
    return DetectedGpu(
        uuid=uuid,
        index=number,
        name=build_line(name, 200),
        memory_mib=memory_mib,
        driver=driver,
        compute_mode="" if mode in _UNTOLD else build_line(mode, 40),
        used_mib=_find_number(used),
    )


def _tells_damage(field: str) -> bool:
    """Tell whether the driver says that a GPU has failed: ``[Unknown Error]``, ``ERR!``."""
    return field not in _UNTOLD and (field.startswith("[") or "ERR!" in field)


def _find_number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None


def _tell_use(gpu: DetectedGpu, at_work: list[GpuProcess]) -> str:
    first = max(at_work, key=lambda process: process.memory_mib or 0)
    pid = "a process that it does not name" if first.pid is None else f"pid {first.pid}"
    memory = "" if first.memory_mib is None else f", {first.memory_mib} MiB"
    more = f" and {len(at_work) - 1} more" if len(at_work) > 1 else ""
    return (
        f"another process uses GPU {gpu.index} ({pid}{memory}{more}); end it, or leave this GPU "
        "out of the agent's setting gpu"
    )
