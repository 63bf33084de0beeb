"""
The journal of parts that ended unasked.

Run as a listener of the supervisor's, this module appends one JSON line per unasked end. The
supervisor's event does not say how the process ended, its log does: the line is written before
the event is sent. The listener also ends what the part's death has left behind.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from supervisor.childutils import get_headers, listener

from touchstone.stack.layout import MARKER
from touchstone.stack.leftovers import end_remains

_TAIL_BYTES = 64 * 1024


class Crash(BaseModel):
    """
    One unasked end of a part.

    :param part: The part.
    :param event: ``exited``; ``backoff`` if it ended while starting; ``fatal`` if it is given up.
    :param status: How it ended, in the supervisor's words.
    :param at: When it was noticed, UTC.
    :param pid: Its process, 0 if unknown.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    part: str
    event: str
    status: str
    at: datetime
    pid: int = 0


@dataclass(frozen=True, kw_only=True)
class CrashSummary:
    """
    The unasked ends of one part.

    :param count: How many.
    :param last: The last one.
    """

    count: int
    last: Crash


def read_crashes(journal: Path, *, since: datetime) -> dict[str, CrashSummary]:
    """
    Return the unasked ends since a moment, by part.

    :param journal: The journal; need not exist.
    :param since: Usually when the supervisor started.
    """
    if not journal.exists():
        return {}
    return summarise(journal.read_text().splitlines(), since=since)


def summarise(lines: Iterable[str], *, since: datetime) -> dict[str, CrashSummary]:
    """Count journal lines by part; a line cut short by a full disk is skipped."""
    counts: Counter[str] = Counter()
    last: dict[str, Crash] = {}
    for line in lines:
        try:
            crash = Crash.model_validate_json(line)
        except (ValidationError, ValueError):
            continue
        if crash.at < since:
            continue
        last[crash.part] = crash
        # The state shows that it was given up; that is not one more end.
        counts[crash.part] += crash.event != "fatal"
    return {part: CrashSummary(count=counts[part], last=crash) for part, crash in last.items()}


def find_status(log: str, part: str) -> str:
    """
    Return how a part last ended.

    :param log: The end of the supervisor's log.
    """
    found = re.findall(rf"exited: {re.escape(part)} \((.+?); (?:not )?expected\)", log)
    return str(found[-1]) if found else "unknown"


def _listen(log: Path, journal: Path) -> None:
    while True:
        headers, payload = listener.wait(sys.stdin, sys.stdout)
        fields = get_headers(payload)
        crash = Crash(
            part=fields["processname"],
            event=headers["eventname"].removeprefix("PROCESS_STATE_").lower(),
            status=find_status(_read_tail(log), fields["processname"]),
            at=datetime.fromtimestamp(time.time(), tz=UTC),
            pid=int(fields.get("pid", 0)),
        )
        with journal.open("a") as file:
            file.write(crash.model_dump_json() + "\n")
        listener.ok(sys.stdout)
        if crash.pid:
            # Beside this loop: a part may end again meanwhile.
            arguments = (os.environ[MARKER], crash.pid)
            threading.Thread(target=end_remains, args=arguments, daemon=True).start()


def _read_tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
        return file.read().decode(errors="replace")


if __name__ == "__main__":
    _listen(Path(sys.argv[1]), Path(sys.argv[2]))
