"""A real agent and engine pull images from a real registry, by content and with a sealed login."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.control_plane import ControlPlane, make_ref
from fakes.registries import LOGIN, Registry, Wire, build_random_layer, build_runner_layer
from fakes.tasks import build_spec, build_task
from touchstone.core.records.tasks import Task
from touchstone.dispatcher.logins import answer_login, answer_staged_login
from touchstone.hooks.registry import pin_image
from touchstone.settings import Settings
from touchstone_agent.adapters.docker import DockerRuntime
from touchstone_agent.adapters.pulled import PulledImages
from touchstone_agent.core.ports import HostLacks
from touchstone_agent.protocol.messages import (
    AttemptPhase,
    AttemptRef,
    Progress,
    PullLogin,
    PullLoginWanted,
    Refusal,
    Stage,
)
from touchstone_agent.settings import DockerSettings

from .conftest import AgentProcess

pytestmark = [pytest.mark.integration, pytest.mark.docker]

CANARY = "canary-3f9d1c-of-the-registry"
SIZE = 8 * 1024**2


@pytest.fixture(scope="module")
def layers() -> list[bytes]:
    """An image of three layers, with much to fetch."""
    runner = build_runner_layer()
    return [runner, build_random_layer("a", SIZE), build_random_layer("b", SIZE)]


@pytest.fixture(scope="module", params=[None, CANARY], ids=["open", "login"])
def registry(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, docker_image: str
) -> Iterator[Registry]:
    """A registry; the second one asks who is there."""
    found = Registry(tmp_path_factory.mktemp("registry"), password=request.param).start()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def closed_registry(
    tmp_path_factory: pytest.TempPathFactory, docker_image: str
) -> Iterator[Registry]:
    """A registry that asks who is there."""
    found = Registry(tmp_path_factory.mktemp("closed"), password=CANARY).start()
    yield found
    found.stop()


@pytest.fixture
def runtime_name() -> str:
    """Only an engine has images."""
    return "docker"


@pytest.fixture
def stopped_agent(stopped_agent: AgentProcess) -> Iterator[AgentProcess]:
    """An agent that may pull; the images it has pulled are removed."""
    stopped_agent.docker["pull"] = True
    yield stopped_agent
    # Of this one alone: other tests pull at the same time.
    pulled = stopped_agent.folder / "state/images.json"
    names = json.loads(pulled.read_text()) if pulled.exists() else []
    if stopped_agent.config.exists():
        stopped_agent.close()
    for name in names:
        subprocess.run(["docker", "rmi", name], capture_output=True)


def list_images() -> set[str]:
    done = subprocess.run(
        ["docker", "images", "--digests", "--format", "{{.Repository}}@{{.Digest}}"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {line for line in done.stdout.split() if line.startswith("127.0.0.1:")}


class Starter:
    """What the control plane knows of images: connections, and one attempt on record."""

    def __init__(self, plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
        self._plane = plane
        self._monkeypatch = monkeypatch
        self.settings = Settings(env="dev", registry_conn_ids=("images",))
        self.records: dict[AttemptRef, Task] = {}
        self.staged: set[str] = set()
        plane.answer_login = self._answer

    def _answer(self, wanted: PullLoginWanted) -> PullLogin:
        box = self._plane.server
        if wanted.ref is None:
            return answer_staged_login(self.settings, box, wanted, self.staged)
        return answer_login(self.settings, box, wanted, self.records.get(wanted.ref))

    def connect(self, registry: Registry, **changes: Any) -> None:
        """Name a registry in a connection."""
        self._monkeypatch.setenv("AIRFLOW_CONN_IMAGES", registry.connection(**changes))

    def pin(self, image: str) -> str:
        """Return what is put on record at the submit."""
        return str(pin_image(self.settings, image).pinned)

    def start(self, image: str, *argv: str) -> AttemptRef:
        """Put an attempt on record, and start it."""
        ref = make_ref()
        told = {"attempt": ref.attempt, "fence": ref.fence, "server": self._plane.server}
        spec = build_spec(submission_id=ref.submission_id, task_id=ref.task_id)
        self.records[ref] = build_task(spec, **told, image=image)
        self._plane.start(argv or ["ok", "1", "0"], ref=ref, image=image)
        return ref


@pytest.fixture
def starter(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> Starter:
    """The control plane's side of it."""
    return Starter(plane, monkeypatch)


