"""A server joins, goes on as it is, and leaves without a trace: over a real sshd."""

from __future__ import annotations

import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.integration.enrolling.conftest import (
    FAST_CLOCK,
    OLD_PYTHON,
    Plane,
    Server,
    change_bundle,
    connect,
    find_container,
    make_key,
)

from fakes.control_plane import ControlPlane
from fakes.images import RUNNER_IMAGE
from fakes.servers import store_server
from fakes.wire import Wire
from touchstone.core.attempts import claim_attempt, new_task
from touchstone.core.conf import System
from touchstone.core.enrolment import (
    STATE_DIR,
    EnrolmentRequest,
    describe_server,
    was_heard,
)
from touchstone.core.records.servers import EnrolmentState
from touchstone.core.records.tasks import Task
from touchstone.core.tasks import build_validation_spec
from touchstone.enrolling import service
from touchstone.enrolling.service import Enrolling, Step
from touchstone.hooks.agent import AgentHook
from touchstone.hooks.servers import CannotLogIn
from touchstone.operators import enrolling
from touchstone.stores.consoles import iterate_chunks
from touchstone.stores.objects import ObjectStore
from touchstone_agent.protocol.errors import (
    ConfigurationError,
    PermanentError,
    TouchstoneError,
    TransientError,
)
from touchstone_agent.protocol.messages import AttemptRef, Limits
from waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.docker, pytest.mark.xdist_group("enrolment")]


def test_a_server_joins_stays_as_it_is_and_leaves_nothing_behind(
    plane: Plane, make_server, requested
) -> None:
    server = make_server()
    # As on many a machine: what root makes nobody else may read, and its shell greets it.
    server.write("/root/.bashrc", "umask 077\necho Welcome >&2\n")
    enrolling = plane.enrolling()

    joined = enrolling.enroll(requested(server))

    record = plane.records.find_server(server.name)
    assert joined.is_changed
    assert record.state is EnrolmentState.ENROLLED
    assert describe_server(plane.find_entry(server.name))["version"] == "0.1.0"
    assert f"{plane.bundle.version}" == record.inventory.agent_version
    assert {server.name: 1, f"{server.name}_validation": 1}.items() <= plane.pools.slots().items()
    assert server.run("stat", "-c", "%a %U", "/etc/touchstone-agent/server.key") == (
        "600 touchstone-agent"
    )
    assert server.run("id", "-Gn", "touchstone-agent").split() == [
        "touchstone-agent",
        "touchstone-engine",
    ]
    assert not server.run("sh", "-c", "ls -d /var/tmp/touchstone-* 2>/dev/null || :")
    (user,) = [u for u in plane.iam.list_users()["Users"] if u["UserName"] == f"ts-{server.name}"]
    policies = plane.iam.list_user_policies(UserName=user["UserName"])["PolicyNames"]
    assert policies == ["touchstone-agent"]

    # Repeated: no change.
    key, epoch = record.public_key, record.epoch
    again = plane.enrolling().enroll(requested(server))
    record = plane.records.find_server(server.name)
    assert not again.is_changed
    assert (record.public_key, record.epoch) == (key, epoch)

    plane.enrolling().remove(server.name)

    assert server.list_traces() == []
    assert plane.list_traces(server.name) == []


# --- what is wrong with a server ------------------------------------------------------------------


@pytest.mark.campaign(sample=8)
@pytest.mark.parametrize(
    ("extra", "kind", "words"),
    [
        ({"host_key": make_key()[1]}, CannotLogIn, "host key: "),
        ({"host_key": None}, ConfigurationError, "has no host_key: put the server's there"),
        ({"private_key": make_key()[0]}, CannotLogIn, "authorized_keys"),
        (
            {"no_host_key_check": True, "host_key": None},
            ConfigurationError,
            "does not check the host key",
        ),
        ({"allow_host_key_change": True}, ConfigurationError, "does not check the host key"),
        ({"private_key": "none"}, ConfigurationError, "connection 'ssh_box"),
    ],
    ids=["other-host-key", "no-host-key", "other-key", "no-check", "any-host", "no-key"],
)
def test_a_connection_that_is_wrong_is_told(
    make_server, refuse, monkeypatch, extra: dict, kind: type[TouchstoneError], words: str
) -> None:
    server = make_server()
    connect(monkeypatch, server, extra=extra)
    assert words in refuse(server, kind)


