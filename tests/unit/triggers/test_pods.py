"""What drives a pod ends with a reason, whatever the pod says and whatever is refused for good."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace

import pytest

from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.tasks import change_fields, with_fields
from touchstone.core import attempts
from touchstone.core.pods import SshAddress
from touchstone.core.retries import WaitEnd, find_end
from touchstone.core.schedule import Platform
from touchstone.core.tasks import TaskSpec
from touchstone.hooks.runpod.errors import PodNotFound
from touchstone.services.pods.context import PodContext, TaskRef
from touchstone.services.pods.shell import PodShell, _Done
from touchstone.settings import RunPodSettings, Settings
from touchstone.stores.tables import RecordUnfit
from touchstone.triggers.pods import driver, monitoring
from touchstone.triggers.pods.connecting import ConnectedPod
from touchstone.triggers.pods.driver import PodDriver
from touchstone.triggers.pods.monitoring import (
    CONSOLE_SLACK_BYTES,
    MAX_SENSELESS,
    PREPARE_SECONDS,
    UPLOAD_SECONDS,
    WALL_SLACK_SECONDS,
)
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.messages import Limits
from touchstone_agent.protocol.pods import PodPoll, PodUpload

KEY = TaskRef(submission_id="s-1", task_id="i5")
LIMITS = Limits(wall_seconds=7200, console_bytes=4096, output_bytes=1024**2)
LIFE = LIMITS.wall_seconds + UPLOAD_SECONDS
BEGAN = datetime(2026, 11, 22, 12, tzinfo=UTC)
BODIES = {"result.json": b"{}", "models/long.h5": b"long"}
FILES = [
    {"path": path, "sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}
    for path, body in BODIES.items()
]
VERDICT = {"contract": 1, "exit_code": 0, "outcome": "succeeded", "class": "ok", "files": FILES}
EXITED = {"phase": "exited", "exit_code": 0, "verdict": VERDICT, "files": FILES}


class Pod(PodShell):
    """
    A pod that answers what a test wants, read as the real one is.

    :param answer: Returns what a poll or an upload is answered, by its verb and message.
    """

    def __init__(self, world, answer):
        self._world = world
        self._answer = answer
        self.asked = []

    async def _run(self, command, given, limit):
        verb = command.split()[-1]
        kind = {"poll": PodPoll, "upload": PodUpload}.get(verb)
        message = kind.model_validate_json(given) if kind else None
        self.asked.append((self._world.now, verb, message))
        if len(self.asked) > 5000:
            raise AssertionError("it asks for ever")
        told = self._answer(verb, message)
        if isinstance(told, int):
            return _Done(exit_status=told, exit_signal=None, output=b"", problem="no")
        if isinstance(told, dict):
            ref = {"submission_id": "s-1", "task_id": "i5", "attempt": 1, "fence": 1}
            told = json.dumps({"boot_id": "b", "ref": ref} | told if verb != "upload" else told)
        return _Done(exit_status=0, exit_signal=None, output=told.encode(), problem="")

    async def close(self):
        pass

    @property
    def polls(self):
        return [(at, message) for at, verb, message in self.asked if verb == "poll"]


class World:
    """One rented pod, on a clock that passes only while somebody waits."""

    def __init__(self, answer):
        self.now = BEGAN
        self.slept = []
        self.given_back = []
        self.objects = FakeObjectStore(lambda: self.now)
        self.records = FakeRecordStore()
        self.pod = Pod(self, answer)
        self.records.create_task(self._build_record())
        settings = Settings(runpod=RunPodSettings(conn_id="r", lease_seconds=900, poll_seconds=2))
        self.context = PodContext(
            api=SimpleNamespace(terminate_pod=self._terminate, get_pod=self._get_pod),
            lister=None,
            records=self.records,
            objects=self.objects,
            ledger=SimpleNamespace(close=lambda *_, **__: (10, Decimal("0.01"))),
            settings=settings,
            secret=b"0" * 32,
            api_url="",
            now=lambda: self.now,
            sleep=self.sleep,
        )

    def _build_record(self):
        spec = TaskSpec(
            submission_id="s-1",
            task_id="i5",
            kind="training",
            system="feature_set",
            image="trainer",
            content_sha256="0" * 64,
            content_size=1,
            limits=LIMITS,
            interval=5,
            platform="runpod",
        )
        record = attempts.new_task(spec, run_id="s-1", map_index=0, now=self.now)
        record = attempts.claim_attempt(
            record,
            attempt=1,
            server="runpod",
            container_of=lambda ref: ref.container_name("dev"),
            now=self.now,
            platform=Platform.RUNPOD,
        )
        pod = {
            "name": record.newest.container,
            "id": "p1",
            "gpu": "L4",
            "ordered_at": self.now.isoformat(),
            "price_per_hour": "0.5",
            "life_seconds": LIFE,
        }
        return with_fields(record, status="preparing", phase="accepted", pod=pod)

    async def sleep(self, seconds):
        assert 0 < seconds <= 300
        self.slept.append(seconds)
        self.now += timedelta(seconds=seconds)
        await asyncio.sleep(0)

    async def _terminate(self, pod_id):
        self.given_back.append(pod_id)

    async def _get_pod(self, pod_id):
        raise PodNotFound(pod_id)

    @property
    def record(self):
        return self.records.get_task("s-1", "i5")

    async def drive(self):
        """Drive the attempt to its end; return its record."""
        await PodDriver(self.context, KEY, 1).run()
        return self.record


class FakeConnector:
    """Is in at once, every time."""

    is_stopping = False
    world: World

    def __init__(self, *_):
        self.logins = 0

    async def connect(self):
        address = SshAddress(host="h", port=22, username="root")
        return ConnectedPod(shell=self.world.pod, address=address)

    async def log_in(self, *, seconds):
        self.logins += 1
        return await self.connect()

    async def pause(self, seconds):
        if seconds:
            await self.world.sleep(seconds)


@pytest.fixture
def make_world(monkeypatch):
    def make(answer):
        world = World(answer)
        FakeConnector.world = world
        monkeypatch.setattr(driver, "PodConnector", FakeConnector)
        clock = SimpleNamespace(monotonic=lambda: (world.now - BEGAN).total_seconds())
        monkeypatch.setattr(monitoring, "time", clock)
        return world

    return make


def exits(**changes):
    """A pod whose training has ended, and that stores whatever it is told to."""

    def answer(verb, message):
        if verb == "upload":
            return {"uploaded": list(message.grants)}
        return EXITED | changes

    return answer


def assert_ended(world, record, failure_class, words):
    assert (record.newest.outcome, record.newest.failure_class) == (
        "failed(infrastructure)",
        failure_class,
    )
    assert words in record.newest.reason
    assert record.newest.pod.gone_at, "the pod is given back"
    assert world.given_back
    assert find_end(record, fence=1, run_id="s-1") is WaitEnd.RETRY, "its slot is free"
    for at, poll in world.pod.polls:
        assert at + timedelta(seconds=poll.lease_seconds) <= BEGAN + timedelta(seconds=LIFE)


async def test_what_a_pod_has_made_is_stored_and_on_record(make_world):
    world = make_world(exits())

    record = await world.drive()

    assert (record.status, record.newest.outcome) == ("uploading", "succeeded")
    assert [file.dump() for file in record.newest.files] == FILES
    assert record.newest.uploaded_at
    assert record.newest.pod.gone_at


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"verdict": VERDICT | {"x": 10**50 + 1}}, "an integer of 51 characters"),
        ({"verdict": VERDICT | {"reason": "\ud800"}}, "UTF-8"),
        ({"verdict": VERDICT | {"usage": {"cpu_seconds": 1e-200}}}, "usage.cpu_seconds"),
        ({"exit_code": 10**9}, "exit_code"),
        ({"files": [{**FILES[0], "path": "/etc/cron.d/x"}]}, "files.0.path"),
        ({"files": [{**FILES[0], "path": "../../x"}]}, "files.0.path"),
        ({"files": [FILES[0], FILES[0]]}, "twice"),
        ({"files": [{**FILES[0], "size": 10**15}]}, "files.0.size"),
        ({"files": FILES * 500}, "more than 500"),
        ({"running_at": "2026-11-22T12:00:00"}, "running_at"),
        ({"progress": json.loads("[" * 40 + "]" * 40)}, "nested"),
    ],
    ids=[
        "digits",
        "surrogate",
        "tiny",
        "code",
        "absolute",
        "up",
        "twice",
        "size",
        "many",
        "naive",
        "deep",
    ],
)
async def test_an_end_that_makes_no_sense_ends_the_attempt_and_gives_the_pod_back(
    make_world, changes, words
):
    """Each retry of what no record can hold renewed the pod's lease, for ever."""
    world = make_world(exits(**changes))

    record = await world.drive()

    assert_ended(world, record, "pod", words)
    assert len(world.pod.polls) == MAX_SENSELESS
    assert record.newest.files == ()
    assert not [verb for _, verb, _ in world.pod.asked if verb == "upload"], "nothing is granted"


