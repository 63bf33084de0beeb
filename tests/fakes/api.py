"""Airflow's api-server in memory, with Touchstone's real application mounted in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import get_user
from fastapi import FastAPI, HTTPException, Request

from fakes.apps import share_app
from fakes.money import FakeBudgets, FakeMeter
from fakes.sending import FakeRun
from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.submissions import build_submission
from touchstone.airflow_db.run_facts import RunFacts
from touchstone.core.answers.acts import Ended
from touchstone.core.offers import GpuRow
from touchstone.core.refs import parse_listing
from touchstone.services.cancel import cancel_unregistered
from touchstone.services.sending import Sender
from touchstone.settings import Settings
from touchstone.ui import dependencies
from touchstone.ui.app import build_app
from touchstone.ui.routes.events import Closer, get_closer
from touchstone.ui.routes.gpus import get_gpus
from touchstone.ui.routes.runs import RunReader, get_run_reader
from touchstone.ui.routes.sending import get_sender
from touchstone.ui.routes.sources import get_list_refs
from touchstone.ui.waiting import QueueReader

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@dataclass
class FakeCancelService:
    """Remembers what it was asked to end."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    unregistered: dict[str, str] = field(default_factory=dict)

    def cancel_unregistered(self, submission_id: str, *, by: str, is_admin: bool) -> Ended | None:
        return cancel_unregistered(
            submission_id,
            by=by,
            is_admin=is_admin,
            records=FakeRecordStore(),
            find_submitter=self.unregistered.get,
            end_runs=list,
        )

    def cancel(self, submission_id: str, *, by: str, reason: str | None) -> Ended:
        self.calls.append(("cancel", submission_id, by, reason))
        return Ended(cancelled_tasks=("i5",), ended_runs=(submission_id,))

    def retract(self, submission_id: str, *, by: str) -> Ended:
        self.calls.append(("retract", submission_id, by))
        return Ended()


URL = "http://touchstone.test"
PASSWORDS = {"engineer": "secret-e", "admin": "secret-a"}
ROLES = {"engineer": "user", "admin": "admin"}


@dataclass
class FakeAirflow:
    """
    Airflow's login, and Touchstone with runs in memory.

    ``steps`` are called one by one, each time a run is asked for: they move the world on.
    ``listing`` is what every git host tells of its refs. It may be below a path, which is given
    when it is built.
    """

    records: FakeRecordStore
    objects: FakeObjectStore
    cancel_service: FakeCancelService
    settings: Settings
    meter: FakeMeter = field(default_factory=FakeMeter)
    budgets: FakeBudgets = field(default_factory=FakeBudgets)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    steps: list[Callable[[], None]] = field(default_factory=list)
    failure: str | None = None
    is_paused: bool = False
    gpus: tuple[GpuRow, ...] | None = None
    logins: int = 0
    expired: set[str] = field(default_factory=set)
    listing: str = ""

    def build(self, path: str = "") -> FastAPI:
        app = FastAPI(root_path=path)
        app.mount("/touchstone", self.replace(share_app(build_app)))
        app.post("/auth/token", status_code=201)(self.create_token)
        return app

    def replace(self, app: FastAPI) -> FastAPI:
        """Return the API's application with this in place of all that it depends on."""
        authority = SimpleAuthManager()
        app.dependency_overrides |= {
            get_user: self.identify,
            dependencies.read_settings: lambda: self.settings,
            dependencies.get_records: lambda: self.records,
            dependencies.get_objects: lambda: self.objects,
            dependencies.get_meter: lambda: self.meter,
            dependencies.get_budgets: lambda: self.budgets,
            dependencies.get_queue_reader: lambda: QueueReader(self.objects, self.settings),
            dependencies.get_cancel_service: lambda: self.cancel_service,
            dependencies.get_clock: lambda: lambda: NOW,
            dependencies.get_authority: lambda: authority,
            get_gpus: lambda: lambda: self.gpus,
            get_list_refs: lambda: lambda _settings, _url: parse_listing(self.listing),
            get_sender: self._build_sender,
            get_run_reader: lambda: RunReader(
                find_run=self.find_run, find_failure=lambda _run_id: self.failure
            ),
            get_closer: lambda: Closer(start=self.close, find_state=self.find_closing),
        }
        return app

    def _build_sender(self) -> Sender:
        def find(run_id: str) -> FakeRun | None:
            run = self.runs.get(run_id)
            return None if run is None else FakeRun(user=run.get("user", ""), conf=run["conf"])

        def start(run_id: str, conf: Mapping[str, Any], by: str) -> bool:
            run = {"dag_run_id": run_id, "state": "queued", "conf": dict(conf), "user": by}
            return self.runs.setdefault(run_id, run) is run

        return Sender(
            find_run=find,
            start_run=start,
            find_states=lambda ids: {
                each: self.runs[each]["state"] for each in ids if each in self.runs
            },
        )

    def identify(self, request: Request) -> SimpleAuthManagerUser:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        name = token.partition("#")[0]
        if name not in ROLES or token in self.expired:
            raise HTTPException(401, "Invalid token")
        return SimpleAuthManagerUser(username=name, role=ROLES[name])

    def create_token(self, body: dict[str, str]) -> dict[str, str]:
        if PASSWORDS.get(body["username"]) != body["password"]:
            raise HTTPException(401, "Invalid credentials")
        self.logins += 1
        return {"access_token": f"{body['username']}#{self.logins}"}

    def find_run(self, run_id: str) -> RunFacts | None:
        if self.steps:
            self.steps.pop(0)()
        run = self.runs.get(run_id)
        if run is None:
            return None
        return RunFacts(
            run_id=run_id,
            user=run.get("user", "engineer"),
            state=run["state"],
            conf=run.get("conf"),
            logical_date=run.get("logical_date"),
            run_after=run.get("run_after"),
            is_paused=self.is_paused,
        )

    def close(self, run_id: str, conf: Mapping[str, Any], by: str) -> None:
        self.runs[run_id] = {"state": "queued", "conf": dict(conf), "user": by}

    def find_closing(self, run_id: str, event: str) -> str | None:
        run = self.find_run(run_id)
        return run.state if run is not None and run.conf == {"event": event} else None

    def add_submission(self, submission_id: str = "s-1", **fields: Any) -> None:
        told = {
            "status": "accepted",
            "submitted_by": "engineer",
            "created_at": NOW.isoformat(),
            "accepted_at": NOW.isoformat(),
            "run_ids": [submission_id],
        }
        self.records.create_submission(build_submission(submission_id, **(told | fields)))

    def change_submission(self, submission_id: str = "s-1", **fields: Any) -> None:
        self.records.change_submission(submission_id, lambda found: found.change(**fields))
