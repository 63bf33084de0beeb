"""What attackers have, and what shows that they got nothing."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from fakes.servers import store_server
from system.installation import Installation
from touchstone_agent.protocol.envelope import generate_key, load_private_key
from touchstone_agent.protocol.names import build_event_queue

EVIL_IMAGE = "touchstone-test-evil-pod:local"
TRAINER_IMAGE = "touchstone-elnigma:local"
EVIL_POD = Path(__file__).parent / "evil_pod.py"
POD_PROGRAM = "/usr/local/bin/touchstone-pod"
GIVE_UP_SECONDS = 60
"""
After so long a page is taken not to answer at all.

What is promised is far less, for a machine with nothing else to do: ``-s`` prints what it was.
"""


def build_evil_image(engine: Any) -> None:
    """Make an image of pods that lie, from the trainer's own."""
    dockerfile = (
        f"FROM {TRAINER_IMAGE}\nUSER 0:0\nCOPY touchstone-pod {POD_PROGRAM}\n"
        f"RUN chmod 755 {POD_PROGRAM}\n"
        'WORKDIR /\nENTRYPOINT ["touchstone-pod"]\nCMD ["serve"]\n'
    )
    context = io.BytesIO()
    with tarfile.open(fileobj=context, mode="w") as tar:
        for name, body in (
            ("Dockerfile", dockerfile.encode()),
            ("touchstone-pod", EVIL_POD.read_bytes()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    context.seek(0)
    engine.images.build(fileobj=context, custom_context=True, tag=EVIL_IMAGE, rm=True)


def sample_all_but(names: Iterable[str], always: str) -> list[Any]:
    """Return names as parameters of a test, of which CI runs a third, and one of them always."""
    third = pytest.mark.campaign(sample=3)
    return [name if name == always else pytest.param(name, marks=third) for name in names]


class User:
    """
    One login, with Airflow's REST API and ours.

    :param installation: The stack.
    :param name: Who.
    """

    def __init__(self, installation: Installation, name: str) -> None:
        url = installation.stack["urls"]["airflow"]
        login = {"username": name, "password": installation.passwords[name]}
        token = httpx.post(f"{url}/auth/token", json=login, timeout=60).raise_for_status().json()
        self.name = name
        self.http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token['access_token']}"},
            timeout=60,
        )

    def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Make one request."""
        return self.http.request(method, path, json=body)

    def trigger(self, conf: dict[str, Any], run_id: str | None = None) -> httpx.Response:
        """Start a run of the DAG."""
        body = {"logical_date": None, "conf": conf} | ({"dag_run_id": run_id} if run_id else {})
        return self.ask("POST", "/api/v2/dags/touchstone/dagRuns", body)

    def edit_xcom(self, run_id: str, task_id: str, key: str, value: Any) -> httpx.Response:
        """Change an XCom, as its page does."""
        path = f"/api/v2/dags/touchstone/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.ask("PATCH", path, {"value": value, "map_index": -1})

    def clear(self, run_id: str, *task_ids: str, downstream: bool = False) -> httpx.Response:
        """Clear tasks of a run."""
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": list(task_ids),
            "only_failed": False,
            "include_downstream": downstream,
        }
        return self.ask("POST", "/api/v2/dags/touchstone/clearTaskInstances", body)


class Victim:
    """
    Somebody's finished submission.

    :param installation: The stack.
    :param submission_id: It.
    """

    def __init__(self, installation: Installation, submission_id: str) -> None:
        self._installation = installation
        self.submission_id = submission_id

    def photograph(self) -> dict[str, Any]:
        """Return all that is on record of it, and all that is stored."""
        here, name = self._installation, self.submission_id
        submission = here.submission(name)
        # Who tried what is written down on purpose; nothing else may differ.
        submission.pop("actions", None)
        submission.pop("version", None)
        s3 = here._aws("s3")
        objects = {
            f"{bucket}/{item['Key']}": (item["ETag"], item["Size"])
            for bucket in (
                here.settings.content_bucket,
                here.settings.models_bucket,
                here.settings.logs_bucket,
            )
            for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            for item in page.get("Contents", ())
            if name in item["Key"].split("/")
        }
        run = here.airflow.get(f"/dags/touchstone/dagRuns/{name}").json()
        return {
            "submission": submission,
            "tasks": here.tasks(name),
            "evaluations": here.records.list_evaluations(name),
            "objects": objects,
            "run": run.get("state"),
        }


@dataclass
class Pulse:
    """
    Asks two health pages all the time, beside an attack.

    :param slowest: Seconds that the slowest answer took, by page.
    :param failures: What was no answer.
    """

    installation: Installation
    token: str
    slowest: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> Pulse:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        self._thread.join(60)

    def _beat(self) -> None:
        pages = ("/api/v2/monitor/health", "/touchstone/api/v1/health")
        with httpx.Client(
            base_url=self.installation.stack["urls"]["airflow"],
            headers={"Authorization": self.token},
            timeout=GIVE_UP_SECONDS,
        ) as client:
            while not self._stopping.wait(0.25):
                for page in pages:
                    began = time.monotonic()
                    try:
                        status = client.get(page).status_code
                        if status != 200:
                            self.failures.append(f"{page}: {status}")
                    except httpx.TransportError as error:
                        self.failures.append(f"{page}: {type(error).__name__}")
                    took = time.monotonic() - began
                    self.slowest[page] = max(self.slowest.get(page, 0.0), took)

    def check(self) -> None:
        """Fail if a page did not answer; print how long the slowest answers took."""
        told = ", ".join(f"{page} {seconds:.2f} s" for page, seconds in self.slowest.items())
        print(f"\nslowest answers beside the attack: {told}")
        assert self.failures == []
        assert set(self.slowest) == {"/api/v2/monitor/health", "/touchstone/api/v1/health"}


class EvilServer:
    """
    A server whose owner says what he likes, with a key that is known.

    :param installation: The stack.
    :param name: The server.
    """

    def __init__(self, installation: Installation, name: str) -> None:
        self.name = name
        self._installation = installation
        private, public = generate_key()
        self._key = load_private_key(private)
        self._sqs = installation._aws("sqs")
        self._epoch = uuid.uuid4().hex
        store_server(
            installation.records,
            {"server": name, "env": installation.settings.env, "public_key": public},
        )

    def seal(self, body: dict[str, Any], *, raw: str | None = None, server: str = "") -> str:
        """Return a signed event of whatever content; ``raw`` takes the place of the payload."""
        import base64

        now = datetime.now(UTC)
        header = {
            "v": 1,
            "message_id": uuid.uuid4().hex,
            "env": self._installation.settings.env,
            "server": server or self.name,
            "epoch": self._epoch,
            "sequence": 1,
            "issued_at": now.isoformat(),
            "expires_at": (now + timedelta(days=1)).isoformat(),
        }
        payload = raw if raw is not None else json.dumps({"header": header, "body": body})
        signature = base64.b64encode(
            self._key.sign(payload.encode("utf-8", "surrogatepass"))
        ).decode()
        return json.dumps({"kid": self.name, "sig": signature, "payload": payload})

    def send(self, text: str, *, group: str = "evil") -> None:
        """Put a message on the event queue."""
        queue = build_event_queue(self._installation.settings.env)
        self._sqs.send_message(
            QueueUrl=self._sqs.get_queue_url(QueueName=queue)["QueueUrl"],
            MessageBody=text,
            MessageGroupId=group,
            MessageDeduplicationId=uuid.uuid4().hex,
        )

    def say(self, body: dict[str, Any], *, group: str = "evil") -> None:
        """Send one event."""
        self.send(self.seal(body), group=group)

    def beat(self, **inventory: Any) -> None:
        """Send a heartbeat."""
        facts = {
            "slots": 1,
            "validation_slots": 0,
            "runtime": "docker",
            "agent_version": "1",
            "cpus": 8,
            "memory_mib": 65536,
        }
        self.say({"kind": "heartbeat", "inventory": facts | inventory}, group="beat")


def count_messages(installation: Installation, queue: str) -> int:
    """Return how many messages are on a queue, received or not."""
    sqs = installation._aws("sqs")
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(found[name]) for name in names)