async def test_files_larger_than_the_attempt_may_leave_end_it(make_world):
    large = {**FILES[0], "size": LIMITS.output_bytes + LIMITS.console_bytes + 1}
    world = make_world(exits(files=[large]))

    record = await world.drive()

    assert_ended(world, record, "failed(infrastructure)", "runpod reported an end that makes no")
    assert not [verb for _, verb, _ in world.pod.asked if verb == "upload"]


async def test_what_no_record_can_hold_ends_the_attempt(make_world, monkeypatch):
    world = make_world(exits())
    change_task = world.records.change_task

    def refuse_exit(submission_id, task_id, decide):
        def decided(record):
            changed = decide(record)
            if changed and changed.newest.exited_at:
                raise RecordUnfit("a record of 500000 bytes is too large")
            return changed

        return change_task(submission_id, task_id, decided)

    monkeypatch.setattr(world.records, "change_task", refuse_exit)

    record = await world.drive()

    assert_ended(world, record, "pod", "cannot be kept: a record of 500000 bytes is too large")
    assert len(world.pod.polls) == 1, "no look renews its lease once it is to end"


async def test_a_store_that_refuses_for_good_ends_the_attempt(make_world, monkeypatch):
    world = make_world(exits())

    def refuse(*_, **__):
        raise PermanentError("signing: AccessDenied")

    monkeypatch.setattr(world.objects, "grant_put", refuse)

    assert_ended(world, await world.drive(), "pod", "signing: AccessDenied")


