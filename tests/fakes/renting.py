"""
Touchstone's side of renting, on real stores: a context, submissions, and a dispatcher's decisions.

As a program (``python -m fakes.renting``) it drives one task and can be told to die at a step.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import secrets
import shlex
import signal
import sys
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import boto3
from botocore.config import Config

from touchstone.core import attempts
from touchstone.core.conf import System
from touchstone.core.names import build_content_key
from touchstone.core.records.tasks import Task
from touchstone.core.retries import WaitEnd, find_end
from touchstone.core.schedule import Platform, Training
from touchstone.core.tasks import TaskSpec, build_validation_spec
from touchstone.hooks.runpod.api import Account
from touchstone.hooks.runpod.lister import AsyncPodLister, PodLister
from touchstone.hooks.runpod.rest import AsyncRestPodApi, RestPodApi
from touchstone.services.pods.context import PodContext, TaskRef
from touchstone.services.pods.ledger import Ledger, build_limits
from touchstone.services.pods.shell import PodShell
from touchstone.settings import RunPodSettings, Settings
from touchstone.stack.provision import Stores, provision
from touchstone.stores.meter import Meter
from touchstone.stores.money import Budgets
from touchstone.stores.objects import ObjectStore
from touchstone.stores.records import RecordStore
from touchstone.triggers.pods.driver import PodDriver
from touchstone_agent.protocol.messages import Limits, SlotClass

LISTS_PER_MINUTE = 600
SECRET = hashlib.sha256(b"a control plane for tests").digest()
TRIES = 4


def build_settings(env: str, **changes: Any) -> Settings:
    """
    Return settings of an installation that has tables and buckets of its own.

    What has to happen within them has minutes, because a machine may be busy; what is waited for
    in vain takes that long, and a test that does so brings shorter ones.
    """
    runpod = RunPodSettings(
        **{
            "conn_id": "runpod",
            "gpu_models": ("NVIDIA L4", "NVIDIA GeForce RTX 3090"),
            "lease_seconds": 300,
            "boot_seconds": 300,
            "login_seconds": 300,
            "reconcile_seconds": 4,
            "confirm_seconds": 0.2,
            "poll_seconds": 0.2,
            "min_free_gb": 0.1,
            "reap_grace_seconds": 1,
            **changes.pop("runpod", {}),
        }
    )
    tables = {name: f"{name}-{env}" for name in Settings.model_fields if name.endswith("_table")}
    return Settings(env=env, runpod=runpod, **tables, **changes)


@dataclass(frozen=True)
class Clients:
    """Connections to the AWS emulator, good for many threads."""

    dynamodb: Any
    s3: Any
    sqs: Any

    @classmethod
    def connect(cls, url: str) -> Clients:
        """Connect to MiniStack."""
        return cls(*(_connect(service, url) for service in ("dynamodb", "s3", "sqs")))


def _connect(service: str, url: str) -> Any:
    return boto3.client(
        service,
        endpoint_url=url,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(
            max_pool_connections=40, signature_version="s3v4", s3={"addressing_style": "path"}
        )
        if service == "s3"
        else Config(max_pool_connections=40),
    )


@dataclass(frozen=True)
class Office:
    """
    An installation that rents: its stores and its account.

    :param runpod_url: The emulator.
    :param aws_url: MiniStack.
    :param settings: The installation's.
    """

    runpod_url: str
    aws_url: str
    settings: Settings

    def open(self) -> Office:
        """Create its tables and buckets."""
        clients = Clients.connect(self.aws_url)
        provision(self.settings, Stores(**vars(clients)), [])
        return self

    @property
    def records(self) -> RecordStore:
        """Return its records."""
        return RecordStore(_connect("dynamodb", self.aws_url), self.settings)

    @asynccontextmanager
    async def work(self) -> AsyncIterator[PodContext]:
        """Open a pod context in the running event loop."""
        clients = Clients.connect(self.aws_url)
        account = Account(api_key="rpa_test", url=self.runpod_url)
        limits = build_limits(self.settings)
        async with AsyncRestPodApi(account) as api:
            with RestPodApi(account) as listing:
                yield PodContext(
                    api=api,
                    lister=AsyncPodLister(PodLister(listing, requests_per_minute=LISTS_PER_MINUTE)),
                    records=RecordStore(clients.dynamodb, self.settings),
                    objects=ObjectStore(clients.s3),
                    ledger=Ledger(
                        Budgets(clients.dynamodb, self.settings),
                        Meter(clients.dynamodb, self.settings),
                        limits,
                    ),
                    settings=self.settings,
                    secret=SECRET,
                    api_url=self.runpod_url,
                )

    def submit(
        self,
        *say: str,
        submission_id: str | None = None,
        wishes: Training | None = None,
        image_cuda: str | None = None,
        image_pod: str | None = None,
    ) -> TaskRef:
        """
        Record a task that a schedule wants trained.

        :param say: What the trainer is told, see ``trainer.sh``.
        :param image_cuda: The trainer's image for where there is a GPU.
        :param image_pod: The image of pods, as its submission has pinned it.
        """
        validation = self._build_validation({"features.py": "\n"}, submission_id)
        spec = validation.model_copy(
            update={
                "task_id": "i5",
                "kind": SlotClass.TRAINING,
                "interval": 5,
                "image_cuda": image_cuda,
                "image_pod": image_pod,
                "schedule": (wishes or Training()).model_copy(
                    update={
                        "passthrough_args": tuple(map(shlex.quote, say)),
                        "platform": Platform.RUNPOD,
                    }
                ),
            }
        )
        return self._record(spec)

    def validate(self, *, exit_code: int = 0) -> TaskRef:
        """
        Record a submission that is to be validated.

        :param exit_code: What its validation comes to, see ``trainer.sh``.
        """
        files = {"features.py": "\n"} | ({"exit": str(exit_code)} if exit_code else {})
        return self._record(self._build_validation(files))

    def _build_validation(
        self, files: Mapping[str, str], submission_id: str | None = None
    ) -> TaskSpec:
        content = build_content(files)
        digest = hashlib.sha256(content).hexdigest()
        objects = ObjectStore(_connect("s3", self.aws_url))
        objects.put_new(self.settings.content_bucket, build_content_key(digest), content)
        return build_validation_spec(
            submission_id or f"s{secrets.token_hex(4)}",
            system=System.FEATURE_SET,
            image="trainer:1",
            content_sha256=digest,
            content_size=len(content),
            limits=Limits(memory_mib=512, wall_seconds=1200),
            submitted_by="ann",
        )

    def _record(self, spec: TaskSpec) -> TaskRef:
        record = attempts.new_task(
            spec, run_id=spec.submission_id, map_index=0, now=datetime.now(UTC)
        )
        self.records.create_task(record)
        return TaskRef(submission_id=spec.submission_id, task_id=spec.task_id)

    def claim(self, key: TaskRef) -> int:
        """Write down the intent of another attempt; return its fence."""

        def decide(task: Task) -> Task:
            return attempts.claim_attempt(
                task,
                attempt=task.newest.number + 1,
                server="runpod",
                container_of=lambda ref: ref.container_name(self.settings.env),
                now=datetime.now(UTC),
                platform=Platform.RUNPOD,
            )

        claimed = self.records.change_task(key.submission_id, key.task_id, decide)
        return claimed.fence

    def read(self, key: TaskRef) -> Task:
        """Return a task."""
        return self.records.get_task(key.submission_id, key.task_id)


def build_content(files: Mapping[str, str]) -> bytes:
    """Return an archive as the gate makes them, of texts by name."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return memory.getvalue()


