"""One real installation, driven as users do: by the command line, REST and kill."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import boto3
import docker
import httpx
import psutil
from botocore.config import Config

from fakes.tasks import read_stored
from touchstone.client.access import get_access
from touchstone.client.api import Client
from touchstone.core.names import build_output_key
from touchstone.core.records.tasks import Task
from touchstone.core.states import TASK_TERMINAL
from touchstone.settings import Settings
from touchstone.stack.layout import StatePaths
from touchstone.stores.objects import ObjectStore
from touchstone.stores.records import RecordStore
from waiting import wait_for

REPOSITORY = Path(__file__).parents[2]
TOUCHSTONE = Path(sys.executable).with_name("touchstone")
EXAMPLES = REPOSITORY / "include" / "examples"
TRAINER = REPOSITORY / "include" / "elnigma"
SLOW = Path(__file__).parent / "modules" / "slow"


_ENDED = frozenset({"success", "error", "cancelled", "rejected", "retracted"})
"""What a submission is when nothing more comes of it by itself."""


class Installation:
    """
    A stack in a folder of its own, under an environment name of its own.

    :param state_dir: Where it keeps everything.
    :param env: Environment; keeps its containers apart from any other stack's.
    :param options: Further settings of it, as environment variables.
    """

    def __init__(
        self, state_dir: Path, env: str, options: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.state_dir = state_dir
        self.settings = Settings(env=env, state_dir=state_dir)
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("TOUCHSTONE_")
        } | {
            "TOUCHSTONE_STATE_DIR": str(state_dir),
            "TOUCHSTONE_ENV": env,
            # On a busy machine a good module takes long; what loops is ended by its CPU seconds.
            "TOUCHSTONE_VALIDATION_WALL_SECONDS": "1200",
            "NO_COLOR": "1",
            **options,
        }

    # --- the command line ------------------------------------------------------------------

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``touchstone`` as a user would."""
        return subprocess.run(
            [str(TOUCHSTONE), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def ask(self, *arguments: str) -> Any:
        """Run a command that must succeed with ``--json``, and return what it printed."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, f"touchstone {arguments}: {done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def submit(self, source: Path | str, *arguments: str) -> str:
        """Submit without waiting, a model structure as one; return the submission's id."""
        is_model = isinstance(source, Path) and (source / "model.py").is_file()
        if is_model and "--system" not in arguments:
            arguments = ("--system", "model_structure", *arguments)
        return str(self.ask("submit", str(source), *arguments)["submission_id"])

    # --- what there is ---------------------------------------------------------------------

    @cached_property
    def stack(self) -> dict[str, Any]:
        return json.loads((self.state_dir / "stack.json").read_text())

    @cached_property
    def passwords(self) -> dict[str, str]:
        return json.loads((self.state_dir / "credentials.json").read_text())["passwords"]

    def client(self, user: str = "engineer") -> Client:
        return Client(get_access(self.environment, user=user))

    def _aws(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.stack["urls"]["ministack"],
            region_name=self.stack["region"],
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(s3={"addressing_style": "path"}),
        )

    @cached_property
    def records(self) -> RecordStore:
        return RecordStore(self._aws("dynamodb"), self.settings)

    @cached_property
    def objects(self) -> ObjectStore:
        return ObjectStore(self._aws("s3"))

    @cached_property
    def airflow(self) -> httpx.Client:
        """Airflow's REST API, as the admin."""
        url = self.stack["urls"]["airflow"]
        login = {"username": "admin", "password": self.passwords["admin"]}
        token = httpx.post(f"{url}/auth/token", json=login).raise_for_status().json()
        return httpx.Client(
            base_url=f"{url}/api/v2",
            headers={"Authorization": f"Bearer {token['access_token']}"},
            timeout=300,
        )

    def task(self, submission_id: str, task_id: str) -> dict[str, Any]:
        """Return a task's record as it is stored; empty while it is not there."""
        return read_stored(self.records, submission_id, task_id)

    def tasks(self, submission_id: str) -> list[dict[str, Any]]:
        """Return the records of a submission's tasks as they are stored."""
        return [dict(entry.stored) for entry in self.records.list_tasks(submission_id)]

    def submission(self, submission_id: str) -> dict[str, Any]:
        """Return a submission's record as it is stored; empty while it is not there."""
        found = self.records.find_submission(submission_id)
        return found.dump() if found else {}

    def wait_for_task(self, submission_id: str, task_id: str, *statuses: str) -> dict[str, Any]:
        """Wait until a task is in one of the statuses, unless its submission has ended."""
        wait_for(
            f"{submission_id}/{task_id} is {' or '.join(statuses)}",
            lambda: self.task(submission_id, task_id).get("status") in statuses,
            unless=lambda: self.find_end(submission_id),
            every=0.5,
        )
        return self.task(submission_id, task_id)

    def wait_for_submission(self, submission_id: str, *statuses: str) -> dict[str, Any]:
        """Wait until a submission is in one of the statuses, unless it has ended in another."""
        wait_for(
            f"{submission_id} is {' or '.join(statuses)}",
            lambda: self.submission(submission_id).get("status") in statuses,
            unless=lambda: self.find_end(submission_id),
            every=0.5,
        )
        return self.submission(submission_id)

    def find_end(self, submission_id: str) -> str | None:
        """Say how a submission and all its tasks have ended; ``None`` while one goes on."""
        found, tasks = self.submission(submission_id), self.tasks(submission_id)
        are_ended = all(task["status"] in TASK_TERMINAL for task in tasks)
        if found.get("status") not in _ENDED or not are_ended:
            return None
        facts = [
            {k: t.get(k) for k in ("task_id", "status", "phase", "reason", "attempts")}
            for t in tasks
        ]
        return f"it is {found.get('status')}: {found.get('reason')}; {facts}"

    def run_state(self, run_id: str) -> str:
        answer = self.airflow.get(f"/dags/touchstone/dagRuns/{run_id}")
        return str(answer.raise_for_status().json()["state"])

    def wait_for_run_end(self, run_id: str) -> str:
        def find_end() -> str | None:
            answer = self.airflow.get(f"/dags/touchstone/dagRuns/{run_id}")
            # On a busy machine Airflow's database is locked for longer than a request waits.
            state = answer.json()["state"] if not answer.is_server_error else None
            return state if state in {"success", "failed"} else None

        return str(wait_for(f"run {run_id} has ended", find_end, every=0.5))

    def end_run(self, run_id: str) -> None:
        """Mark a run failed, as an admin does on its page."""

        def end() -> httpx.Response | None:
            body = {"state": "failed"}
            answer = self.airflow.patch(f"/dags/touchstone/dagRuns/{run_id}", json=body)
            # So answers Airflow where its scheduler has changed the same rows at that moment, and
            # our layer around it where its log is locked then.
            return None if answer.status_code in {500, 503} else answer

        wait_for(f"run {run_id} can be ended", end, every=0.5).raise_for_status()

    def has_pool(self, name: str) -> bool:
        """Return whether Airflow has a pool."""
        return self.airflow.get(f"/pools/{name}").status_code == 200

    def set_slots(self, pool: str, slots: int) -> None:
        """Change a pool's slots as the Pools page does."""
        body = {"pool": pool, "slots": slots, "include_deferred": True}
        self.airflow.patch(f"/pools/{pool}", json=body).raise_for_status()

    def read_output(self, task: dict[str, Any], path: str) -> bytes:
        """Return a file that a task's newest attempt has stored."""
        item = next(item for item in task["files"] if item["path"] == path)
        key = build_output_key(Task.load(task).ref, path)
        return self.objects.get(self.settings.content_bucket, key, sha256=item["sha256"])

    def read_result(self, task: dict[str, Any]) -> dict[str, Any]:
        """Return a task's result.json."""
        result: dict[str, Any] = json.loads(self.read_output(task, "result.json"))
        return result

    # --- attempts --------------------------------------------------------------------------

    @property
    def runtime(self) -> str:
        return str(self.stack["runtime"])

    def running_attempts(self) -> list[str]:
        """Return the names of what runs now: containers, or process groups."""
        if self.runtime == "docker":
            prefix = f"touchstone-{self.settings.env}-"
            containers = docker.from_env().api.containers(all=True)
            names = [name.lstrip("/") for item in containers for name in item["Names"]]
            return [name for name in names if name.startswith(prefix)]
        marker = f"touchstone-{self.settings.env}-"
        return sorted(
            {
                found
                for found in map(_attempt_of, psutil.process_iter())
                if found and found.startswith(marker)
            }
        )

    def wait_until_gone(self, name: str) -> None:
        wait_for(
            f"{name} is gone",
            lambda: not any(found.startswith(name) for found in self.running_attempts()),
            every=0.2,
        )

    def cancel_what_goes_on(self, submission_id: str) -> None:
        """Leave nothing of a submission to the next test, whatever became of this one."""
        if self.find_end(submission_id) is None:
            self.run("cancel", submission_id)
            what = f"nothing of {submission_id} goes on"
            wait_for(what, lambda: self._find_rest(submission_id), every=0.5)

    def _find_rest(self, submission_id: str) -> str | None:
        """Say how a submission has ended, or that it was accepted and nobody has scheduled it."""
        if self.submission(submission_id).get("status") != "accepted":
            return self.find_end(submission_id)
        are_ended = all(each["status"] in TASK_TERMINAL for each in self.tasks(submission_id))
        return "accepted" if are_ended else None

    def let_go(self, task: Mapping[str, Any]) -> None:
        """Let an attempt on a server go on that waits for a file ``go`` in its output."""
        state = StatePaths(root=self.state_dir).agent_state(task["server"])
        (state / "attempts" / task["container"] / "out" / "go").touch()

    def let_all_go(self, submission_id: str) -> None:
        """Let all attempts of a submission go on that wait for it, now."""
        for task in self.tasks(submission_id):
            if task["status"] == "running":
                # One that has just ended has no folder any more.
                with contextlib.suppress(OSError):
                    self.let_go(task)

    # --- parts -----------------------------------------------------------------------------

    def part(self, name: str) -> dict[str, Any]:
        # Exit 1 means that some part is not well, which is what a test may be waiting for.
        parts = json.loads(self.run("status", "--json").stdout)["parts"]
        return next(part for part in parts if part["name"] == name)

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Kill a part the hard way, as a crash would, and return the process's id."""
        pid = int(self.part(name)["pid"])
        os.kill(pid, number)
        return pid

    def wait_until_restarted(self, name: str, old_pid: int) -> None:
        def is_back() -> bool:
            part = self.part(name)
            return part.get("pid") not in {None, old_pid} and part["healthy"]

        wait_for(f"{name} is back", is_back, every=1)


def _attempt_of(process: psutil.Process) -> str | None:
    """Return the attempt a process belongs to, from its working directory or arguments."""
    try:
        texts = [process.cwd(), *process.cmdline()]
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return None
    for text in texts:
        for part in text.split("/"):
            if part.startswith("touchstone-"):
                return part
    return None
