"""One suite for every runtime, the fake of the unit tests included: it must stay honest."""

from __future__ import annotations

import os
import subprocess
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fakes.agent_world import FakeRuntime, make_ref
from fakes.images import RUNNER, RUNNER_IMAGE, build_script_image, name_script_image
from touchstone_agent.adapters.docker import DockerRuntime
from touchstone_agent.adapters.files import make_attempt_folder
from touchstone_agent.adapters.process import ProcessRuntime
from touchstone_agent.adapters.processes import read_start_time
from touchstone_agent.core.ports import Exit, LaunchSpec, Runtime
from touchstone_agent.protocol.messages import Limits
from touchstone_agent.settings import DockerSettings, ProcessSettings
from waiting import wait_for

pytestmark = pytest.mark.integration

ENV = f"t{uuid.uuid4().hex[:8]}"
GRACE_SECONDS = 120
"""Long enough for a busy machine to let a script end in order."""


def work_of_the_fake(spec: LaunchSpec) -> Exit | None:
    """Do what the runner's script does."""
    scenario, _, _, *rest = spec.argv
    if scenario == "crash":
        return Exit(exit_code=int(rest[0]))
    if scenario == "ok":
        with (spec.folder / "out/console.log").open("a") as console:
            console.write("line 1 of 1\n")
        return Exit(exit_code=0)
    return None


def make_runtime(name: str, attempts_dir: Path) -> Runtime:
    if name == "process":
        settings = ProcessSettings(command=("/bin/sh", str(RUNNER)))
        return ProcessRuntime(settings, env=ENV, server="box", attempts_dir=attempts_dir)
    if name == "docker":
        return DockerRuntime(DockerSettings(pull=False), env=ENV, server="box")
    return FakeRuntime(work_of_the_fake)


@pytest.fixture(params=["fake", "process", pytest.param("docker", marks=pytest.mark.docker)])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Runtime]:
    if request.param == "docker":
        request.getfixturevalue("docker_image")
    runtime = make_runtime(request.param, tmp_path)
    yield runtime
    for name in list(runtime.list_labels()):
        runtime.stop(name, grace_seconds=0)
        runtime.remove(name)


@pytest.fixture
def make_spec(tmp_path: Path):
    def make(*argv: str, submission_id: str = "s1") -> LaunchSpec:
        ref = make_ref(submission_id=submission_id)
        name = ref.container_name(ENV)
        make_attempt_folder(tmp_path / name)
        scenario, *rest = argv
        return LaunchSpec(
            ref=ref,
            name=name,
            labels={"touchstone.env": ENV, "touchstone.server": "box"},
            image=RUNNER_IMAGE,
            argv=(scenario, "{in}", "{out}", *rest),
            environment={"TOUCHSTONE_SUBMISSION_ID": submission_id},
            folder=tmp_path / name,
            limits=Limits(memory_mib=128),
        )

    return make


def wait_written(path: Path) -> None:
    wait_for(f"{path} is written", lambda: path.exists() and path.stat().st_size)


def test_an_exit_code_is_kept_until_it_is_asked_for(runtime: Runtime, make_spec) -> None:
    spec = make_spec("crash", "7")
    runtime.launch(spec)

    assert runtime.wait(spec.name) == Exit(exit_code=7)
    assert runtime.wait(spec.name) == Exit(exit_code=7)
    assert runtime.exists(spec.name)


def test_launching_twice_runs_once(runtime: Runtime, make_spec) -> None:
    spec = make_spec("ok", "1", "0")

    runtime.launch(spec)
    runtime.launch(spec)
    runtime.wait(spec.name)
    runtime.launch(spec)
    runtime.wait(spec.name)

    assert (spec.folder / "out/console.log").read_text() == "line 1 of 1\n"


def test_what_never_ran_does_not_exist_and_can_be_ended_and_removed(
    runtime: Runtime, make_spec
) -> None:
    name = make_spec("ok").name

    assert not runtime.exists(name)
    assert runtime.wait(name) is None
    runtime.stop(name, grace_seconds=1)
    runtime.remove(name)


def test_stopping_is_seen_by_whoever_waits(runtime: Runtime, make_spec) -> None:
    spec = make_spec("sleep", "300")
    runtime.launch(spec)
    if runtime.name != "fake":
        wait_written(spec.folder / "out/console.log")
    seen: list[Exit | None] = []
    waiter = threading.Thread(target=lambda: seen.append(runtime.wait(spec.name)))
    waiter.start()

    runtime.stop(spec.name, grace_seconds=GRACE_SECONDS)
    waiter.join()

    assert seen == [Exit(exit_code=143)]
    runtime.stop(spec.name, grace_seconds=GRACE_SECONDS)