async def test_an_answer_that_makes_no_sense_once_is_asked_for_again(make_world):
    odd = iter(["welcome", "[]"])
    good = exits()
    world = make_world(lambda verb, message: next(odd, None) or good(verb, message))

    assert (await world.drive()).newest.outcome == "succeeded"


async def test_a_pod_that_lets_us_in_and_answers_nothing_is_given_up_after_its_lease(make_world):
    world = make_world(lambda *_: 75)

    record = await world.drive()

    assert_ended(world, record, "login", "has answered nothing for 900 s")
    assert world.now - BEGAN < timedelta(seconds=1000)


async def test_a_pod_that_refuses_what_it_is_asked_is_given_back_at_once(make_world):
    world = make_world(lambda *_: 2)

    assert_ended(world, await world.drive(), "pod", "touchstone-pod poll: no")
    assert len(world.pod.polls) == 1


async def test_a_training_that_is_said_to_run_for_ever_ends(make_world):
    world = make_world(
        lambda *_: {"phase": "running", "running_at": BEGAN.isoformat(), "progress": {}}
    )

    record = await world.drive()

    assert_ended(world, record, "pod", "says that it is running after")
    latest = PREPARE_SECONDS + LIMITS.wall_seconds + WALL_SLACK_SECONDS + 60
    assert world.now - BEGAN < timedelta(seconds=latest)


async def test_inputs_that_never_arrive_end_the_attempt(make_world):
    world = make_world(lambda *_: {"phase": "preparing", "wants_grants": ["content"]})

    record = await world.drive()

    assert_ended(world, record, "pod", "says that it is preparing after")
    assert world.now - BEGAN < timedelta(seconds=PREPARE_SECONDS + 60)


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"expired": [file["path"] for file in FILES]},
        {"uploaded": ["other"], "failed": {"x": "y"}},
    ],
    ids=["later", "expired", "others"],
)
async def test_files_that_are_never_stored_are_waited_for_less_and_less_and_not_for_ever(
    make_world, report
):
    good = exits()
    world = make_world(lambda verb, message: report if verb == "upload" else good(verb, message))

    record = await world.drive()

    assert_ended(world, record, "life", "has not come to an end in the time")
    assert world.now - BEGAN < timedelta(seconds=UPLOAD_SECONDS + 120)
    assert len(world.pod.asked) < 100


