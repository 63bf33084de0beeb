"""
What a long past costs: 10,000 submissions and 50,000 tasks that have ended, against none.

An installation of our own, with MiniStack for its stores, is measured twice in one run: empty, and
with the past in its tables. Measured are the start of a dispatcher (from its process's start to the
end of its first round of placement), the answer to a HELLO (through both queues), and the lists of
the API (over HTTP, with a login). Beside each stands the CPU time that it took of MiniStack, which
looks through all of a part of an index for each page of it, as AWS does not; and of the part that
answers. Their sum is about the time on a machine that has nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import httpx
import psutil
from botocore.config import Config

from bench.peers.ours import end_on_sigterm, run_installation
from fakes.history import USERS, History
from system.installation import Installation
from touchstone.stack.provision import Server, Stores, provision
from touchstone_agent.protocol.envelope import (
    EventMessage,
    Header,
    generate_key,
    load_private_key,
    seal,
)
from touchstone_agent.protocol.messages import Hello, Inventory
from touchstone_agent.protocol.names import build_control_queue, build_event_queue

START_CLAIM, HELLO_CLAIM, LIST_CLAIM = 5.0, 1.0, 0.2
SERVER = "bench"
LIMIT = 50
LIMIT_SECONDS = 180
INVENTORY = Inventory(
    slots=1, validation_slots=1, runtime="docker", agent_version="0", cpus=1, memory_mib=1024
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """
    One thing that was measured.

    :param claim: Seconds that were promised.
    :param seconds: Each measurement.
    :param store: CPU seconds of the store, for one.
    :param part: CPU seconds of whoever answers, for one.
    """

    name: str
    claim: float
    seconds: Sequence[float]
    store: float
    part: float

    @property
    def p50(self) -> float:
        return statistics.median(self.seconds)


class Yard:
    """
    An installation, and one more server that says HELLO when it is told to.

    :param installation: It runs.
    """

    def __init__(self, installation: Installation, rounds: int) -> None:
        self._installation = installation
        self._rounds = rounds
        self.settings = installation.settings
        self.dynamodb, s3, self._sqs = (self._connect(name) for name in ("dynamodb", "s3", "sqs"))
        private, public = generate_key()
        self._key = load_private_key(private)
        stores = Stores(dynamodb=self.dynamodb, s3=s3, sqs=self._sqs)
        provision(self.settings, stores, [Server(name=SERVER, public_key=public)])
        self._events, self._commands = (
            self._sqs.get_queue_url(QueueName=name)["QueueUrl"]
            for name in (build_event_queue(self.settings.env), build_control_queue(SERVER))
        )
        self._store = psutil.Process(int(installation.part("ministack")["pid"]))
        self._api = psutil.Process(int(installation.part("airflow-api")["pid"]))
        self._dispatcher = psutil.Process(int(installation.part("dispatcher")["pid"]))
        self._count = 0

    def _connect(self, service: str) -> Any:
        stack = self._installation.stack
        return boto3.client(
            service,
            endpoint_url=stack["urls"]["ministack"],
            region_name=stack["region"],
            aws_access_key_id="test",
            aws_secret_access_key="test",
            # Fifty thousand records are checked by whoever takes them.
            config=Config(read_timeout=LIMIT_SECONDS, parameter_validation=False),
        )

    def measure(self) -> list[Row]:
        """Measure everything once, in the order of the claims."""
        rows = [self.time_starts()]
        # It goes on to learn from the past, which costs whoever asks the store meanwhile.
        _wait("the dispatcher has learnt", self._is_idle, every=0)
        rows.append(self._time("HELLO to SYNC", HELLO_CLAIM, self._dispatcher, self.say_hello))
        return rows + self.time_lists()

    def _is_idle(self) -> bool:
        """Tell whether the dispatcher has little to do for two seconds."""
        before = _read_cpu(self._dispatcher)
        time.sleep(2)
        return _read_cpu(self._dispatcher) - before < 0.4

    def _time(
        self, name: str, claim: float, part: psutil.Process, work: Callable[[], object]
    ) -> Row:
        """Do something again and again."""
        work()  # logs in, opens connections
        before, spans = (_read_cpu(self._store), _read_cpu(part)), []
        for _ in range(self._rounds):
            began = time.perf_counter()
            work()
            spans.append(time.perf_counter() - began)
        store, own = _read_cpu(self._store) - before[0], _read_cpu(part) - before[1]
        rounds = self._rounds
        return Row(name=name, claim=claim, seconds=spans, store=store / rounds, part=own / rounds)

    # --- the start ---------------------------------------------------------------------------

    def time_starts(self) -> Row:
        """Let new dispatchers begin, and time each to the end of its first round."""
        spans, cpu, before = [], [], _read_cpu(self._store)
        for _ in range(max(1, self._rounds // 4)):
            old, supervisor = self._dispatcher, self._dispatcher.parent()
            assert supervisor is not None
            old.kill()
            with suppress(psutil.NoSuchProcess):
                old.wait(LIMIT_SECONDS)
            ticked_at = _wait("a dispatcher places", self._find_tick, every=0.02)
            new = self._dispatcher = _find_dispatcher(supervisor)
            cpu.append(_read_cpu(new))
            spans.append(float(ticked_at - new.create_time()))
        store = (_read_cpu(self._store) - before) / len(spans)
        return Row(
            name="dispatcher start to first round",
            claim=START_CLAIM,
            seconds=spans,
            store=store,
            part=statistics.median(cpu),
        )

    def _find_tick(self) -> float | None:
        url = self._installation.stack["urls"]["dispatcher"]
        try:
            health = httpx.get(f"{url}/health", timeout=5, trust_env=False).json()
        except httpx.HTTPError:
            return None
        return time.time() - health["seconds_since_tick"] if health["tick_seconds"] else None

    # --- a HELLO -----------------------------------------------------------------------------

    def say_hello(self) -> None:
        """Say HELLO, and wait until its answer is there."""
        self._count += 1
        message_id, now = f"bench-{self._count}-{time.time_ns()}", datetime.now(UTC)
        header = Header(
            message_id=message_id,
            env=self.settings.env,
            server=SERVER,
            issued_at=now,
            expires_at=now + timedelta(minutes=10),
        )
        body = seal(EventMessage(header=header, body=Hello(inventory=INVENTORY)), SERVER, self._key)
        self._sqs.send_message(
            QueueUrl=self._events,
            MessageBody=body,
            MessageGroupId=SERVER,
            MessageDeduplicationId=message_id,
        )
        _wait("HELLO is answered", lambda: self._is_answered(message_id), every=0)

    def _is_answered(self, message_id: str) -> bool:
        answer = self._sqs.receive_message(QueueUrl=self._commands, WaitTimeSeconds=5)
        found = False
        for message in answer.get("Messages", ()):
            self._sqs.delete_message(
                QueueUrl=self._commands, ReceiptHandle=message["ReceiptHandle"]
            )
            payload = json.loads(json.loads(message["Body"])["payload"])
            found |= payload["header"]["correlation_id"] == message_id
        return found

    # --- lists -------------------------------------------------------------------------------

    def time_lists(self) -> list[Row]:
        """Time the lists of the API."""
        admin, engineer = (self._installation.client(name) for name in ("admin", "engineer"))
        first = admin.list_submissions(limit=LIMIT).value.next
        asked: dict[str, Callable[[], object]] = {
            "list of all": lambda: admin.list_submissions(limit=LIMIT),
            "its second page": lambda: admin.list_submissions(limit=LIMIT, cursor=first),
            "list of a status": lambda: admin.list_submissions(limit=LIMIT, status="error"),
            "list of one's own": lambda: engineer.list_submissions(limit=LIMIT),
            "one's own in a status": lambda: engineer.list_submissions(limit=LIMIT, status="error"),
            "queue": lambda: engineer._ask("GET", "/touchstone/api/v1/queue"),
        }
        return [self._time(name, LIST_CLAIM, self._api, ask) for name, ask in asked.items()]


def _read_cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _find_dispatcher(supervisor: psutil.Process) -> psutil.Process:
    return next(child for child in supervisor.children() if "dispatcher" in child.cmdline())


def _wait(what: str, ask: Callable[[], Any], *, every: float) -> Any:
    deadline = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < deadline:
        answer = ask()
        if answer:
            return answer
        time.sleep(every)
    raise RuntimeError(f"not within {LIMIT_SECONDS} s: {what}")


def show(empty: Sequence[Row], full: Sequence[Row]) -> bool:
    """Print both beside each other; return whether every claim holds."""
    print(
        f"{'seconds':34}{'empty':>8}{'full':>8}{'max':>8}{'ratio':>7}"
        f"{'CPU: store':>12}{'part':>7}   promised"
    )
    is_kept = True
    for before, after in zip(empty, full, strict=True):
        is_good = after.p50 < after.claim
        is_kept &= is_good
        print(
            f"{after.name:34}{before.p50:8.3f}{after.p50:8.3f}{max(after.seconds):8.3f}"
            f"{after.p50 / before.p50:7.2f}{after.store:12.3f}{after.part:7.3f}   "
            f"< {after.claim:g} {'holds' if is_good else 'DOES NOT HOLD'}"
        )
        print(f"{'  CPU without a past':65}{before.store:12.3f}{before.part:7.3f}")
    return is_kept


def main() -> int:
    """Measure, print, and say by the exit code whether what was promised holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--submissions", type=int, default=10_000)
    parser.add_argument("--tasks", type=int, default=5, help="of each submission, at most 5")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--lean", action="store_true", help="records of a few fields, soon written")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    end_on_sigterm()
    past = History(
        submissions=options.submissions,
        tasks=options.tasks,
        users=(*USERS[:-1], "engineer"),
        is_lean=options.lean,
    )
    with run_installation({"rio": 1}, runtime="process") as installation:
        yard = Yard(installation, options.rounds)
        empty = yard.measure()
        began = time.perf_counter()
        past.write(yard.dynamodb, yard.settings)
        print(
            f"{past.submissions} submissions and {past.submissions * past.tasks} tasks were "
            f"written in {time.perf_counter() - began:.0f} s",
            file=sys.stderr,
        )
        full = yard.measure()
    if options.json:
        rows = zip(empty, full, strict=True)
        document = [{"empty": asdict(before), "full": asdict(after)} for before, after in rows]
        print(json.dumps({"load": os.getloadavg()[0], "rows": document}))
        return 0
    is_kept = show(empty, full)
    print(f"load {os.getloadavg()[0]:.1f}")
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