def test_what_was_removed_is_gone(runtime: Runtime, make_spec) -> None:
    spec = make_spec("sleep", "300")
    runtime.launch(spec)
    assert list(runtime.list_labels()) == [spec.name]
    assert runtime.list_labels()[spec.name]["touchstone.server"] == "box"

    runtime.stop(spec.name, grace_seconds=0)
    runtime.remove(spec.name)
    runtime.remove(spec.name)

    assert runtime.list_labels() == {}


def test_what_is_killed_ends_at_once_whatever_it_is_deaf_to(runtime: Runtime, make_spec) -> None:
    spec = make_spec("stubborn")
    runtime.launch(spec)
    if runtime.name != "fake":
        wait_written(spec.folder / "out/console.log")

    runtime.kill(spec.name)

    assert runtime.wait(spec.name) == Exit(exit_code=137)
    runtime.kill(spec.name)
    runtime.remove(spec.name)
    runtime.kill(spec.name)


def test_two_attempts_do_not_know_of_each_other(runtime: Runtime, make_spec) -> None:
    one, two = make_spec("sleep", "300"), make_spec("crash", "3", submission_id="s2")
    runtime.launch(one)
    runtime.launch(two)

    assert runtime.wait(two.name) == Exit(exit_code=3)
    assert one.name in runtime.list_labels()


# --- what only one of them has to cope with ---------------------------------------------------


@pytest.fixture
def process_runtime(tmp_path: Path) -> Iterator[ProcessRuntime]:
    runtime = make_runtime("process", tmp_path)
    assert isinstance(runtime, ProcessRuntime)
    yield runtime
    for name in runtime.list_labels():
        runtime.stop(name, grace_seconds=0)


def test_two_agents_that_launch_at_once_start_one_process(
    process_runtime: ProcessRuntime, make_spec
) -> None:
    spec = make_spec("ok", "1", "0")
    launches = [threading.Thread(target=process_runtime.launch, args=(spec,)) for _ in range(4)]

    for thread in launches:
        thread.start()
    for thread in launches:
        thread.join()
    process_runtime.wait(spec.name)

    assert (spec.folder / "out/console.log").read_text() == "line 1 of 1\n"


def test_a_killed_shim_leaves_no_process_and_no_exit_code(
    process_runtime: ProcessRuntime, make_spec
) -> None:
    spec = make_spec("family")
    process_runtime.launch(spec)
    wait_written(spec.folder / "out/console.log")
    (shim,) = (int(p) for p in find_pids(spec.name) if "process_shim" in read_command(p))

    os.kill(shim, 9)

    assert process_runtime.wait(spec.name) == Exit(exit_code=None)
    assert find_pids(spec.name) == []


def test_nothing_lives_on_behind_a_command_that_ends(
    process_runtime: ProcessRuntime, make_spec
) -> None:
    spec = make_spec("leave")

    process_runtime.launch(spec)

    assert process_runtime.wait(spec.name) == Exit(exit_code=5)
    assert find_pids(spec.name) == []


def test_the_agents_credentials_are_not_handed_on(
    process_runtime: ProcessRuntime, make_spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "sesame")
    spec = make_spec("sleep", "300")
    process_runtime.launch(spec)

    for pid in find_pids(spec.name):
        assert b"sesame" not in Path(f"/proc/{pid}/environ").read_bytes()


def find_pids(name: str) -> list[str]:
    pids = []
    for folder in Path("/proc").iterdir():
        try:
            if f"TOUCHSTONE_CONTAINER={name}".encode() in (folder / "environ").read_bytes():
                pids.append(folder.name)
        except OSError:
            continue
    return pids


def read_command(pid: str) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")


@pytest.mark.docker
def test_a_container_that_was_made_and_not_started_is_started(
    docker_image: str, make_spec, tmp_path: Path
) -> None:
    """The agent was killed between the two calls."""
    runtime = make_runtime("docker", tmp_path)
    assert isinstance(runtime, DockerRuntime)
    spec = make_spec("crash", "7", submission_id="s7")
    runtime._create(spec)
    assert not runtime.exists(spec.name)

    runtime.launch(spec)

    assert runtime.wait(spec.name) == Exit(exit_code=7)
    runtime.remove(spec.name)


def test_what_hides_from_its_shim_is_killed_too(process_runtime: ProcessRuntime, make_spec) -> None:
    """Its shim is stopped, and it has neither its group nor its environment any more."""
    spec = make_spec("vanish")
    process_runtime.launch(spec)
    wait_written(spec.folder / "out/pid")
    vanished = int((spec.folder / "out/pid").read_text())
    assert str(vanished) not in find_pids(spec.name)

    process_runtime.kill(spec.name)

    assert process_runtime.wait(spec.name) == Exit(exit_code=None)
    assert read_start_time(vanished) is None


ROOTS_RUNNER = {"TOUCHSTONE_RUNNER_USER": "root"}
APART = name_script_image("touchstone-test-apart", RUNNER, ROOTS_RUNNER)


