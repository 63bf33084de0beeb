"""Runs of the DAG in memory, as those who start them see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from touchstone.services.sending import Sender


@dataclass(frozen=True)
class FakeRun:
    """A run, as it was started."""

    user: str
    conf: Mapping[str, Any]


@dataclass
class FakeRuns:
    """
    Remembers which runs were started, and how often somebody tried.

    :param ended: Those that are over.
    """

    runs: dict[str, FakeRun] = field(default_factory=dict)
    tries: int = 0
    ended: set[str] = field(default_factory=set)

    def start(self, run_id: str, conf: Mapping[str, Any], by: str) -> bool:
        self.tries += 1
        if run_id in self.runs:
            return False
        self.runs[run_id] = FakeRun(user=by, conf=dict(conf))
        return True

    def build_sender(self) -> Sender:
        return Sender(
            find_run=self.runs.get,
            start_run=self.start,
            find_states=lambda ids: {
                each: "failed" if each in self.ended else "running"
                for each in ids
                if each in self.runs
            },
        )
