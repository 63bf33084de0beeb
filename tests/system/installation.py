"""One real installation, driven as users do: by the command line, REST and kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import boto3
import docker
import httpx
import psutil
from botocore.config import Config

from touchstone.client.access import get_access
from touchstone.client.api import Client
from touchstone.core.attempts import get_ref
from touchstone.core.names import build_output_key
from touchstone.hooks.objects import ObjectStore
from touchstone.hooks.records import RecordStore
from touchstone.settings import Settings

REPOSITORY = Path(__file__).parents[2]
TOUCHSTONE = Path(sys.executable).with_name("touchstone")
EXAMPLES = REPOSITORY / "include" / "examples"
TRAINER = REPOSITORY / "include" / "elnigma"
SLOW = Path(__file__).parent / "modules" / "slow"


def wait_for(what: str, ask: Callable[[], Any], *, seconds: float = 120, every: float = 0.5) -> Any:
    """Ask until the answer is truthy, and return it; fail with the last one."""
    deadline = time.monotonic() + seconds
    while True:
        answer = ask()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what} (last answer {answer!r})")
        time.sleep(every)


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
            # An example that loops for ever need not do so for long.
            "TOUCHSTONE_VALIDATION_CPU_SECONDS": "20",
            "NO_COLOR": "1",
            **options,
        }

    # --- the command line ------------------------------------------------------------------

    def run(self, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run ``touchstone`` as a user would."""
        return subprocess.run(
            [str(TOUCHSTONE), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def ask(self, *arguments: str, timeout: float = 600) -> Any:
        """Run a command that must succeed with ``--json``, and return what it printed."""
        done = self.run(*arguments, "--json", timeout=timeout)
        assert done.returncode == 0, f"touchstone {arguments}: {done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def submit(self, source: Path | str, *arguments: str) -> str:
        """Submit without waiting; return the submission's id."""
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
            timeout=30,
        )

    def task(self, submission_id: str, task_id: str) -> dict[str, Any]:
        return self.records.find_task(submission_id, task_id) or {}

    def submission(self, submission_id: str) -> dict[str, Any]:
        return self.records.find_submission(submission_id) or {}

    def wait_for_task(
        self, submission_id: str, task_id: str, *statuses: str, seconds: float = 180
    ) -> dict[str, Any]:
        wait_for(
            f"{submission_id}/{task_id} is {' or '.join(statuses)}",
            lambda: self.task(submission_id, task_id).get("status") in statuses,
            seconds=seconds,
        )
        return self.task(submission_id, task_id)

    def wait_for_submission(
        self, submission_id: str, *statuses: str, seconds: float = 300
    ) -> dict[str, Any]:
        def is_there() -> bool:
            return self.submission(submission_id).get("status") in statuses

        try:
            wait_for(f"{submission_id} is {' or '.join(statuses)}", is_there, seconds=seconds)
        except AssertionError as error:
            tasks = [
                {k: t.get(k) for k in ("task_id", "status", "phase", "reason")}
                for t in self.records.list_tasks(submission_id)
            ]
            found = self.submission(submission_id)
            raise AssertionError(f"{error}: {found.get('status')} {tasks}") from error
        return self.submission(submission_id)

    def run_state(self, run_id: str) -> str:
        return str(self.airflow.get(f"/dags/touchstone/dagRuns/{run_id}").json()["state"])

    def wait_for_run_end(self, run_id: str, *, seconds: float = 120) -> str:
        return str(
            wait_for(
                f"run {run_id} has ended",
                lambda: self.run_state(run_id) in {"success", "failed"} and self.run_state(run_id),
                seconds=seconds,
            )
        )

    def end_run(self, run_id: str) -> None:
        """Mark a run failed, as an admin does on its page."""
        body = {"state": "failed"}
        self.airflow.patch(f"/dags/touchstone/dagRuns/{run_id}", json=body).raise_for_status()

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
        key = build_output_key(get_ref(task), path)
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

    def wait_until_gone(self, name: str, *, seconds: float) -> None:
        wait_for(
            f"{name} is gone",
            lambda: not any(found.startswith(name) for found in self.running_attempts()),
            seconds=seconds,
            every=0.2,
        )

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

    def wait_until_restarted(self, name: str, old_pid: int, *, seconds: float = 120) -> None:
        def is_back() -> bool:
            part = self.part(name)
            return part.get("pid") not in {None, old_pid} and part["healthy"]

        wait_for(f"{name} is back", is_back, seconds=seconds, every=1)


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
