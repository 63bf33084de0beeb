"""The trainer image on a real engine: what runs in it cannot touch the runner that watches it."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fakes.control_plane import ControlPlane
from fakes.runpod.docker_pods import find_engine
from touchstone.settings import Settings
from touchstone.stack.images import choose_runtime
from touchstone_agent.protocol.messages import AttemptPhase, Preparation, SlotClass, Start

from .conftest import AgentProcess

pytestmark = [pytest.mark.integration, pytest.mark.docker]

MIB = 1024**2
PYTHON = "#!/opt/elnigma/venv/bin/python -P\n"
LIBC = "import ctypes, json, os, pathlib, sys, time\nlibc = ctypes.CDLL(None, use_errno=True)\n"
OUT = "out = pathlib.Path(os.environ['TOUCHSTONE_OUT'])\n"
SUCCEED = "(out / 'result.json').write_text('{\"contract\": 1, \"validated\": true}')\n"


@pytest.fixture(scope="module")
def image() -> str:
    """The image that belongs to this checkout; built unless it is there."""
    if find_engine() is None:
        pytest.skip("NO CONTAINER ENGINE: the two users in a container were NOT tested")
    if os.geteuid() != 0:
        pytest.skip("NOT ROOT: this agent can give containers one user only")
    choose_runtime("docker", lambda part, line: None)
    return Settings().trainer_image


@pytest.fixture
def agent(tmp_path: Path, plane: ControlPlane) -> Iterator[AgentProcess]:
    """A running agent on the engine, as root."""
    agent = AgentProcess(tmp_path, plane, "docker")
    # Not every machine that tests has the engine's bridge.
    agent.docker["network"] = "host"
    yield agent.start()
    agent.close()


def pack(files: Mapping[str, str | bytes]) -> bytes:
    """Return a .tar.gz of files, by path, that may be executed."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        for path, text in files.items():
            data = text if isinstance(text, bytes) else text.encode()
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(data), 0o755
            archive.addfile(member, io.BytesIO(data))
    return memory.getvalue()


def make_start(plane: ControlPlane, image: str, source: str, **limits: Any) -> Start:
    """Order a validation in which a script of the submission is the trainer."""
    content = plane.make_input("content", pack({"trainer": PYTHON + source}), unpack=True)
    options = {"memory_mib": 512, "wall_seconds": 120, **limits}
    start = plane.make_start(["validate"], image=image, inputs=(content,), **options)
    environment = {"TOUCHSTONE_CONTRACT": "1", "TOUCHSTONE_TRAINER": "/in/content/trainer"}
    return start.model_copy(update={"argv": ("validate",), "environment": environment})


def run(plane: ControlPlane, start: Start) -> tuple[dict[str, Any], str]:
    """Run it; return its verdict and its console."""
    plane.send(start)
    exited = plane.wait_phase(start.ref, AttemptPhase.EXITED)
    plane.wait_phase(start.ref, AttemptPhase.UPLOADED)
    verdict = exited.details["verdict"]
    assert verdict is not None, exited.details
    return verdict, plane.read_console(start.ref).decode()


def test_runner_and_trainer_are_two_users_with_next_to_no_rights(
    image: str, agent: AgentProcess, plane: ControlPlane
) -> None:
    look = (
        LIBC + OUT + SUCCEED + "runner = os.getppid()\n"
        "for pid in ('self', runner, 1):\n"
        "    facts = dict(l.split(':', 1) for l in open(f'/proc/{pid}/status'))\n"
        "    print(pid == runner and 'runner' or pid, facts['Uid'].split()[0],"
        " *(facts[n].split()[0] for n in ('CapEff', 'CapBnd', 'CapInh', 'NoNewPrivs')))\n"
        "print('out', out.stat().st_uid, oct(out.stat().st_mode))\n"
        "print('interfaces', os.listdir('/sys/class/net'))\n"
        "print('signals', [libc.kill(p, 19) for p in (runner, 1)])\n"
    )
    verdict, console = run(plane, make_start(plane, image, look))

    assert (verdict["class"], verdict["reason"]) == ("ok", None)
    three, none = f"{1 << 5 | 1 << 6 | 1 << 7:016x}", f"{0:016x}"
    assert f"self 65534 {none} {three} {none} 1" in console
    assert f"runner 0 {three} {three} {none} 1" in console
    assert "out 0 0o41777" in console
    assert "interfaces ['lo']" in console
    assert "signals [-1, -1]" in console
    assert "shares a user" not in console


def test_a_disk_filler_cannot_stop_the_runner_that_ends_it(
    image: str, agent: AgentProcess, plane: ControlPlane
) -> None:
    """By libc, which no audit hook of Python sees, it stopped the runner and wrote 300 MB."""
    fill = (
        LIBC + OUT + "runners = [int(p) for p in os.listdir('/proc') if p.isdigit()"
        " and b'elnigma_runner' in open(f'/proc/{p}/cmdline', 'rb').read()]\n"
        "print('stopped', [libc.kill(p, 19) for p in runners], flush=True)\n"
        "fd = libc.open(bytes(out / 'fill'), 0o102, 0o644)\n"
        "block = ctypes.create_string_buffer(1048576)\n"
        "for _ in range(300):\n"
        "    libc.write(fd, block, 1048576)\n    time.sleep(0.02)\n"
        "print('filled', flush=True)\ntime.sleep(60)\n"
    )
    # With so much room for a console that nothing outside takes offence at what is written.
    limits = {"output_bytes": 5 * MIB, "console_bytes": 512 * MIB}
    verdict, console = run(plane, make_start(plane, image, fill, **limits))

    assert "stopped [-1" in console
    assert "filled" not in console
    # In the runner's own words, which are not the agent's.
    assert verdict["reason"] == "output limit: wrote more than 5 MiB"


