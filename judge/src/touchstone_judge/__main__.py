"""
The judge as a program: ``python -m touchstone_judge NAME``, a question on standard input.

The question and the answer, on standard output, are JSON documents. What cannot be answered ends
with the exit code 2 and a line on standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

PROGRAMS: dict[str, str] = {
    "recompute": "touchstone_judge.recompute:answer",
    "verdict": "touchstone_judge.judging:answer",
    "draw": "touchstone_judge.drawing:answer",
    "pool": "touchstone_judge.pooling:answer",
    "forward": "touchstone_judge.forward:answer",
}
"""Where each program is; only the one that is asked for is imported."""


def main(arguments: list[str]) -> int:
    """Answer one question, and return the exit code."""
    if len(arguments) != 1 or arguments[0] not in PROGRAMS:
        print(f"usage: python -m touchstone_judge {'|'.join(PROGRAMS)}", file=sys.stderr)
        return 2
    module, _, name = PROGRAMS[arguments[0]].partition(":")
    answer: Callable[[Mapping[str, Any]], Mapping[str, Any]] = getattr(import_module(module), name)
    try:
        document = answer(json.load(sys.stdin))
    except (KeyError, TypeError, ValueError) as error:
        print(f"touchstone_judge: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    json.dump(document, sys.stdout, allow_nan=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
