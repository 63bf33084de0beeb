"""What the trainer contract wants of whoever starts a runner."""

from __future__ import annotations

from collections.abc import Iterable

from touchstone_agent.protocol.messages import Limits


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


def fill_arguments(argv: Iterable[str], *, inputs: str, out: str) -> list[str]:
    """Return arguments with the folders in the place of ``{in}`` and ``{out}``."""
    return [argument.replace("{in}", inputs).replace("{out}", out) for argument in argv]
