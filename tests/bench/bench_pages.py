"""
What pages and lists cost with a long past behind them, and what many open pages cost everybody.

An installation of our own is given the past of 1,000 submissions and measured, and then that of
10,000, ten tasks each: every page of the pages' routes in a real browser, up to its load event;
every list of the API over HTTP; and of both what they read from the stores, counted at the clients
of the same applications in this process. Events have a thousand entries at most, as many as judging
promises; how many events there are is the same in both.

Then 200 pages stay open: clients that ask as the pages' script does, each again when its pause is
over, with the tag of what it has. One half of them follows the log of a training, the other half a
submission whose trainings hand their slots over. Beside the same without them stand the time from a
container's exit to the next one's start, that from another DAG's run to its task's start, which is
some rounds of Airflow's scheduler, and the memory of the api-server.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

# Airflow writes its configuration on import; never into the home of whoever measures.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="touchstone-bench-airflow-"))

import boto3
import httpx
import psutil
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import get_user
from botocore.config import Config
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from playwright.sync_api import Page, sync_playwright

from bench.peers.engine import ContainerLog, build_image, find_hand_overs, find_percentile
from bench.peers.ours import end_on_sigterm, ignore_interrupts, run_installation
from bench.peers.patience import wait_within
from fakes.history import STATUSES, USERS, History, build_name
from fakes.pools import FakePools
from fakes.reads import Reads
from fakes.sending import FakeRuns, replace_airflow
from system.installation import EXAMPLES, Installation
from touchstone.core.names import build_console_key
from touchstone.core.records.tasks import Task
from touchstone.pages import app as pages
from touchstone.pages.tabs import get_find_named
from touchstone.settings import Settings
from touchstone.stores.meter import Meter
from touchstone.stores.money import Budgets
from touchstone.stores.objects import ObjectStore
from touchstone.stores.records import RecordStore
from touchstone.ui import app as api
from touchstone.ui import dependencies
from touchstone.ui.auth import TouchstoneAuthManager
from touchstone.ui.routes.fleet import get_pools
from touchstone.ui.waiting import QueueReader

PAGE_CLAIM, LIST_CLAIM = 1.0, 0.2
"""Seconds at the 95th percentile."""
FLAT_CLAIM, FLAT_SECONDS = 1.25, 0.01
"""A list is flat if its median is at most so much of that of the shorter past, or so much later."""
BESIDE_CLAIM = 1.2
"""Of what it is without open pages."""
MEMORY_CLAIM = 400.0
"""MB of the api-server, shared pages counted once."""
EVENT_SIZE: Final = 1_000
PODS: Final = "costs?month={month}"
SHORT: Final = 1_000
LIMIT = 50
SERVERS = {"rio": 2, "sea": 1}
"""On the first slots are handed over; on the other one a training is followed."""
SECONDS = 4
LONG = 7200
CHUNK_EVERY = 2.0
OTHER_DAGS = Path(__file__).parent / "peers" / "other"
MB = 1_000_000

PAGES: Mapping[str, Sequence[str]] = {
    "/": ("",),
    "/api": ("api",),
    "/audit": ("audit",),
    "/compare": ("compare?submission={one}&submission={two}",),
    "/costs": ("costs", PODS, f"{PODS}&by=submitter"),
    "/end": ("end?act=cancel&submission={one}&submission={two}",),
    "/events": ("events",),
    "/events/{name}": ("events/default",),
    "/fleet": ("fleet",),
    "/fleet/pause": ("fleet/pause",),
    "/fleet/servers/{name}": ("fleet/servers/rio",),
    "/new": ("new", "new?like={one}"),
    "/queue": ("queue",),
    "/run": ("run?dag=touchstone&run={one}",),
    "/schedule": ("schedule?submission={one}",),
    "/submissions": (
        "submissions",
        "submissions?status=error",
        "submissions?user={user}",
        "submissions?cursor={cursor}",
    ),
    "/submissions/{submission_id}": ("submissions/{one}",),
    "/submissions/{submission_id}/audit": ("submissions/{one}/audit",),
    "/submissions/{submission_id}/tasks/{task_id}/log": ("submissions/{one}/tasks/i1/log",),
    "/tasks": ("tasks", "tasks?status=success", "tasks?user={user}", "tasks?submission={one}"),
}
"""By route of the pages, the addresses that are opened; a route without some fails."""
FILES = re.compile(r"\.(?:csv|json)$")
"""Routes that are no pages, but files to keep."""

LISTS: Mapping[str, str] = {
    "submissions": "submissions?limit=50",
    "their second page": "submissions?limit=50&cursor={cursor}",
    "of a status": "submissions?limit=50&status=error",
    "of a user": "submissions?limit=50&user={user}",
    "of a user in a status": "submissions?limit=50&user={user}&status=success",
    "tasks": "tasks?limit=50",
    "tasks of a status": "tasks?limit=50&status=success",
    "tasks of a user": "tasks?user={user}",
    "tasks of a submission": "tasks?submission={one}",
    "tasks at work on a server": "tasks?server=rio",
    "a submission": "submissions/{one}",
    "its results": "submissions/{one}/results",
    "its audit": "submissions/{one}/audit",
    "a log": "submissions/{one}/tasks/i1/log",
    "queue": "queue",
    "events": "events",
    "a leaderboard": "events/default/leaderboard",
    "verdicts": "verdicts?submission={one}&submission={two}",
    "comparison": "comparison?submission={one}&submission={two}",
    "data sets": "data",
    "costs of a month": PODS,
    "the same by submitter": f"{PODS}&by=submitter",
    "audit": "audit?limit=50",
    "servers": "servers",
    "fleet": "fleet",
}
"""Lists of the API, and what is asked for as often."""


@dataclass(kw_only=True)
class Row:
    """
    One thing that was measured, with the short past and with the long one.

    :param kind: ``page`` or ``list``.
    :param short: Seconds, each measurement.
    :param long: The same.
    :param store: CPU seconds of MiniStack for one call, with the short past and with the long one.
        It looks through all of a part of an index for each page of it, which AWS does not: bounds
        are of what is left without it.
    :param reads: Requests and items of one call, with the short past and with the long one.
    """

    kind: str
    name: str
    short: list[float] = field(default_factory=list)
    long: list[float] = field(default_factory=list)
    store: list[float] = field(default_factory=list)
    reads: list[tuple[int, int]] = field(default_factory=list)

    @property
    def is_quick(self) -> bool:
        claim = PAGE_CLAIM if self.kind == "page" else LIST_CLAIM
        return find_percentile(self.long, 0.95) - self.store[-1] < claim

    @property
    def is_flat(self) -> bool:
        if self.kind == "page" or not self.short:
            return True
        before = statistics.median(self.short) - self.store[0]
        after = statistics.median(self.long) - self.store[-1]
        return after <= max(before * FLAT_CLAIM, before + FLAT_SECONDS)

    @property
    def reads_as_much(self) -> bool:
        return len(self.reads) < 2 or self.reads[1] <= self.reads[0]


class Yard:
    """
    An installation, and the past that it has been given.

    :param installation: It runs.
    :param past: All of the past, of which parts are written.
    """

    def __init__(self, installation: Installation, past: History, rounds: int) -> None:
        self.installation = installation
        self.settings: Settings = installation.settings
        self._past = past
        self._rounds = rounds
        self.dynamodb, self.s3 = (self._connect(name) for name in ("dynamodb", "s3"))
        self.api, self._store = (
            psutil.Process(int(installation.part(name)["pid"]))
            for name in ("airflow-api", "ministack")
        )

    def _connect(self, service: str) -> Any:
        stack = self.installation.stack
        return boto3.client(
            service,
            endpoint_url=stack["urls"]["ministack"],
            region_name=stack["region"],
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(
                read_timeout=600, parameter_validation=False, s3={"addressing_style": "path"}
            ),
        )

    def write(self, first: int, last: int) -> None:
        """Write a part of the past."""
        began = time.perf_counter()
        part = History(**{**asdict(self._past), "first": first, "last": last})
        part.write(self.dynamodb, self.settings)
        count, seconds = last - first, time.perf_counter() - began
        say(f"{count} submissions and {count * self._past.tasks} tasks in {seconds:.0f} s")

    @property
    def facts(self) -> dict[str, str]:
        """Return what addresses are made of: the newest that has succeeded, and so on."""
        newest = self._past.submissions - 1
        newest -= newest % len(STATUSES)
        found = self.installation.client("admin").list_submissions(limit=LIMIT)
        month = self._past.find_time(self._past.submissions).replace(day=1) - timedelta(days=1)
        return {
            "one": build_name(newest),
            "two": build_name(newest - len(STATUSES)),
            "user": self._past.users[newest % len(self._past.users)],
            "cursor": str(found.value.next),
            "month": f"{month:%Y-%m}",
        }

    def write_console(self) -> None:
        """Write the console of the task whose log is opened: 200 kB."""
        objects, name = ObjectStore(self.s3), self.facts["one"]
        task = Task.load(self.installation.task(name, "i1"))
        line = b"epoch 12 of 40: loss 0.6931, accuracy 0.5123, 4.1 s\n"
        chunk = line * (20_000 // len(line))
        for number in range(10):
            key = build_console_key(task.ref, number * len(chunk))
            objects.put_new(self.settings.logs_bucket, key, chunk)

    # --- pages, in a browser ------------------------------------------------------------------

    def time_pages(self) -> dict[str, tuple[list[float], float]]:
        """Open every page again and again, as an admin, who sees the most."""
        addresses = list_addresses(pages.build_app(), self.facts)
        with open_browser(self.installation) as page:
            root = f"{self.installation.stack['urls']['airflow']}/touchstone/pages"
            for address in addresses.values():
                time_page(page, f"{root}/{address}")  # whatever is first is slower
            return {
                name: self._time(self._rounds, partial(time_page, page, f"{root}/{address}"))
                for name, address in addresses.items()
            }

    def _time(self, rounds: int, ask: Callable[[], float]) -> tuple[list[float], float]:
        """Return what was measured, and the CPU seconds of the store for one of it."""
        before = read_cpu(self._store)
        spans = [ask() for _ in range(rounds)]
        return spans, (read_cpu(self._store) - before) / rounds

    # --- lists, over HTTP -----------------------------------------------------------------------

    def time_lists(self) -> dict[str, tuple[list[float], float]]:
        """Ask for every list again and again, as an admin."""
        facts, url = self.facts, self.installation.stack["urls"]["airflow"]
        headers = {"Authorization": f"Bearer {log_in(self.installation, 'admin')}"}
        found = {}
        with httpx.Client(
            base_url=f"{url}/touchstone/api/v1/", headers=headers, timeout=60, trust_env=False
        ) as client:
            for name, path in LISTS.items():
                address = path.format(**facts)
                client.get(address).raise_for_status()
                found[name] = self._time(4 * self._rounds, partial(time_get, client, address))
        return found

    # --- what they read -------------------------------------------------------------------------

    def count_reads(self) -> dict[tuple[str, str], tuple[int, int]]:
        """Return how many requests to the stores, and items of them, each page and list takes."""
        reads = Reads(self.dynamodb, self.s3)
        facts = self.facts
        asked = {
            ("page", name): (pages.build_app(), f"/{address}")
            for name, address in list_addresses(pages.build_app(), facts).items()
        } | {
            ("list", name): (api.build_app(), f"/api/v1/{path.format(**facts)}")
            for name, path in LISTS.items()
        }
        found = {}
        for key, (app, address) in asked.items():
            app.dependency_overrides |= self._build_overrides()
            before = reads.requests, reads.items
            answer = TestClient(app).get(address, follow_redirects=True)
            if answer.status_code != 200:
                raise AssertionError(f"{address}: {answer.status_code} {answer.text[:500]}")
            found[key] = (reads.requests - before[0], reads.items - before[1])
        return found

    def _build_overrides(self) -> dict[Any, Any]:
        """Return what an application of this process works with: the installation's own stores."""
        records, objects = RecordStore(self.dynamodb, self.settings), ObjectStore(self.s3)
        pools = FakePools()
        for name, slots in SERVERS.items():
            pools.create_pool(name, slots, "")
            pools.create_pool(f"{name}_validation", 1, "")
        return {
            get_user: lambda: SimpleAuthManagerUser(username="admin", role="admin"),
            dependencies.read_settings: lambda: self.settings,
            dependencies.get_records: lambda: records,
            dependencies.get_objects: lambda: objects,
            dependencies.get_meter: lambda: Meter(self.dynamodb, self.settings),
            dependencies.get_budgets: lambda: Budgets(self.dynamodb, self.settings),
            dependencies.get_queue_reader: lambda: QueueReader(objects, self.settings),
            dependencies.get_authority: TouchstoneAuthManager,
            get_pools: lambda: pools,
            get_find_named: lambda: lambda run_id: None,
            **replace_airflow(FakeRuns()),
        }

    # --- open pages -----------------------------------------------------------------------------

    def follow(self, count: int, tasks: int, times: int) -> dict[str, Any]:
        """Measure without open pages, and beside so many of them."""
        for server in SERVERS:
            self.installation.set_slots(server, SERVERS[server])
        self.time_other_dag()  # whatever is first is slower
        followed = self._submit((1,), LONG, "sea")
        wait_within(
            300,
            "a training runs whose log is followed",
            lambda: self.installation.task(followed, "i1").get("status") == "running",
        )
        with self._printing(followed):
            idle = self._measure_beside(tasks, times, None)
            say(f"the same beside {count} open pages")
            with Followers(self.installation) as followers:

                def open_pages(submission_id: str) -> None:
                    log = f"submissions/{followed}/tasks/i1/log"
                    for place in range(count):
                        followers.open(log if place % 2 else f"submissions/{submission_id}")

                beside = self._measure_beside(tasks, times, open_pages)
                beside["pages"] = followers.end()
        self.installation.run("cancel", followed, "--as", "admin")
        return {"idle": idle, "beside": beside}

    def _measure_beside(
        self, tasks: int, times: int, open_pages: Callable[[str], None] | None
    ) -> dict[str, Any]:
        prefix = ""

        def is_training(attributes: Mapping[str, str]) -> bool:
            name = attributes.get("name", "")
            return bool(prefix) and name.startswith(prefix) and "-validation-" not in name

        with (
            Memory(self.api) as memory,
            Memory(self._store) as store,
            ContainerLog(is_training) as log,
        ):
            intervals = tuple(range(1, tasks + 1))
            submission_id = self._submit(intervals, SECONDS, "rio")
            prefix = f"touchstone-{self.settings.env}-{submission_id}-"
            if open_pages is not None:
                open_pages(submission_id)
            others = [self.time_other_dag() for _ in range(times)]
            wait_within(
                120 + tasks * 30,
                "all trainings have started",
                lambda: sum(event.action == "start" for event in log.events) >= tasks,
            )
            gaps = find_hand_overs(log.events)
        self.installation.wait_for_submission(submission_id, "success")
        return {
            "hand_over": gaps,
            "other": others,
            "rss": memory.rss / MB,
            "pss": memory.pss / MB,
            "cpu": memory.cpu,
            "store_cpu": store.cpu,
            "load": os.getloadavg()[0],
        }

    def _submit(self, intervals: Sequence[int], seconds: int, server: str) -> str:
        done = self.installation.run(
            *("submit", str(EXAMPLES / "momentum"), "--json"),
            *("--intervals", ",".join(map(str, intervals))),
            *("--needs", f"allowed_hosts={server}", "--", f"seconds={seconds}"),
        )
        if done.returncode:
            raise RuntimeError(f"not submitted: {done.stdout}{done.stderr}")
        return str(json.loads(done.stdout)["submission_id"])

    def time_other_dag(self) -> float:
        """Return the seconds until the task of another DAG's new run begins."""
        airflow, began = self.installation.airflow, datetime.now(UTC)
        made = airflow.post("/dags/other/dagRuns", json={"logical_date": None}).raise_for_status()
        path = f"/dags/other/dagRuns/{made.json()['dag_run_id']}/taskInstances/probe"

        def find() -> str | None:
            found: str | None = airflow.get(path).raise_for_status().json()["start_date"]
            return found

        started = wait_within(120, "a run of another DAG begins", find, every=0.2)
        return (datetime.fromisoformat(str(started)) - began).total_seconds()

    @contextmanager
    def _printing(self, submission_id: str) -> Iterator[None]:
        """Let the training that is followed print, as its agent would bring it."""
        objects, over = ObjectStore(self.s3), threading.Event()
        ref = Task.load(self.installation.task(submission_id, "i1")).ref

        def write() -> None:
            offset = 10_000  # behind what it has printed itself
            while not over.wait(CHUNK_EVERY):
                chunk = f"{datetime.now(UTC):%H:%M:%S} loss 0.69 accuracy 0.51\n".encode() * 20
                key = build_console_key(ref, offset)
                objects.put_new(self.settings.logs_bucket, key, chunk)
                offset += len(chunk)

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def list_addresses(app: FastAPI, facts: Mapping[str, str]) -> dict[str, str]:
    """
    Return the addresses of all pages, by name.

    :raises AssertionError: If the pages have a route that nobody has said how to open.
    """
    routes = {
        route.path
        for route in app.routes
        if isinstance(route, APIRoute) and "GET" in route.methods and not FILES.search(route.path)
    }
    if routes != PAGES.keys():
        raise AssertionError(f"say in PAGES how to open {sorted(routes ^ PAGES.keys())}")
    return {
        name.replace("{", "").replace("}", "") or "/": name.format(**facts)
        for names in PAGES.values()
        for name in names
    }