@pytest.mark.campaign(sample=8)
def test_a_user_without_rights_is_told(make_server, refuse, monkeypatch) -> None:
    server = make_server()
    server.run("useradd", "--create-home", "--password", "*", "ann")
    server.run("cp", "-r", "/root/.ssh", "/home/ann/.ssh")
    server.run("chown", "-R", "ann", "/home/ann/.ssh")
    connect(monkeypatch, server, login="ann")
    assert refuse(server, PermanentError).startswith(
        "rights: the connection's user is not root, and there is no sudo: "
    )


@pytest.mark.campaign(sample=8)
@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda s: s.run("mv", "/usr/bin/python3", "/usr/bin/none"), "Python: there is no python3"),
        (
            lambda s: s.write("/etc/python3.11/sitecustomize.py", OLD_PYTHON),
            "Python: python3 is 3.9.2: install Python 3.11 or 3.12",
        ),
        (
            lambda s: s.write("/etc/python3.11/sitecustomize.py", FAST_CLOCK),
            "s ahead of the control plane's",
        ),
        (lambda s: s.run("rm", "/usr/lib/openssh/sftp-server"), "SFTP: the server takes no files"),
        (lambda s: s.write("/root/.bashrc", "echo Welcome\n"), "(~/.bashrc)"),
    ],
    ids=["no-python", "old-python", "clock", "no-sftp", "a-shell-that-talks"],
)
def test_a_server_that_lacks_something_is_told(make_server, refuse, break_it, words: str) -> None:
    server = make_server()
    break_it(server)
    assert words in refuse(server, PermanentError)


@pytest.mark.campaign(sample=8)
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"has_engine": False}, "engine: "),
        ({"more": ("--tmpfs", "/opt:size=10m")}, "disk: 10 MiB free in /opt"),
        ({"more": ("--tmpfs", "/var/tmp:size=10m")}, "disk: 0 MiB free in /var/tmp"),
        ({"has_way_out": False}, "way to the queues: http://127.0.0.1:"),
    ],
    ids=["no-engine", "no-space", "no-space-to-send", "no-way-out"],
)
def test_a_machine_that_does_not_fit_is_told(
    make_server, refuse, options: dict[str, Any], words: str
) -> None:
    assert words in refuse(make_server(**options), PermanentError)


@pytest.mark.campaign(sample=8)
def test_a_server_without_systemd_is_told_what_to_do(make_server, refuse) -> None:
    line = refuse(make_server(), PermanentError, has_service=True, state_dir=STATE_DIR)
    assert "there is no systemd on this server: --no-service starts" in line


# --- what may happen meanwhile ------------------------------------------------------------------


@pytest.mark.campaign(sample=50)
@pytest.mark.parametrize("name", ["log in", "look", "send", "install", "register", "configure"])
def test_a_connection_that_is_cut_is_gone_on_from(
    plane: Plane, make_server, requested, name
) -> None:
    server = make_server()

    def report(step: Step) -> None:
        if step.name == name:
            server.cut()

    cut = Enrolling(plane.build_registrar(), plane.bundle, report=report)
    with pytest.raises(TransientError, match="run it again"):
        cut.enroll(requested(server))
    assert plane.enrolling().enroll(requested(server)).is_changed
    assert plane.records.find_server(server.name).state is EnrolmentState.ENROLLED
    plane.enrolling().remove(server.name)
    assert plane.list_traces(server.name) == []
    assert server.list_traces() == []


@pytest.mark.campaign(sample=50)
@pytest.mark.parametrize(
    ("cut_after", "done"),
    [
        (500, []),
        (1_300, []),
        (3_000, ["log in"]),
        (60_000, ["log in", "look"]),
        (3_000_000, ["log in", "look"]),
    ],
    ids=["in-exchange-of-keys", "in-login", "in-look", "in-send", "later-in-send"],
)
def test_a_cable_that_is_pulled_leaves_nothing_registered(
    plane: Plane, make_server, requested, monkeypatch, cut_after: int, done: list[str]
) -> None:
    server = make_server()
    with Wire(server.port, cut_after=cut_after) as wire:
        connect(monkeypatch, server, port=wire.port)
        before = len(plane.steps)
        with pytest.raises(TransientError) as caught:
            plane.enrolling().enroll(requested(server))
        print(caught.value)
        assert "\n" not in str(caught.value)
        assert wire.cuts == 1
        steps = [step.name for step in plane.steps[before:]]
        assert steps == done
        assert plane.list_traces(server.name) == []
        sent = [trace for trace in server.list_traces() if "/var/tmp/" not in trace]
        assert sent == []

        assert plane.enrolling().enroll(requested(server)).is_changed

    assert plane.records.find_server(server.name).state is EnrolmentState.ENROLLED
    connect(monkeypatch, server)
    plane.enrolling().remove(server.name)
    assert plane.list_traces(server.name) == []
    assert server.list_traces() == []


