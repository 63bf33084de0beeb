"""Which GPUs can be handed over now: those that answer, and on which no other process computes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from touchstone_agent.adapters.processes import list_tree
from touchstone_agent.core.gpus import DetectedGpu, GpuLook, find_unusable
from touchstone_agent.core.ports import Runtime
from touchstone_agent.protocol.errors import PermanentError, TransientError


@dataclass(frozen=True, kw_only=True)
class Holder:
    """
    An attempt that runs, as far as its processes are concerned.

    :param name: Name of its container.
    :param out: Its output folder.
    :param gpu_ids: GPUs that it holds.
    """

    name: str
    out: Path
    gpu_ids: tuple[str, ...] = ()


def judge_gpus(
    known: Collection[DetectedGpu], look: GpuLook, holders: Iterable[Holder], runtime: Runtime
) -> Mapping[str, str]:
    """
    Say of each GPU that must not be handed over now why not; blocks while the engine is asked.

    :param known: The GPUs in question.
    :param look: What the driver tells now.
    :param holders: All attempts that run; what they do on a GPU is no other process.
    :param runtime: Where they run.
    :return: A line for each, by UUID.
    """
    # What has ended since it was seen uses nothing any more, and is in no process tree.
    processes = tuple(p for p in look.processes if p.pid is None or _exists(p.pid))
    own_pids: set[int] = set()
    unseen: set[str] = set()
    for holder in holders if processes else ():
        main_pid = _find_main_pid(runtime, holder)
        if main_pid is not None:
            own_pids.update(list_tree(main_pid))
        else:
            unseen.update(gpu.uuid for gpu in known if gpu.is_among(holder.gpu_ids))
    seen = replace(look, processes=processes)
    return find_unusable(known, seen, own_pids=own_pids, unseen=unseen)


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _find_main_pid(runtime: Runtime, holder: Holder) -> int | None:
    try:
        return runtime.find_main_pid(holder.name, holder.out)
    except (PermanentError, TransientError):
        return None