async def train(context: PodContext, office: Office, key: TaskRef, *, tries: int = TRIES) -> Task:
    """Give a task attempts as dispatcher and trigger do, until one of them is its end."""
    for _ in range(tries):
        fence = await asyncio.to_thread(office.claim, key)
        await PodDriver(context, key, fence).run()
        record = await context.read(key)
        end = find_end(record, fence=fence, run_id=record.run_id)
        if end is not WaitEnd.RETRY:
            return record
    return record


# --- dying -----------------------------------------------------------------------------------


class Steps:
    """
    Counts everything that reaches out of the process, and dies at one of them.

    :param die_at: At which, from 1; an odd number is before a step and an even one behind it.
    """

    def __init__(self, die_at: int) -> None:
        self._die_at = die_at
        self._count = 0

    def pass_by(self, what: str) -> None:
        """Note the beginning or the end of a step."""
        self._count += 1
        print(json.dumps({"step": self._count, "what": what}), flush=True)
        if self._count == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, what: str, work: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
        """Return a coroutine function that notes its beginning and its end."""

        async def stepped(*args: Any, **kwargs: Any) -> Any:
            self.pass_by(f"before {what}")
            result = await work(*args, **kwargs)
            self.pass_by(f"after {what}")
            return result

        return stepped

    def around_sync(self, what: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that notes its beginning and its end."""

        def stepped(*args: Any, **kwargs: Any) -> Any:
            self.pass_by(f"before {what}")
            result = work(*args, **kwargs)
            self.pass_by(f"after {what}")
            return result

        return stepped

    @contextmanager
    def watch(self, context: PodContext) -> Iterator[None]:
        """Count the steps of a pod context and of its logins."""
        for name in ("create_pod", "terminate_pod", "get_pod", "read_logs"):
            setattr(context.api, name, self.around(name, getattr(context.api, name)))
        for name in ("reserve", "open", "close"):
            setattr(context.ledger, name, self.around_sync(name, getattr(context.ledger, name)))
        context.change = self.around("change", context.change)  # type: ignore[method-assign]
        call = PodShell.call

        async def stepped(
            shell: PodShell, verb: str, message: Any, answer: Any, **options: Any
        ) -> Any:
            self.pass_by(f"before {verb}")
            result = await call(shell, verb, message, answer, **options)
            self.pass_by(f"after {verb}")
            return result

        PodShell.call = stepped  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            PodShell.call = call  # type: ignore[method-assign]


async def _drive(order: dict[str, Any]) -> None:
    office = Office(
        order["runpod_url"], order["aws_url"], Settings.model_validate(order["settings"])
    )
    key = TaskRef(**order["key"])
    async with office.work() as context:
        with Steps(order["die_at"]).watch(context):
            await PodDriver(context, key, order["fence"]).run()


if __name__ == "__main__":
    asyncio.run(_drive(json.load(sys.stdin)))