@pytest.mark.parametrize("years", [-20, 20])
async def test_a_pod_whose_clock_is_years_wrong_has_all_its_time(make_world, years):
    """Its times are told to people; what it may take is measured by our own clock."""
    told = (BEGAN + timedelta(days=365 * years)).isoformat()
    good = exits(running_at=told, exited_at=told)
    running = {"phase": "running", "running_at": told}

    def answer(verb, message):
        lasted = (world.now - BEGAN).total_seconds()
        return running if verb == "poll" and lasted < LIMITS.wall_seconds else good(verb, message)

    world = make_world(answer)

    assert (await world.drive()).newest.outcome == "succeeded"


async def test_no_lease_reaches_beyond_the_end_of_the_pods_life(make_world):
    """A pod that trained until its limit was kept on by each look, for as long as we looked."""
    world = make_world(lambda *_: {"phase": "running"})
    pod = world.record.newest.pod.dump() | {"login_at": BEGAN.isoformat(), "boot_id": "b"}
    world.now += timedelta(seconds=2000)
    late = {"pod": pod, "preparing_at": world.now.isoformat()}
    change_fields(world.records, "s-1", "i5", **late)

    record = await world.drive()

    assert_ended(world, record, "life", "has not come to an end in the time")
    *_, (at, last) = world.pod.polls
    assert last.lease_seconds < 900
    assert at + timedelta(seconds=last.lease_seconds) <= BEGAN + timedelta(seconds=LIFE)


async def test_a_console_without_end_is_stored_up_to_its_limit(make_world):
    sent = 0

    def answer(verb, message):
        nonlocal sent
        if verb == "upload":
            return {"uploaded": list(message.grants)}
        piece = base64.b64encode(b"x" * min(300_000, message.console_bytes + 1000)).decode()
        sent += 1
        return EXITED | {"console": piece, "console_size": 2**50}

    world = make_world(answer)

    record = await world.drive()

    assert record.newest.outcome == "succeeded"
    stored = world.objects.list(world.context.settings.logs_bucket, "")
    assert sum(item.size for item in stored) == LIMITS.console_bytes + CONSOLE_SLACK_BYTES
    assert sent < 10


@pytest.mark.parametrize("failures", [1025, 1100])
async def test_a_store_that_fails_a_thousand_times_is_asked_again(
    make_world, monkeypatch, failures
):
    """The pause before the 1,025th try was no number, and ended the driver."""
    world = make_world(exits())
    left = iter(range(failures))
    get_task = world.records.get_task

    def get(*key):
        if next(left, None) is not None:
            raise TransientError("the store is away", retry_after=1e9 if failures == 1100 else None)
        return get_task(*key)

    monkeypatch.setattr(world.records, "get_task", get)

    assert (await world.drive()).newest.outcome == "succeeded"
    assert len(world.slept) > failures
    assert len(set(world.slept[:50])) > 10 or failures == 1100, "chance keeps drivers apart"


async def test_an_order_that_is_refused_for_good_ends_the_attempt(make_world, monkeypatch):
    world = make_world(exits())
    change_fields(world.records, "s-1", "i5", pod=None)

    async def refuse(_):
        raise PermanentError("booking: AccessDenied")

    monkeypatch.setattr(PodDriver, "_rent", lambda *_: refuse(None))

    record = await world.drive()

    assert (record.newest.outcome, record.newest.failure_class) == (
        "failed(infrastructure)",
        "order",
    )
    assert "booking: AccessDenied" in record.newest.reason


async def test_a_defect_while_nothing_is_rented_ends_the_attempt(make_world, monkeypatch):
    world = make_world(exits())
    change_fields(world.records, "s-1", "i5", pod=None)

    async def fail():
        raise ZeroDivisionError

    monkeypatch.setattr(PodDriver, "_rent", lambda *_: fail())

    record = await world.drive()

    assert (record.newest.outcome, record.newest.failure_class) == (
        "failed(infrastructure)",
        "defect",
    )


async def test_a_record_that_somebody_has_deleted_is_not_asked_for_again(make_world):
    world = make_world(exits())
    world.records._tables.clear()

    await PodDriver(world.context, KEY, 1).run()

    assert world.slept == []