def test_the_digest_of_the_submit_trains_wherever_its_tag_goes(
    agent: AgentProcess,
    plane: ControlPlane,
    registry: Registry,
    starter: Starter,
    layers: list[bytes],
) -> None:
    starter.connect(registry)
    digest = registry.push("team/trainer", "1", layers, mark=plane.env)
    pinned = starter.pin(f"{registry.host}/team/trainer:1")
    registry.push("team/trainer", "1", [build_random_layer("bad", 10)], mark=plane.env)

    ref = starter.start(pinned)

    plane.wait_phase(ref, AttemptPhase.UPLOADED)
    prepared = plane.wait_phase(ref, AttemptPhase.PREPARING)
    assert prepared.details == {
        "image": pinned,
        "image_digest": f"{registry.host}/team/trainer@{digest}",
    }
    assert plane.refused == []
    again = starter.start(pinned)
    plane.wait_phase(again, AttemptPhase.UPLOADED)
    # What is here is not asked for again.
    assert [body.ref for body in plane.bodies(PullLoginWanted)] == [ref]


def test_the_password_is_nowhere_on_the_server(
    agent: AgentProcess,
    plane: ControlPlane,
    closed_registry: Registry,
    starter: Starter,
    layers: list[bytes],
) -> None:
    starter.connect(closed_registry)
    closed_registry.push("team/secret", "1", layers, mark=plane.env)
    pinned = starter.pin(f"{closed_registry.host}/team/secret:1")

    ref = starter.start(pinned, "held")
    plane.wait_phase(ref, AttemptPhase.RUNNING)

    (container,) = agent.find_containers()
    inspected = subprocess.run(
        ["docker", "inspect", container, pinned.replace(":1@", "@")],
        capture_output=True,
        check=True,
    ).stdout
    assert pinned.encode() in inspected  # what the attempt runs is told, so this does look there
    environ = Path(f"/proc/{agent.pid}/environ").read_bytes()
    said = {"inspect": inspected, "environment": environ, "log": agent.log.encode()}
    said |= {f"message {i}": text.encode() for i, text in enumerate(plane.texts)}
    said |= {
        "event": str(plane.events).encode(),
        "record": json.dumps(starter.records[ref].dump()).encode(),
    }
    assert [name for name, text in said.items() if has_canary(text)] == []
    home = Path.home() / ".docker"
    assert list(find_canary(agent.folder, home, *find_engine_folders())) == []
    (agent.folder / "state" / "seen").write_text(f"x{CANARY}x")
    assert list(find_canary(agent.folder)) == [agent.folder / "state" / "seen"]
    agent.let_go(ref)
    plane.wait_phase(ref, AttemptPhase.UPLOADED)
    (agent.folder / "state" / "seen").unlink()
    assert list(find_canary(agent.folder)) == []


def has_canary(text: bytes) -> bool:
    shown = f"{LOGIN}:{CANARY}".encode()
    forms = [CANARY.encode(), base64.b64encode(shown)]
    # In the middle of anything that is base64 itself, wherever it begins.
    forms += [base64.b64encode(b"x" * n + CANARY.encode())[4 + n : -4] for n in range(3)]
    return any(form in text for form in forms)


def find_canary(*folders: Path) -> Iterator[Path]:
    for folder in folders:
        for file in folder.rglob("*"):
            try:
                if file.is_file() and not file.is_symlink() and has_canary(file.read_bytes()):
                    yield file
            except OSError:
                continue


def find_engine_folders() -> list[Path]:
    """Return where the engine writes down what it knows; layers are what the registry has."""
    done = subprocess.run(
        ["docker", "info", "--format", "{{.DockerRootDir}}"],
        capture_output=True,
        text=True,
        check=True,
    )
    root = Path(done.stdout.strip())
    return [root / name for name in ("containers", "image", "network", "tmp", "volumes")]