@pytest.mark.campaign(sample=50)
def test_three_of_one_run_join_at_once_and_one_that_is_not_there_is_told(
    plane: Plane, make_server, requested, image: str, monkeypatch
) -> None:
    servers = [make_server("one"), make_server("two"), make_server("three")]
    connect(monkeypatch, servers[1], port=1)
    settings = plane.settings.model_copy(update={"agent_bundle": plane.bundle.folder})
    monkeypatch.setattr(enrolling, "get_settings", lambda: settings)
    listed = [
        {
            "server": server.name,
            "ssh_conn_id": server.conn_id,
            "images": [image],
            "gpu": "none",
            "state_dir": str(server.state_dir),
            "has_service": False,
        }
        for server in servers
    ]
    ended: dict[int, object] = {}

    def execute(place: int) -> None:
        task = enrolling.EnrolOperator(task_id="enrol", place=place)
        context: Any = {
            "dag_run": SimpleNamespace(run_id="r", conf={}, triggering_user_name="admin"),
            "params": {enrolling.SERVERS: listed},
            "ti": SimpleNamespace(map_index=place),
        }
        try:
            ended[place] = task.execute(context)["is_changed"]
        except Exception as error:
            ended[place] = error

    threads = [threading.Thread(target=execute, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (ended[0], ended[2]) == (True, True)
    assert f"{servers[1].name}: root@127.0.0.1:1 cannot be reached" in str(ended[1])
    assert plane.list_traces(servers[1].name) == []
    for server in (servers[0], servers[2]):
        assert plane.records.find_server(server.name).state is EnrolmentState.ENROLLED
        plane.enrolling().remove(server.name)


def test_a_server_works_for_one_environment(plane: Plane, make_server, requested) -> None:
    """Also where the two know nothing of each other, but of the server itself."""
    store_server(plane.records, {"server": "taken", "env": "prod", "public_key": "x"})
    claimed = EnrolmentRequest(server="taken", ssh_conn_id="none", images=("a:1",))
    with pytest.raises(ConfigurationError, match="taken is online in environment prod"):
        plane.enrolling().enroll(claimed)
    server = make_server()
    server.run("mkdir", "/etc/touchstone-agent")
    there = '{"env": "prod", "server": "other", "state_dir": "/var/lib/touchstone-agent"}'
    server.write("/etc/touchstone-agent/enrolled.json", there)
    with pytest.raises(ConfigurationError, match="that machine is other of environment prod"):
        plane.enrolling().enroll(requested(server))
    assert plane.list_traces(server.name) == []


@pytest.mark.campaign(sample=50)
def test_a_server_that_its_owner_sets_up_joins_by_the_command_that_was_printed(
    plane: Plane, make_server, requested
) -> None:
    server = make_server()
    by_hand = requested(server, ssh_conn_id=None)

    ordered = plane.enrolling().enroll(by_hand)

    assert ordered.command is not None
    record = plane.records.find_server(server.name)
    assert record.state is EnrolmentState.BEGUN
    assert not {server.name, f"{server.name}_validation"} & set(plane.pools.pools)
    server.run("sh", "-c", ordered.command)
    plane.enrolling().wait_for_pools(server.name)
    assert plane.records.find_server(server.name).state is EnrolmentState.ENROLLED
    assert not plane.enrolling().enroll(by_hand).is_changed
    left = plane.s3.list_objects_v2(Bucket=plane.settings.content_bucket, Prefix="enrolment/")
    assert not [o for o in left.get("Contents", ()) if server.name in o["Key"]]
    command = plane.enrolling().remove(server.name)
    assert command is not None
    server.run("sh", "-c", command)
    assert server.list_traces() == []
    assert plane.list_traces(server.name) == []


@pytest.mark.campaign(sample=8)
def test_a_printed_command_leaves_nothing_where_the_machine_does_not_fit(
    plane: Plane, make_server, requested
) -> None:
    server = make_server(has_engine=False)
    ordered = plane.enrolling().enroll(requested(server, ssh_conn_id=None))
    said = server.run("sh", "-c", f"{ordered.command} 2>&1", check=False)
    assert "FAIL         engine: " in said
    assert "undone" in said
    assert server.list_traces() == []
    plane.enrolling().remove(server.name, is_lost=True)
    assert plane.list_traces(server.name) == []
    said = server.run("sh", "-c", f"{ordered.command} 2>&1", check=False)
    assert said.startswith("cannot be fetched (HTTP Error 404")


# --- upgrades -------------------------------------------------------------------------------------


def begin(plane: Plane, server: Server, ministack: str) -> AttemptRef:
    """Let an attempt begin that numbers the lines it writes, until it is told to end."""
    spec = build_validation_spec(
        f"s{uuid.uuid4().hex[:8]}",
        system=System.FEATURE_SET,
        image=RUNNER_IMAGE,
        content_sha256="0" * 64,
        content_size=1,
        limits=Limits(),
    )
    now = datetime.now(UTC)
    task = new_task(spec, run_id="any", map_index=-1, now=now)
    task = claim_attempt(
        task,
        attempt=1,
        server=server.name,
        container_of=lambda ref: ref.container_name(plane.settings.env),
        now=now,
    )
    plane.records.create_task(task)
    ref = task.ref
    start = ControlPlane(ministack, server=server.name).make_start(["held"], ref=ref)
    AgentHook(settings=plane.settings).send(server.name, start)
    return ref


def read_console(plane: Plane, ref: AttemptRef) -> bytes:
    """Return what is stored of a console; fails unless its pieces adjoin."""
    objects, bucket, text = ObjectStore.connect(plane.settings), plane.settings.logs_bucket, b""
    for chunk in iterate_chunks(objects, bucket, ref):
        assert chunk.offset == len(text), f"{chunk.key} begins after {len(text)} bytes"
        text += plane.s3.get_object(Bucket=bucket, Key=chunk.key)["Body"].read()
    return text


@pytest.mark.campaign(sample=50)
def test_an_upgrade_interrupts_no_training_and_one_that_fails_is_taken_back(
    plane: Plane, make_server, requested, ministack: str, tmp_path: Path, monkeypatch
) -> None:
    server = make_server()
    plane.enrolling().enroll(requested(server))
    ref = begin(plane, server, ministack)
    wait_for("its console is stored", lambda: read_console(plane, ref))
    running = find_container(server)
    newer = change_bundle(plane.bundle, tmp_path / "newer", "0.2.0+gnewer")
    broken = change_bundle(plane.bundle, tmp_path / "broken", "0.3.0+gbroken", is_broken=True)

    before = len(read_console(plane, ref))
    assert plane.enrolling(bundle=newer).upgrade(server.name)

    record = plane.records.find_server(server.name)
    assert describe_server(plane.find_entry(server.name))["version"] == "0.2.0"
    assert describe_server(plane.find_entry(server.name))["commit"] == "newer"
    assert find_container(server) == running
    assert [phase for _, phase in record.running] == ["running"]
    wait_for("more is stored", lambda: len(read_console(plane, ref)) > before)
    assert not plane.enrolling(bundle=newer).upgrade(server.name)

    # It is never heard, however long that is waited for.
    monkeypatch.setattr(service, "HEARD_SECONDS", 5)
    with pytest.raises(TransientError, match=r"0\.2\.0\+gnewer runs there again"):
        plane.enrolling(bundle=broken).upgrade(server.name)

    heard = datetime.now(UTC)
    wait_for("it is back", lambda: was_heard(plane.records.find_server(server.name), since=heard))
    record = plane.records.find_server(server.name)
    assert record.inventory.agent_version == newer.version
    assert find_container(server) == running

    # Of all that it wrote, from before the first upgrade on, nothing is missing.
    out = server.folder / "state/attempts" / ref.container_name(plane.settings.env) / "out"
    written = (out / "console.log").read_bytes()
    (out / "go").touch()
    task = wait_for("it has ended", lambda: find_ended(plane, ref))
    assert (task.newest.number, task.fence, task.past) == (1, 1, ())
    # It has ended; the last of what it wrote may still be on its way.
    wait_for("all is stored", lambda: len(read_console(plane, ref)) >= len(written))
    whole = read_console(plane, ref)
    assert whole.startswith(written)
    lines = whole.decode().splitlines()
    assert lines == [f"line {number}" for number in range(1, len(lines) + 1)]
    print(f"{len(lines)} lines, the first upgrade after {before} of {len(whole)} bytes")

    plane.enrolling(bundle=newer).remove(server.name)
    assert server.list_traces() == []


def find_ended(plane: Plane, ref: AttemptRef) -> Task | None:
    """Return an attempt's task once it has ended."""
    task = plane.records.get_task(ref.submission_id, ref.task_id)
    return task if task.is_ended else None
