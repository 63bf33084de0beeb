"""Servers that are Debian containers with a real sshd, and a control plane that they join."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import threading
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import boto3
import pytest
from botocore.config import Config
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from fakes.images import RUNNER, RUNNER_IMAGE, build_script_image
from fakes.pools import FakePools
from fakes.ports import find_free_port
from touchstone.core.enrolment import STATE_DIR, EnrolmentRequest
from touchstone.core.records.servers import ServerEntry
from touchstone.dispatcher.events import EventHandler
from touchstone.dispatcher.hearing import EventLoop
from touchstone.dispatcher.welcoming import Welcomer
from touchstone.enrolling import service
from touchstone.enrolling.bundle import Bundle, find_bundle, read_bundle
from touchstone.enrolling.registering import Registrar
from touchstone.enrolling.service import Enrolling, Step
from touchstone.hooks import servers
from touchstone.hooks.agent import AgentHook
from touchstone.services.troubles import Troubles
from touchstone.settings import Settings
from touchstone.stack.provision import Stores, provision
from touchstone.stores.objects import ObjectStore
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.envelope import generate_key
from touchstone_agent.protocol.errors import TouchstoneError
from touchstone_agent.protocol.names import build_event_queue
from waiting import wait_for

IMAGE = "debian:bookworm-slim"
ENGINE_SOCKET = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
PREPARE = """
mkdir -p /run/sshd /root/.ssh && chmod 700 /root/.ssh
echo "$1" > /root/.ssh/authorized_keys
[ -e /etc/ssh/ours ] || {
  rm -f /etc/ssh/ssh_host_* && ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
  touch /etc/ssh/ours
}
cat > /etc/ssh/sshd_config.d/test.conf <<END
Port $2
ListenAddress $3
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication yes
END
"""
START = PREPARE + "exec /usr/sbin/sshd -D -e -o PidFile=none\n"
START_SYSTEMD = PREPARE + "exec /sbin/init\n"
MORE_IMAGE = "touchstone-test-server:bookworm"
MORE = f"""
FROM {IMAGE}
RUN apt-get update \\
    && apt-get install --yes --no-install-recommends dbus sudo systemd systemd-sysv \\
    && rm -rf /var/lib/apt/lists/* \\
    && systemctl mask systemd-udevd.service systemd-logind.service systemd-timesyncd.service \\
         getty.target console-getty.service
"""
"""A Debian as it is on a machine: with systemd, and sudo."""
SYSTEMD_OPTIONS = (
    # All that a machine has and that systemd asks for, without what an engine may not have itself.
    *(f"--cap-add={name}" for name in ("SYS_ADMIN", "SYS_PTRACE", "SYS_NICE", "DAC_READ_SEARCH")),
    *("--security-opt=seccomp=unconfined", "--security-opt=apparmor=unconfined"),
    *("--security-opt=systempaths=unconfined", "--cgroupns=host", "--stop-signal=SIGRTMIN+3"),
    *("--tmpfs=/run", "--volume=/sys/fs/cgroup:/sys/fs/cgroup:rw"),
)
OLD_PYTHON = "import sys\nsys.version_info = (3, 9, 2, 'final', 0)\n"
FAST_CLOCK = "import time\nreal = time.time\ntime.time = lambda: real() + 3600\n"


def run(*argv: str, check: bool = True) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"{argv}: {done.stderr}"
    return done.stdout.strip()


def make_key() -> tuple[str, str]:
    """Return a key as OpenSSH writes it, private and public."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return private.decode(), public.decode()


@dataclass
class Server:
    """
    A clean Debian with an sshd, and an engine beside it.

    :param name: Its name; also the container's.
    :param port: Of its sshd, on loopback.
    :param folder: A folder that it and the engine see under the same path.
    :param host_key: Of its sshd.
    """

    name: str
    port: int
    folder: Path
    private_key: str
    public_key: str
    host_key: str = ""

    def add_user(self, name: str, *, password: str = "*") -> None:
        """Let somebody who is not root log in."""
        self.run("useradd", "--create-home", name)
        self.run("mkdir", f"/home/{name}/.ssh")
        self.write(f"/home/{name}/.ssh/authorized_keys", self.public_key + "\n")
        self.run("chown", "-R", name, f"/home/{name}")
        # What is locked may not log in by key either.
        self.set_password(name, password)

    def set_password(self, name: str, password: str) -> None:
        """Give somebody a password; ``*`` for none that is right."""
        line, option = (f"{name}:{password}\n", ()) if password != "*" else (f"{name}:*\n", ("-e",))
        command = ["docker", "exec", "-i", self.name, "chpasswd", *option]
        subprocess.run(command, input=line, text=True, check=True)

    @property
    def state_dir(self) -> PurePosixPath:
        """Return where its agent keeps its state."""
        return STATE_DIR if self.folder == Path(STATE_DIR) else PurePosixPath(self.folder / "state")

    @property
    def conn_id(self) -> str:
        """Return the name of the Airflow connection that leads to it."""
        return f"ssh_{self.name.replace('-', '_')}"

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a command on it, without SSH."""
        return run("docker", "exec", self.name, *argv, check=check)

    def write(self, path: str, text: str) -> None:
        """Write a file on it."""
        subprocess.run(
            ["docker", "exec", "-i", self.name, "sh", "-c", 'cat > "$0"', path],
            input=text,
            text=True,
            check=True,
        )

    def list_traces(self) -> list[str]:
        """Return all that an enrolment could have left there."""
        places = ["/opt/touchstone-agent", "/etc/touchstone-agent"]
        places += ["/etc/systemd/system/touchstone-agent.service", "/run/touchstone-agent.pid"]
        found = [place for place in places if self.run("ls", "-d", place, check=False)]
        # A folder that is a disk of its own stays, and is empty.
        state = 'if mountpoint -q "$0"; then ls -A "$0"; else ls -d "$0"; fi'
        found += self.run("sh", "-c", state, str(self.state_dir), check=False).split()
        found += self.run("sh", "-c", "ls -d /var/tmp/touchstone-* 2>/dev/null || :").split()
        accounts = self.run("cat", "/etc/passwd", "/etc/group").splitlines()
        found += [line for line in accounts if "touchstone" in line]
        found += [p for p in self.list_processes() if "touchstone" in p]
        return found

    def list_processes(self) -> list[str]:
        """Return the command lines of what runs there."""
        script = 'for p in /proc/[0-9]*; do tr "\\0" " " < $p/cmdline 2>/dev/null; echo; done'
        return [line.strip() for line in self.run("sh", "-c", script).splitlines() if line.strip()]

    def cut(self) -> None:
        """End every SSH session, as a cable does that is pulled; the sshd itself goes on."""
        script = (
            "for p in /proc/[0-9]*; do case $(tr '\\0' ' ' < $p/cmdline 2>/dev/null) in "
            "'sshd: root'*) kill -9 ${p#/proc/};; esac; done"
        )
        self.run("sh", "-c", script)

    def build_connection(self, **extra: Any) -> dict[str, Any]:
        """Return the Airflow connection that leads to it."""
        known = {"private_key": self.private_key, "host_key": self.host_key, **extra}
        return {
            "conn_type": "ssh",
            "host": "127.0.0.1",
            "port": self.port,
            "login": "root",
            "extra": {"look_for_keys": False, **known},
        }


@dataclass
class Plane:
    """
    A control plane: real records, queues and identities, and what a dispatcher does of it.

    :param settings: Its names.
    :param registrar: Its side of enrolments.
    :param pools: Airflow's pools.
    """

    settings: Settings
    registrar: Registrar
    pools: FakePools
    bundle: Bundle
    iam: Any
    sqs: Any
    s3: Any
    clients: Callable[[str], Any]
    steps: list[Step] = field(default_factory=list)

    @property
    def records(self) -> RecordStore:
        """Return its records."""
        return self.registrar.records

    def enrolling(self, **arguments: Any) -> Enrolling:
        """Return what enrols servers; each has a registrar of its own, as each command has."""
        return Enrolling(
            self.build_registrar(),
            arguments.pop("bundle", self.bundle),
            report=self.steps.append,
            **arguments,
        )

    def build_registrar(self) -> Registrar:
        """Return the control plane's side, as another command would have it."""
        return Registrar.connect(self.settings, by="chief")

    def find_entry(self, server: str) -> ServerEntry:
        """Return a server of the list of all."""
        return next(each for each in self.records.list_servers() if each.name == server)

    def list_traces(self, server: str) -> list[str]:
        """Return all that an enrolment could have left here."""
        found = [str(self.records.find_server(server) or "")]
        queues = self.sqs.list_queues().get("QueueUrls", [])
        found += [url for url in queues if f"-{server}." in url or f"-{server}-dlq" in url]
        users = self.iam.list_users()["Users"]
        found += [user["UserName"] for user in users if user["UserName"] == f"ts-{server}"]
        found += [pool for pool in self.pools.pools if pool in {server, f"{server}_validation"}]
        objects = self.s3.list_objects_v2(Bucket=self.settings.content_bucket, Prefix="enrolment/")
        found += [o["Key"] for o in objects.get("Contents", ()) if f"/{server}/" in o["Key"]]
        return [trace for trace in found if trace]


@pytest.fixture(scope="module")
def key_pair() -> tuple[str, str]:
    """The admins' key, private and public."""
    return make_key()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """What servers get, made of this checkout."""
    return find_bundle(Settings(state_dir=tmp_path_factory.mktemp("bundle")))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image that trainings could run in."""
    return build_script_image(RUNNER_IMAGE, RUNNER, tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def new_plane(ministack: str, bundle: Bundle) -> Iterator[Callable[..., Plane]]:
    """Return a function that starts a control plane; each is another environment."""
    patch, stopping = pytest.MonkeyPatch(), threading.Event()
    # A busy machine is no server that is not there.
    patch.setattr(service, "HEARD_SECONDS", 900)
    patch.setattr(service, "POOLS_SECONDS", 900)
    patch.setattr(servers, "CONNECT_SECONDS", 120)
    aws = {
        "conn_type": "aws",
        "login": "test",
        "password": "test",
        "extra": {"endpoint_url": ministack, "region_name": "us-east-1"},
    }
    patch.setenv("AIRFLOW_CONN_TOUCHSTONE_AWS", json.dumps(aws))
    threads: list[threading.Thread] = []

    def new_plane(**names: str) -> Plane:
        made, loops = _build_plane(ministack, bundle, patch, stopping, names)
        for loop in loops:
            threads.append(threading.Thread(target=loop, daemon=True))
            threads[-1].start()
        return made

    yield new_plane
    stopping.set()
    for thread in threads:
        thread.join()
    patch.undo()


@pytest.fixture(scope="module")
def plane(new_plane: Callable[..., Plane]) -> Plane:
    """The environment that servers join."""
    return new_plane()


def _build_plane(
    ministack: str,
    bundle: Bundle,
    patch: pytest.MonkeyPatch,
    stopping: threading.Event,
    names: dict[str, str],
) -> tuple[Plane, list[Callable[[], object]]]:
    uid = uuid.uuid4().hex[:6]
    tables = ("servers", "tasks", "submissions", "evaluations", "budgets", "meter")
    own = {f"{table}_table": f"{table.title()}{uid}" for table in tables}
    settings = Settings(env=f"t{uid}", agent_conn_id=f"agent_{uid}", **{**own, **names})
    connection = {"conn_type": "touchstone_agent", "password": generate_key()[0]}
    patch.setenv(f"AIRFLOW_CONN_AGENT_{uid.upper()}", json.dumps(connection))

    def connect(service: str) -> Any:
        return boto3.client(
            service,
            config=Config(retries={"mode": "standard"}),
            endpoint_url=ministack,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    stores = Stores(dynamodb=connect("dynamodb"), s3=connect("s3"), sqs=connect("sqs"))
    provision(settings, stores, [])
    registrar = Registrar.connect(settings, by="chief")
    pools, troubles = FakePools(), Troubles()
    now = lambda: datetime.now(UTC)  # noqa: E731
    handler = EventHandler(
        records=registrar.records,
        objects=ObjectStore.connect(settings),
        agent=AgentHook(settings=settings),
        settings=settings,
        clock=now,
        troubles=troubles,
    )
    loop = EventLoop(
        connect("sqs"), build_event_queue(settings.env), handler, stopping, troubles=troubles
    )
    welcomer = Welcomer(
        records=registrar.records, pools=pools, settings=settings, clock=now, troubles=troubles
    )

    def welcome() -> None:
        while not stopping.wait(0.3):
            welcomer.run()

    made = Plane(
        settings=settings,
        registrar=registrar,
        pools=pools,
        bundle=bundle,
        iam=connect("iam"),
        sqs=connect("sqs"),
        s3=connect("s3"),
        clients=connect,
    )
    return made, [loop.run, welcome]


@pytest.fixture
def make_server(
    key_pair: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Server]]:
    """Return a function that starts a server, with an Airflow connection that leads to it."""
    if shutil.which("docker") is None or not run("docker", "images", "-q", IMAGE, check=False):
        pytest.skip(f"NO {IMAGE} or no engine: enrolment was NOT tested")
    made: list[Server] = []

    def make(
        name: str = "box",
        *,
        has_engine: bool = True,
        has_way_out: bool = True,
        has_systemd: bool = False,
        image: str = IMAGE,
        more: tuple = (),
        is_only: bool = False,
    ) -> Server:
        name = name if is_only else f"{name}-{uuid.uuid4().hex[:6]}"
        port = find_free_port()
        # Its services see nothing of /tmp.
        folder = Path("/var/lib") / f"touchstone-{name}" if has_systemd else tmp_path / name
        if is_only:
            folder = Path(STATE_DIR)
            assert not folder.exists(), f"this machine has a {folder} of its own"
        elif not has_systemd:
            folder.mkdir()
        private, public = key_pair
        server = Server(name=name, port=port, folder=folder, private_key=private, public_key=public)
        made.append(server)
        way = ["--network", "host"] if has_way_out else ["--publish", f"127.0.0.1:{port}:22"]
        address = [str(port), "127.0.0.1"] if has_way_out else ["22", "0.0.0.0"]
        engine = ["--volume", f"{ENGINE_SOCKET}:/var/run/docker.sock"] if has_engine else []
        first = SYSTEMD_OPTIONS if has_systemd else ("--init",)
        run(
            *("docker", "run", "--detach", "--name", name, *first, *way, *engine, *more),
            *("--volume", f"{folder}:{folder}", image),
            *("sh", "-c", START_SYSTEMD if has_systemd else START, "sh", public, *address),
        )
        key = "/etc/ssh/ssh_host_ed25519_key.pub"
        wait_for("the server has a host key", lambda: server.run("cat", key, check=False))
        server.host_key = " ".join(server.run("cat", key).split()[:2])
        wait_for("its sshd listens", lambda: _listens(port))
        connect(monkeypatch, server)
        return server

    yield make
    for server in made:
        run("docker", "rm", "--force", "--volumes", server.name, check=False)
        # Of a test that has failed, what its agent has started.
        label = f"label=touchstone.server={server.name}"
        for left in run("docker", "ps", "--all", "--quiet", "--filter", label).split():
            run("docker", "rm", "--force", "--volumes", left, check=False)
        if server.folder.is_relative_to("/var/lib"):
            # The engine made it, as root.
            remove = ("rm", "-rf", f"/there/{server.folder.name}")
            run("docker", "run", "--rm", "--volume", "/var/lib:/there", IMAGE, *remove, check=False)


@pytest.fixture(scope="session")
def more_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image of a Debian with systemd and sudo."""
    folder = tmp_path_factory.mktemp("more")
    (folder / "Dockerfile").write_text(MORE)
    command = ["docker", "build", "--network=host", "--tag", MORE_IMAGE, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"NO {MORE_IMAGE} (Debian's packages): systemd and sudo were NOT tested")
    return MORE_IMAGE


def _listens(port: int) -> bool:
    import socket

    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def connect(monkeypatch: pytest.MonkeyPatch, server: Server, **changes: Any) -> None:
    """Let an Airflow connection lead to a server."""
    extra = changes.pop("extra", {})
    connection = server.build_connection(**extra) | changes
    monkeypatch.setenv(f"AIRFLOW_CONN_{server.conn_id.upper()}", json.dumps(connection))


@pytest.fixture
def requested(image: str) -> Callable[..., EnrolmentRequest]:
    """Return a function that builds what somebody wants of a server."""

    def build(server: Server, **changes: Any) -> EnrolmentRequest:
        known: dict[str, Any] = {
            "server": server.name,
            "ssh_conn_id": server.conn_id,
            "images": (image,),
            "gpu": "none",
            "state_dir": server.state_dir,
            "has_service": False,
        }
        return EnrolmentRequest(**{**known, **changes})

    return build


@pytest.fixture
def refuse(plane: Plane, requested) -> Callable[..., str]:
    """Return a function that fails to enrol a server, and what it says; nothing is left of it."""

    def refuse(server: Server, kind: type[TouchstoneError], **changes: Any) -> str:
        with pytest.raises(kind) as caught:
            plane.enrolling().enroll(requested(server, **changes))
        line = str(caught.value)
        assert "\n" not in line
        assert server.list_traces() == []
        assert plane.list_traces(server.name) == []
        return line

    return refuse


def find_container(server: Server) -> str:
    """Return the id of what runs for a server, and since when."""
    label = f"label=touchstone.server={server.name}"
    found = run("docker", "ps", "--no-trunc", "--quiet", "--filter", label)
    assert found, "nothing runs"
    return run("docker", "inspect", "--format", "{{.Id}} {{.State.StartedAt}}", found)


def change_bundle(bundle: Bundle, folder: Path, version: str, *, is_broken: bool = False) -> Bundle:
    """
    Return a bundle whose agent says that it is of another version.

    :param is_broken: Whether that agent ends as soon as it is started.
    """
    shutil.copytree(bundle.folder, folder)
    (old,) = (folder / "wheels").glob("touchstone_agent-*.whl")
    new = old.with_name(old.name.replace(bundle.version, version))
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(new, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith((".dist-info/METADATA", ".dist-info/RECORD")):
                data = data.replace(bundle.version.encode(), version.encode())
            if is_broken and name == "touchstone_agent/daemon.py":
                data = b"raise SystemExit('this version does not start')\n"
            target.writestr(name.replace(bundle.version, version), data)
    old.unlink()
    files = dict(bundle.files)
    del files[f"wheels/{old.name}"]
    files[f"wheels/{new.name}"] = hashlib.sha256(new.read_bytes()).hexdigest()
    facts = json.loads((folder / "bundle.json").read_text())
    facts |= {"version": version, "files": files}
    (folder / "bundle.json").write_text(json.dumps(facts))
    return read_bundle(folder)