def test_a_wrong_password_is_told_in_one_line(
    agent: AgentProcess,
    plane: ControlPlane,
    closed_registry: Registry,
    starter: Starter,
    layers: list[bytes],
) -> None:
    starter.connect(closed_registry)
    closed_registry.push("team/trainer", "1", layers, mark=plane.env)
    pinned = starter.pin(f"{closed_registry.host}/team/trainer:1")
    starter.connect(closed_registry, password="no-canary-at-all")

    ref = starter.start(pinned)

    lost = plane.wait_phase(ref, AttemptPhase.LOST)
    assert f"image {pinned}: its registry does not let this server pull it" in (lost.reason or "")
    assert lost.details == {"refusal": "image"}
    assert "no-canary-at-all" not in f"{lost}{agent.log}{plane.texts}"


def test_an_image_that_is_gone_by_then_is_told_in_one_line(
    agent: AgentProcess, plane: ControlPlane, closed_registry: Registry, starter: Starter
) -> None:
    starter.connect(closed_registry)

    ref = starter.start(f"{closed_registry.host}/team/trainer:1@sha256:{'0' * 64}")

    lost = plane.wait_phase(ref, AttemptPhase.LOST)
    assert "its registry has it no more" in (lost.reason or "")
    assert lost.details == {"refusal": "image"}


def test_a_registry_that_goes_down_in_the_middle_is_waited_for(
    agent: AgentProcess,
    plane: ControlPlane,
    closed_registry: Registry,
    starter: Starter,
    layers: list[bytes],
) -> None:
    wire = Wire(closed_registry.port)
    starter.connect(closed_registry, port=int(wire.host.rpartition(":")[2]))
    fresh = [layers[0], build_random_layer("c", SIZE), build_random_layer("d", SIZE)]
    closed_registry.push("team/cut", "1", fresh, mark=plane.env)
    pinned = starter.pin(f"{wire.host}/team/cut:1")
    wire.pause = 0.02
    wire.most_bytes = wire.passed

    ref = starter.start(pinned)
    plane.wait("the engine gives up", lambda: "attempt.delayed" in agent.log)
    assert plane.phases(ref) == ["accepted"]
    # In the middle of a layer the engine tries again by itself, for more than a minute.
    cuts = wire.cuts
    wire.most_bytes = wire.passed + SIZE
    plane.wait("it breaks off again", lambda: wire.cuts > cuts and wire.passed > SIZE)
    wire.most_bytes = None

    prepared = plane.wait_phase(ref, AttemptPhase.PREPARING)
    plane.wait_phase(ref, AttemptPhase.UPLOADED)
    told = [body for body in plane.bodies(Progress) if body.ref == ref and body.at <= prepared.at]
    assert told
    assert all(body.phase.startswith(("layer ", "the image")) for body in told)
    assert max(body.percent for body in told) > 0
    # Each pull has a key of its own.
    keys = [body.public_key for body in plane.bodies(PullLoginWanted)]
    assert len(keys) == len(set(keys)) >= 2
    wire.close()


def test_a_pull_that_is_cancelled_ends(
    agent: AgentProcess,
    plane: ControlPlane,
    closed_registry: Registry,
    starter: Starter,
    layers: list[bytes],
) -> None:
    wire = Wire(closed_registry.port)
    starter.connect(closed_registry, port=int(wire.host.rpartition(":")[2]))
    fresh = [layers[0], build_random_layer("e", 4 * SIZE)]
    closed_registry.push("team/long", "1", fresh, mark=plane.env)
    pinned = starter.pin(f"{wire.host}/team/long:1")
    wire.pause = 0.2

    ref = starter.start(pinned)
    plane.wait("the pull is under way", lambda: plane.bodies(Progress))
    plane.cancel(ref, "not wanted")

    assert plane.wait_phase(ref, AttemptPhase.CANCELLED).reason == "not wanted"
    plane.wait("the engine has stopped, too", lambda: not wire.is_busy)
    assert wire.passed < 4 * SIZE
    wire.close()


def test_an_image_that_is_not_allowed_is_not_pulled(
    stopped_agent: AgentProcess,
    plane: ControlPlane,
    closed_registry: Registry,
    starter: Starter,
    layers: list[bytes],
) -> None:
    stopped_agent.options["images_allowed"] = [f"{closed_registry.host}/team/other:*"]
    stopped_agent.start()
    starter.connect(closed_registry)
    closed_registry.push("team/trainer", "1", layers, mark=plane.env)

    ref = starter.start(starter.pin(f"{closed_registry.host}/team/trainer:1"))

    refused = plane.wait_phase(ref, AttemptPhase.REJECTED)
    assert "is not allowed on this server" in (refused.reason or "")
    assert refused.details == {"refusal": "image"}
    assert plane.bodies(PullLoginWanted) == []


