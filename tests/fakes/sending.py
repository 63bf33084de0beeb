"""Runs of the DAG in memory, as those who start them see them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from touchstone.airflow_db.run_facts import RunFacts
from touchstone.services.sending import Sender
from touchstone.ui.routes.events import Closer, get_closer
from touchstone.ui.routes.runs import RunReader, get_run_reader
from touchstone.ui.routes.sending import get_sender
from touchstone.ui.routes.streams import Streaming, get_streaming


@dataclass(frozen=True)
class FakeRun:
    """A run, as it was started."""

    user: str
    conf: Mapping[str, Any]


def build_facts(run_id: str, user: str = "engineer", **fields: Any) -> RunFacts:
    """Return a run as Airflow has it; a queued one unless told otherwise."""
    return RunFacts(
        run_id=run_id,
        user=user,
        state=fields.get("state", "queued"),
        conf=fields.get("conf"),
        logical_date=fields.get("logical_date"),
        run_after=fields.get("run_after"),
        is_paused=fields.get("is_paused", False),
    )


def replace_airflow(runs: FakeRuns) -> dict[Any, Any]:
    """
    Return what takes the place of Airflow's runs in an application; each id is a run.

    Streams end after one look.
    """
    hours = itertools.count(0, 3600)
    return {
        get_streaming: lambda: Streaming(monotonic=lambda: float(next(hours))),
        get_sender: runs.build_sender,
        get_run_reader: lambda: RunReader(find_run=build_facts, find_failure=lambda _: None),
        get_closer: lambda: Closer(
            start=lambda run_id, conf, by: None, find_state=lambda run_id, event: "success"
        ),
    }


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
