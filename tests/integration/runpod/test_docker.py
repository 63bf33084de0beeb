"""Pods that are Docker containers: the image itself brings its sshd, on the usual configuration."""

from __future__ import annotations

import io
import re
import secrets
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from tests.integration.runpod.conftest import SshClient, World, open_world

from fakes.runpod.docker_pods import LABEL, find_engine
from touchstone.core.pods import PodOrder
from waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.docker]

IMAGE = f"touchstone-test-pod:{secrets.token_hex(4)}"
"""Of this process alone: others that test beside it have the same engine."""
START = """#!/bin/sh
mkdir -p /root/.ssh /run/sshd /tmp
echo "$PUBLIC_KEY" > /root/.ssh/authorized_keys
ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key
# sshd overwrites its environment with its title; official images keep it here too.
env > /etc/rp_environment
exec /usr/sbin/sshd -D -e
"""
CONFIG = """Include /etc/ssh/sshd_config.d/*.conf
Port 22
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
"""
PROGRAMS = ("/usr/sbin/sshd", "/usr/bin/ssh-keygen")


def list_libraries(program: str) -> set[str]:
    """Return the libraries a program of this machine needs."""
    done = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
    return set(re.findall(r"(/\S+\.so\S*)", done.stdout))


def build_image(engine: docker.DockerClient) -> None:
    """Make a small image with this machine's own sshd; no registry is needed for it."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:

        def add_text(name: str, text: str, mode: int = 0o644) -> None:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), mode
            archive.addfile(member, io.BytesIO(text.encode()))

        files = {*PROGRAMS, "/usr/bin/busybox", "/bin/busybox"}
        for path in {p for p in files if Path(p).exists()}:
            add_real(archive, path)
        for library in set().union(*(list_libraries(program) for program in PROGRAMS)):
            add_real(archive, library)
        add_text(
            "etc/passwd", "root:*:0:0:root:/root:/bin/sh\nsshd:*:100:100::/run/sshd:/bin/false\n"
        )
        add_text("etc/group", "root:x:0:\nsshd:x:100:\n")
        add_text("etc/ssh/sshd_config", CONFIG)
        add_text("start.sh", START, 0o755)
        busybox = "/bin/busybox" if Path("/bin/busybox").exists() else "/usr/bin/busybox"
        for name in ("sh", "cat", "mkdir", "tr", "grep", "ls", "touch", "dirname", "sed", "env"):
            member = tarfile.TarInfo(f"bin/{name}")
            member.type, member.linkname = tarfile.SYMTYPE, busybox
            archive.addfile(member)
    engine.api.import_image_from_data(
        memory.getvalue(),
        repository=IMAGE.partition(":")[0],
        tag=IMAGE.partition(":")[2],
        changes=['CMD ["/start.sh"]', "ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
    )


def add_real(archive: tarfile.TarFile, path: str) -> None:
    """Add the file behind a path, under that path."""
    member = archive.gettarinfo(str(Path(path).resolve()), arcname=path.lstrip("/"))
    with Path(path).open("rb") as file:
        archive.addfile(member, file)


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    found = find_engine()
    if found is None:
        pytest.skip("no Docker Engine answers")
    build_image(found)
    try:
        yield found
    finally:
        found.images.remove(IMAGE, force=True)


@pytest.fixture(scope="module")
def shared_world(
    engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory, ssh: SshClient
) -> Iterator[World]:
    with open_world(tmp_path_factory.mktemp("runpod"), ssh, "docker") as world:
        yield world


def rent(world: World, **changes: object) -> PodOrder:
    return PodOrder(
        **{
            "name": "touchstone-test-docker",
            "image": IMAGE,
            "gpu": "NVIDIA L4",
            "env": {"PUBLIC_KEY": world.ssh.public_key},
        }
        | changes
    )


def test_the_image_itself_is_the_pod(world: World, engine: docker.DockerClient) -> None:
    pod = world.api.create_pod(rent(world))
    assert world.run(pod, "grep POD_ID /etc/rp_environment").output.endswith(pod.id)
    query = "nvidia-smi --query-gpu=name --format=csv,noheader"
    assert world.run(pod, query).output == "NVIDIA L4"
    assert world.run(pod, "ls /var/run/docker.sock").code != 0
    [container] = engine.containers.list(
        filters={"label": f"{LABEL}={pod.id}"}, ignore_removed=True
    )
    assert not container.attrs["HostConfig"]["Privileged"]
    world.api.terminate_pod(pod.id)
    wait_for(
        "the container is gone",
        lambda: (
            not engine.containers.list(
                all=True, filters={"label": f"{LABEL}={pod.id}"}, ignore_removed=True
            )
        ),
    )


def test_a_container_that_ends_is_started_again_with_its_disk(world: World) -> None:
    pod = world.api.create_pod(rent(world))
    assert world.run(pod, "touch /root/kept").code == 0
    world.admin.inject(pod.id, "run.container_restart", after=0)
    world.wait_boots(pod.id, 2)
    assert world.run(pod, "ls /root/kept").code == 0


def test_an_image_that_does_not_exist_is_told_in_the_hosts_log(world: World) -> None:
    pod = world.api.create_pod(rent(world, image="touchstone-test-none:local"))
    lines = wait_for(
        "the host's log tells it",
        lambda: [
            line.text
            for line in world.api.read_logs(pod.id, source="system")
            if "error pulling image" in line.text
        ],
    )
    assert "touchstone-test-none:local" in lines[0]
    assert world.api.get_pod(pod.id).ssh is None