def test_an_image_is_there_before_the_attempt_that_needs_it(
    agent: AgentProcess,
    plane: ControlPlane,
    closed_registry: Registry,
    starter: Starter,
    layers: list[bytes],
) -> None:
    starter.connect(closed_registry)
    # As most are that are built for several kinds of machines.
    closed_registry.push("team/staged", "1", layers, mark=plane.env, is_index=True)
    pinned = starter.pin(f"{closed_registry.host}/team/staged:1")
    starter.staged = {pinned}

    plane.send(Stage(images=(pinned,)))
    plane.wait("it is there", lambda: "image.staged" in agent.log)
    ref = starter.start(pinned)

    plane.wait_phase(ref, AttemptPhase.UPLOADED)
    assert [body.ref for body in plane.bodies(PullLoginWanted)] == [None]
    assert json.loads((agent.folder / "state/images.json").read_text()).keys() == {
        pinned.replace(":1@", "@")
    }


def test_only_what_was_pulled_here_is_removed_to_make_room(
    tmp_path: Path, closed_registry: Registry, starter: Starter
) -> None:
    starter.connect(closed_registry)
    names, at = [], [0.0]
    pulled = PulledImages(tmp_path / "images.json", most_bytes=0, now=lambda: at[0])
    runtime = DockerRuntime(DockerSettings(), env="dev", server="box", pulled=pulled)
    for name in ("theirs", "ours", "used", "held"):
        closed_registry.push(f"team/{name}", "1", [build_random_layer(name, 1000)], mark=name)
        names.append(starter.pin(f"{closed_registry.host}/team/{name}:1"))
        # An admin has pulled the first one before.
        puller = (
            DockerRuntime(DockerSettings(), env="dev", server="b")
            if name == "theirs"
            else (runtime)
        )
        puller.resolve_image(
            names[-1], is_cancelled=lambda: False, find_login=lambda: as_login(closed_registry)
        )
        runtime.resolve_image(names[-1], is_cancelled=lambda: False)
    at[0] = 3600.0
    held = names[3].replace(":1@", "@")
    container = subprocess.run(
        ["docker", "create", held, "x"], capture_output=True, text=True, check=True
    ).stdout.strip()
    try:
        runtime.sweep_images([names[2]])
        left = find_left(closed_registry, "theirs", "ours", "used", "held")
        assert left == {"theirs", "used", "held"}
    finally:
        subprocess.run(["docker", "rm", container], capture_output=True, check=True)
    runtime.sweep_images([])
    left = find_left(closed_registry, "theirs", "ours", "used", "held")
    assert left == {"theirs"}
    subprocess.run(["docker", "rmi", names[0].replace(":1@", "@")], capture_output=True, check=True)


def test_a_disk_that_is_too_small_is_not_filled(
    closed_registry: Registry, starter: Starter
) -> None:
    wire = Wire(closed_registry.port)
    wire.pause = 0.05
    starter.connect(closed_registry, port=int(wire.host.rpartition(":")[2]))
    closed_registry.push("team/large", "1", [build_random_layer("f", 2 * SIZE)])
    pinned = starter.pin(f"{wire.host}/team/large:1")
    runtime = DockerRuntime(DockerSettings(), env="dev", server="box", min_free_bytes=2**62)

    with pytest.raises(HostLacks, match=r"^disk: \d+ MiB free for images, ") as lacks:
        runtime.resolve_image(
            pinned, is_cancelled=lambda: False, find_login=lambda: as_login(closed_registry)
        )

    assert lacks.value.refusal is Refusal.DISK
    assert f"{wire.host}/team/large" not in str(list_images())
    wire.close()


def find_left(registry: Registry, *names: str) -> set[str]:
    images = list_images()
    return {
        name
        for name in names
        if any(each.startswith(f"{registry.host}/team/{name}@") for each in images)
    }


def as_login(registry: Registry) -> Any:
    from touchstone_agent.protocol.logins import RegistryLogin

    return RegistryLogin(login=LOGIN, password=str(registry.password))


def test_the_engine_is_where_these_tests_think_it_is() -> None:
    assert os.getuid() != 0 or all(folder.exists() for folder in find_engine_folders()[:2])