def test_a_poisoned_verdict_and_a_killed_runner_come_to_nothing(
    image: str, agent: AgentProcess, plane: ControlPlane
) -> None:
    """A number that no record can hold, beside an end that costs nothing."""
    lie = (
        '{"contract": 1, "exit_code": 137, "outcome": "failed", "class": "x", "x": 1'
        + "0" * 49
        + "1}"
    )
    poison = (
        LIBC + OUT + SUCCEED + f"(out / 'verdict.json').write_text({lie!r})\n"
        "for number in (9, 19):\n    print('kill', libc.kill(os.getppid(), number))\n"
        "try:\n    os.kill(os.getppid(), 9)\nexcept OSError as error:\n    print(error)\n"
    )
    verdict, console = run(plane, make_start(plane, image, poison))

    assert console.count("kill -1") == 2
    assert "Operation not permitted" in console
    assert (verdict["exit_code"], verdict["class"]) == (0, "ok")
    assert "x" not in verdict


@pytest.mark.parametrize("slot_class", list(SlotClass))
def test_slowness_is_ended_in_time_whatever_it_is_deaf_to(
    slot_class: SlotClass, image: str, agent: AgentProcess, plane: ControlPlane
) -> None:
    slow = (
        LIBC + "import signal\nfor n in (1, 2, 3, 6, 15):\n    signal.signal(n, signal.SIG_IGN)\n"
        "libc.kill(os.getppid(), 19)\ntime.sleep(600)\n"
    )
    start = make_start(plane, image, slow, wall_seconds=3)
    verdict, _ = run(plane, start.model_copy(update={"slot_class": slot_class}))

    assert (verdict["class"], verdict["reason"]) == ("limit", "time limit: stopped after 3 s")


TINY = "WORD = 'hello'\n"
MAIN = """
import json, os, pathlib, sys
import tiny
print("tiny says", tiny.WORD)
print("interfaces", os.listdir("/sys/class/net"))
cache = pathlib.Path(os.environ["TOUCHSTONE_CACHE"])
for deed in (lambda: (cache / "x").write_text("x"), lambda: (cache / "environments").rmdir(),
             lambda: pathlib.Path(tiny.__file__).write_text("evil")):
    try:
        deed()
        print("COULD WRITE TO THE CACHE")
    except OSError as error:
        print("cache:", error.strerror)
out = pathlib.Path(os.environ["TOUCHSTONE_OUT"])
(out / "result.json").write_text(json.dumps({"contract": 1, "validated": True}))
"""


def make_wheel() -> bytes:
    """Return a package that the image does not have."""
    memory, info = io.BytesIO(), "tiny-1.0.dist-info"
    with zipfile.ZipFile(memory, "w") as wheel:
        wheel.writestr("tiny.py", TINY)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        names = ("tiny.py", f"{info}/METADATA", f"{info}/WHEEL", f"{info}/RECORD")
        wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in names))
    return memory.getvalue()


def make_branch_start(plane: ControlPlane, image: str, requirements: str) -> Start:
    """Order the trainer of a branch, which requires something beyond the image."""
    branch = pack(
        {
            "pyproject.toml": '[project]\nname = "elnigma"\n',
            "requirements.txt": requirements,
            "src/elnigma/__init__.py": "",
            "src/elnigma/__main__.py": MAIN,
            "tiny-1.0-py3-none-any.whl": make_wheel(),
        }
    )
    start = make_start(plane, image, "")
    environment = {"TOUCHSTONE_CONTRACT": "1", "TOUCHSTONE_ELNIGMA_COMMIT": "c" * 40}
    checkout = plane.make_input("elnigma", branch, unpack=True)
    return start.model_copy(
        update={
            "inputs": (*start.inputs, checkout),
            "environment": environment,
            "prepare": Preparation(argv=("prepare",), inputs=("elnigma",)),
        }
    )


def test_a_branch_trains_with_what_was_prepared_and_without_the_network(
    image: str, agent: AgentProcess, plane: ControlPlane
) -> None:
    wanted = "tiny @ file:///in/elnigma/tiny-1.0-py3-none-any.whl\n"
    verdict, console = run(plane, make_branch_start(plane, image, wanted))

    assert verdict["reason"] is None
    assert "tiny says hello" in console
    assert "interfaces ['lo']" in console
    assert console.count("cache: Read-only file system") == 3
    assert "installing" not in console


def test_wrong_requirements_of_a_branch_are_told_by_the_preparation(
    image: str, agent: AgentProcess, plane: ControlPlane
) -> None:
    start = make_branch_start(plane, image, "--no-index\nno-such-package==1\n")
    verdict, console = run(plane, start)

    assert (verdict["exit_code"], verdict["class"]) == (2, "config")
    assert "No matching distribution found" in console or "Could not find" in console
    assert AttemptPhase.RUNNING not in plane.phases(start.ref)


def test_the_image_says_that_it_keeps_them_apart(
    image: str, agent: AgentProcess, plane: ControlPlane
) -> None:
    agent.options["images_allowed"] = [image]
    agent.write_config()

    checked = agent.run("doctor")

    assert f"ok   users in {image}: it has a runner and a trainer that are two users" in (
        checked.stdout
    )
    assert checked.returncode == 0, checked.stdout