@pytest.fixture(scope="module")
def apart_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image whose runner starts its trainer as another user, or says so."""
    return build_script_image(APART, RUNNER, tmp_path_factory.mktemp("image"), ROOTS_RUNNER)


def inspect(name: str) -> list[str]:
    template = "{{.Config.User}} {{.HostConfig.CapDrop}} {{.HostConfig.CapAdd}} {{.Config.Env}}"
    command = ["docker", "inspect", "--format", template, name]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split(" ", 2)


@pytest.mark.docker
@pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT: every container has one user only")
def test_only_an_image_that_says_so_starts_as_root_and_never_with_the_network(
    apart_image: str, docker_image: str, make_spec, tmp_path: Path
) -> None:
    runtime = make_runtime("docker", tmp_path)
    assert isinstance(runtime, DockerRuntime)
    (tmp_path / "cache").mkdir()
    apart = replace(make_spec("sleep", "300", submission_id="s9"), image=apart_image)
    plain = make_spec("sleep", "300", submission_id="s10")
    spec = make_spec("sleep", "300", submission_id="s11")
    online = replace(spec, image=apart_image, network=True, cache=tmp_path / "cache")
    try:
        for spec in (apart, plain, online):
            runtime._create(spec)
        user, dropped, rest = inspect(apart.name)
        assert (user, dropped) == ("0:0", "[ALL]")
        assert rest.startswith("[SETUID SETGID KILL] ")
        assert "TOUCHSTONE_TRAINER_USER=65534:65534" in rest
        facts = (apart.folder / "out").stat()
        assert (facts.st_uid, facts.st_mode & 0o7777) == (0, 0o1777)
        for spec in (plain, online):
            user, dropped, rest = inspect(spec.name)
            assert (user, dropped) == ("65534:65534", "[ALL]")
            assert "SETUID" not in rest
            assert "TOUCHSTONE_TRAINER_USER=65534" not in rest
            assert (spec.folder / "out").stat().st_uid == 65534
        assert runtime.find_shared_user(apart_image) is None
        assert "TOUCHSTONE_RUNNER_USER" in str(runtime.find_shared_user(docker_image))
    finally:
        for spec in (apart, plain, online):
            runtime.remove(spec.name)


@pytest.mark.docker
def test_what_was_prepared_can_only_be_read(docker_image: str, make_spec, tmp_path: Path) -> None:
    runtime = make_runtime("docker", tmp_path)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/made").write_text("before")
    spec = replace(make_spec("look", submission_id="s12"), cache=tmp_path / "cache")
    (spec.folder / "in/content").mkdir()
    (spec.folder / "in/content/train.py").write_text("x")

    runtime.launch(spec)
    runtime.wait(spec.name)
    runtime.remove(spec.name)

    console = (spec.folder / "out/console.log").read_text()
    assert "cache is read-only" in console
    assert "cache is before" in console
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["made"]


@pytest.mark.docker
@pytest.mark.skipif(os.geteuid() != 0, reason="NOT ROOT: containers' processes cannot be seen")
def test_an_engine_that_is_busy_does_not_keep_a_container_alive(
    docker_image: str, make_spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = make_runtime("docker", tmp_path)
    assert isinstance(runtime, DockerRuntime)
    spec = make_spec("stubborn", submission_id="s13")
    runtime.launch(spec)
    assert runtime.find_main_pid(spec.name, spec.folder / "out") is not None
    # Another container's process is not ours to kill, whatever its number.
    assert runtime.find_main_pid(spec.name, tmp_path) is None
    client = runtime._client

    def hang() -> Any:
        raise AssertionError("the engine was asked")

    monkeypatch.setattr(runtime, "_client", hang)
    runtime.kill(spec.name)
    monkeypatch.setattr(runtime, "_client", client)

    assert runtime.wait(spec.name) == Exit(exit_code=137)
    runtime.remove(spec.name)


@pytest.mark.docker
def test_limits_are_those_of_the_start(docker_image: str, make_spec, tmp_path: Path) -> None:
    runtime = make_runtime("docker", tmp_path)
    spec = make_spec("sleep", "300", submission_id="s8")
    runtime.launch(spec)

    template = (
        "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.PidsLimit}} "
        "{{.HostConfig.NanoCpus}} {{.HostConfig.NetworkMode}} {{.HostConfig.ReadonlyRootfs}} "
        "{{.HostConfig.AutoRemove}} {{.HostConfig.Init}} {{.HostConfig.CapDrop}} {{.Config.User}}"
    )
    done = subprocess.run(
        ["docker", "inspect", "--format", template, spec.name],
        capture_output=True,
        text=True,
        check=True,
    )

    memory = 128 * 1024**2
    assert done.stdout.split() == [
        *(str(memory), str(memory), "512", "1000000000", "none"),
        *("true", "false", "true", "[ALL]", "65534:65534"),
    ]
    runtime.stop(spec.name, grace_seconds=0)
    runtime.remove(spec.name)
