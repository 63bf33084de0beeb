"""What the trainer contract demands of the program that starts a runner."""

from __future__ import annotations

from collections.abc import Iterable

from touchstone_agent.protocol.messages import Limits

_PARTS = 10_000


def build_limit_variables(limits: Limits) -> dict[str, str]:
    """Return the environment variables that tell a runner its limits."""
    given = {
        "WALL_SECONDS": limits.wall_seconds,
        "CPU_SECONDS": limits.cpu_seconds,
        "MEMORY_MIB": limits.memory_mib,
        "CONSOLE_BYTES": limits.console_bytes,
        "OUTPUT_BYTES": limits.output_bytes,
    }
    return {f"TOUCHSTONE_{name}": str(value) for name, value in given.items() if value is not None}


def build_gpu_variables(*, requires_gpu: bool, gpus: int, shares: int = 1) -> dict[str, str]:
    """
    Return the environment variables that tell a runner what it may expect of a GPU.

    :param requires_gpu: Whether it must not compute on the CPU in place of one.
    :param gpus: GPUs that are handed over.
    :param shares: How many attempts share each of them.
    """
    cuda = "required" if requires_gpu else "preferred" if gpus else "none"
    # Rounded down: all shares together are no more than there is.
    share = f"{_PARTS // shares / _PARTS:g}"
    return {"TOUCHSTONE_CUDA": cuda, **({"TOUCHSTONE_GPU_SHARE": share} if gpus else {})}


def build_compiled_variables(most_bytes: int) -> dict[str, str]:
    """Return the environment variables that tell a runner how much compiled code is kept."""
    return {"TOUCHSTONE_COMPILED_BYTES": str(most_bytes)} if most_bytes else {}


def fill_arguments(argv: Iterable[str], *, inputs: str, out: str) -> list[str]:
    """Return arguments with the folders in the place of ``{in}`` and ``{out}``."""
    return [argument.replace("{in}", inputs).replace("{out}", out) for argument in argv]
