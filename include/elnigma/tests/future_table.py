"""
What a validation says of each case of ``future_cases``, and the CPU time that it takes.

``python future_table.py`` prints a table of all of them; with names, of these. ``--seeds 3`` tries
each with several seeds, ``--json`` writes one object a line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

from elnigma.threads import limit_threads

limit_threads(1)

# Before the forks, once for all.
import pandas  # noqa: E402, F401
from future_cases import HONEST, LEAKING, write_case  # noqa: E402

from elnigma.errors import SubmissionError  # noqa: E402
from elnigma.progress import Progress  # noqa: E402
from elnigma.validation.feature_set import FeatureSetCheck  # noqa: E402

# Beyond what the features take themselves, in CPU seconds.
MOST_SECONDS = 3.0


def judge(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Validate a case in a process of its own, and return what was said of it."""
    path = folder / name
    if not path.exists():
        write_case(name, folder)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _answer(name, path, seed, folder / "log", writer)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    os.waitpid(pid, 0)
    found: dict[str, Any] = json.loads(said)
    return found


def _answer(name: str, path: Path, seed: int, log: Path, writer: int) -> None:
    kept = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(kept, 1)
    os.dup2(kept, 2)
    check = FeatureSetCheck(str(path), seed=seed)
    reason = None
    try:
        check.run(Progress(None))
    except SubmissionError as error:
        reason = str(error)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    total = sum(usage.ru_utime + usage.ru_stime for usage in used)
    document = {
        "name": name,
        "seed": seed,
        "reason": reason,
        "feature_seconds": check.feature_cpu_seconds,
        "own_seconds": total - check.feature_cpu_seconds,
    }
    with os.fdopen(writer, "w") as stream:
        stream.write(json.dumps(document))
    os._exit(0)


def is_right(found: dict[str, Any]) -> bool:
    """Tell whether a case got what it deserves."""
    if found["name"] in HONEST:
        return found["reason"] is None
    return found["reason"] is not None and LEAKING[found["name"]][1] in found["reason"]


def main() -> int:
    """Print the table; 1 if a case did not get what it deserves, or took too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parsed = parser.parse_args()
    names = parsed.names or [*LEAKING, *HONEST]
    everything: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            for seed in range(parsed.seeds):
                found = judge(name, seed, Path(folder))
                everything.append(found)
                print(json.dumps(found) if parsed.json else _format(found), flush=True)
    wrong = [found for found in everything if not is_right(found)]
    slowest = max(found["own_seconds"] for found in everything)
    if not parsed.json:
        leaking = [found for found in everything if found["name"] in LEAKING]
        honest = [found for found in everything if found["name"] in HONEST]
        caught = sum(found["reason"] is not None for found in leaking)
        refused = sum(found["reason"] is not None for found in honest)
        print(f"\ncaught {caught} of {len(leaking)}, refused {refused} of {len(honest)} honest")
        print(f"most CPU beyond the features: {slowest:.2f} s; wrong words: {len(wrong)}")
    return 1 if wrong or slowest > MOST_SECONDS else 0


def _format(found: dict[str, Any]) -> str:
    said = "passes" if found["reason"] is None else found["reason"]
    mark = " " if is_right(found) else "!"
    seconds = f"{found['own_seconds']:5.2f} {found['feature_seconds']:5.2f}"
    return f"{mark} {found['name']:38} {seconds}  {said[:150]}"


if __name__ == "__main__":
    sys.exit(main())