# --- a browser ------------------------------------------------------------------------------------


@contextmanager
def open_browser(installation: Installation) -> Iterator[Page]:
    """Open a browser in which an admin has logged in, until the block ends."""
    executable = shutil.which("chromium")
    if executable is None:
        raise RuntimeError("needs chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        # Root has no sandbox; what it opens is ours.
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        try:
            page = browser.new_page()
            page.set_default_timeout(120_000)
            page.goto(f"{installation.stack['urls']['airflow']}/auth/login")
            page.locator("input[name=username]").fill("admin")
            page.locator("input[name=password]").fill(installation.passwords["admin"])
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url(lambda url: "/login" not in url)
            yield page
        finally:
            browser.close()


def time_page(page: Page, address: str) -> float:
    """Return the seconds from the navigation to a page's load event."""
    answer = page.goto(address, wait_until="load")
    if answer is None or answer.status != 200:
        raise AssertionError(f"{address}: {answer and answer.status}")
    took = page.evaluate(
        "() => new Promise(done => setTimeout(() => "
        "done(performance.getEntriesByType('navigation')[0].loadEventEnd)))"
    )
    return float(took) / 1000


# --- over HTTP ------------------------------------------------------------------------------------


def log_in(installation: Installation, user: str) -> str:
    """Return a token of a user."""
    url = installation.stack["urls"]["airflow"]
    login = {"username": user, "password": installation.passwords[user]}
    answer = httpx.post(f"{url}/auth/token", json=login, timeout=60, trust_env=False)
    return str(answer.raise_for_status().json()["access_token"])


def read_cpu(process: psutil.Process) -> float:
    """Return the CPU seconds of a process."""
    return float(sum(process.cpu_times()[:2]))


def time_get(client: httpx.Client, address: str) -> float:
    """Return the seconds until an answer is there."""
    began = time.perf_counter()
    client.get(address).raise_for_status()
    return time.perf_counter() - began


class Followers:
    """
    Open pages, in a process of their own.

    :param installation: Where.
    """

    def __init__(self, installation: Installation) -> None:
        url = f"{installation.stack['urls']['airflow']}/touchstone/pages/"
        tokens = [log_in(installation, user) for user in ("admin", "engineer")]
        program = Path(__file__).parent / "peers" / "followers.py"
        self._process = subprocess.Popen(
            [sys.executable, str(program), url, *tokens],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Followers:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def open(self, path: str) -> None:
        """Open a page."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, Any]:
        """Close all pages; return how many answers there were, and what they and the pages took."""
        found: dict[str, Any] = json.loads(self._process.communicate(timeout=60)[0])
        return found


class Memory:
    """
    The most memory that a process, and those below it, take while this looks; and their CPU.

    :param process: The process.
    """

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._over = threading.Event()
        self.rss = self.pss = 0.0
        self.cpu = 0.0
        """Share of one CPU."""

    def __enter__(self) -> Memory:
        self._began, self._before = time.monotonic(), self._count_cpu()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        spent, passed = self._count_cpu() - self._before, time.monotonic() - self._began
        self.cpu = spent / passed

    def _list(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]

    def _count_cpu(self) -> float:
        return float(sum(sum(each.cpu_times()[:2]) for each in self._list()))

    def _look(self) -> None:
        while not self._over.wait(2):
            with suppress(psutil.NoSuchProcess):
                found = [each.memory_full_info() for each in self._list()]
                self.rss = max(self.rss, float(sum(each.rss for each in found)))
                self.pss = max(self.pss, float(sum(each.pss for each in found)))


# --- all of it ------------------------------------------------------------------------------------


def say(what: str) -> None:
    """Say on standard error how far it is."""
    print(f"{datetime.now(UTC):%H:%M:%S} {what}", file=sys.stderr)


def measure_past(yard: Yard, sizes: Sequence[int], parts: Sequence[str]) -> list[Row]:
    """Measure pages, lists and their reads with each part of the past."""
    rows: dict[tuple[str, str], Row] = {}
    written = sizes[-1]
    for size in sizes:
        yard.write(sizes[-1] - size, written)
        written = sizes[-1] - size
        if size == sizes[0]:
            yard.write_console()
        timed: dict[tuple[str, str], tuple[list[float], float]] = {}
        if "pages" in parts:
            timed |= {("page", name): each for name, each in yard.time_pages().items()}
        if "lists" in parts:
            timed |= {("list", name): each for name, each in yard.time_lists().items()}
        for key, (spans, store) in timed.items():
            row = rows.setdefault(key, Row(kind=key[0], name=key[1]))
            (row.long if size == sizes[-1] else row.short).extend(spans)
            row.store.append(store)
        if "reads" in parts:
            for key, found in yard.count_reads().items():
                rows.setdefault(key, Row(kind=key[0], name=key[1])).reads.append(found)
        say(f"measured with {size} submissions, load {os.getloadavg()[0]:.1f}")
    return list(rows.values())


def show_rows(rows: Sequence[Row]) -> bool:
    """Print what the past costs; return whether every claim holds."""
    print(
        f"{'milliseconds':40}{'short':>7}{'p50':>7}{'p95':>7}{'CPU: store':>12}"
        f"{'requests':>10}{'items':>13}   promised"
    )
    is_kept = True
    for row in rows:
        spans = row.long or [0.0]
        short = statistics.median(row.short) if row.short else 0.0
        requests = ", ".join(str(each[0]) for each in row.reads)
        items = ", ".join(str(each[1]) for each in row.reads)
        broken = [
            claim
            for claim, is_good in (
                ("slow", not row.long or row.is_quick),
                ("not flat", not row.long or row.is_flat),
                ("reads more", row.reads_as_much),
            )
            if not is_good
        ]
        is_kept &= not broken
        claim = PAGE_CLAIM if row.kind == "page" else LIST_CLAIM
        print(
            f"{row.kind + ' ' + row.name[:34]:40}{1000 * short:7.0f}"
            f"{1000 * statistics.median(spans):7.0f}{1000 * find_percentile(spans, 0.95):7.0f}"
            f"{', '.join(f'{1000 * each:.0f}' for each in row.store):>12}"
            f"{requests:>10}{items:>13}   < {1000 * claim:.0f} "
            f"{'DOES NOT HOLD: ' + ', '.join(broken) if broken else 'holds'}"
        )
    return is_kept


def show_beside(found: Mapping[str, Any]) -> bool:
    """Print what open pages cost; return whether every claim holds."""
    idle, beside = found["idle"], found["beside"]
    told = beside["pages"]
    print(
        f"{told['open']} open pages: {told['answers']} answers {told['statuses']}, "
        f"p50 {1000 * told['p50']:.0f} ms, p95 {1000 * told['p95']:.0f} ms"
    )
    print(f"{'':44}{'idle':>8}{'beside':>8}{'ratio':>8}   promised")
    is_kept = True
    for name, title, share in (
        ("hand_over", "exit to next start, s, p50", 0.5),
        ("hand_over", "exit to next start, s, p90", 0.9),
        ("other", "another DAG's run to its task's start, s", 0.5),
    ):
        before, after = (find_percentile(each[name], share) for each in (idle, beside))
        is_good = after <= before * BESIDE_CLAIM
        is_kept &= is_good
        print(
            f"{title:44}{before:8.2f}{after:8.2f}{after / before:8.2f}"
            f"   <= {BESIDE_CLAIM:g} {'holds' if is_good else 'DOES NOT HOLD'}"
        )
    is_small = beside["pss"] < MEMORY_CLAIM
    is_kept &= is_small
    print(
        f"{'api-server, PSS, MB':44}{idle['pss']:8.0f}{beside['pss']:8.0f}{'':8}"
        f"   < {MEMORY_CLAIM:.0f} {'holds' if is_small else 'DOES NOT HOLD'}"
    )
    print(f"{'api-server, RSS, MB':44}{idle['rss']:8.0f}{beside['rss']:8.0f}")
    print(f"{'api-server, CPU, % of a core':44}{100 * idle['cpu']:8.0f}{100 * beside['cpu']:8.0f}")
    print(f"{'the store':44}{100 * idle['store_cpu']:8.0f}{100 * beside['store_cpu']:8.0f}")
    print(f"{'the clients themselves':44}{0:8.0f}{100 * told['cpu']:8.0f}")
    print(f"{'load':44}{idle['load']:8.1f}{beside['load']:8.1f}")
    return is_kept


def main() -> int:
    """Measure, print, and say by the exit code whether what was promised holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--submissions", type=int, default=10_000)
    parser.add_argument("--tasks", type=int, default=10, help="of each submission, at most 10")
    parser.add_argument("--rounds", type=int, default=10, help="of each page; of lists four times")
    parser.add_argument("--followers", type=int, default=200, help="open pages")
    parser.add_argument("--trainings", type=int, default=24, help="that hand their slots over")
    parser.add_argument("--times", type=int, default=5, help="runs of another DAG")
    parser.add_argument("--only", default="pages,lists,reads,followers")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    end_on_sigterm()
    parts, sizes = given.only.split(","), sorted({SHORT, given.submissions})
    # An hour apart, so that the shorter past, too, has all of last month.
    this_month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    past = History(
        submissions=sizes[-1],
        tasks=given.tasks,
        # So few that each has more than a page, of the shorter past as well.
        users=USERS[:5],
        minutes=60,
        began=this_month - timedelta(hours=sizes[-1]),
        event_size=EVENT_SIZE,
    )
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        build_image(Path(folder))
    with run_installation(SERVERS, other_dags=OTHER_DAGS) as installation:
        wait_within(
            120,
            "the other DAG is there",
            lambda: installation.airflow.get("/dags/other").status_code == 200,
        )
        yard = Yard(installation, past, given.rounds)
        rows = measure_past(yard, sizes, parts)
        if "followers" in parts:
            found = yard.follow(given.followers, given.trainings, given.times)
    if given.json:
        document = {"rows": [asdict(row) for row in rows], "followers": found}
        print(json.dumps({**document, "load": os.getloadavg()[0]}))
        return 0
    is_kept = show_rows(rows) if rows else True
    if found:
        is_kept &= show_beside(found)
    print(f"load {os.getloadavg()[0]:.1f}")
    return 0 if is_kept else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        with ignore_interrupts():
            sys.exit(130)
    finally:
        home = Path(os.environ["AIRFLOW_HOME"])
        if home.name.startswith("touchstone-bench-airflow-"):
            shutil.rmtree(home, ignore_errors=True)
