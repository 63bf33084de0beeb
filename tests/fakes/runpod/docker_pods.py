"""Pods as Docker containers: the ordered image itself, with what it does about sshd."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import docker
from docker.errors import DockerException, ImageNotFound, NotFound

from fakes.ports import find_free_port
from fakes.runpod.runtime import GPU_FILE, Launch, PullFailed
from fakes.runpod.store import PodRow

HERE = Path(__file__).parent
LABEL = "touchstone.fake-runpod"
START_SECONDS = 120
Result = TypeVar("Result")


def find_engine() -> docker.DockerClient | None:
    """Return a client of the local engine when it answers."""
    try:
        client = docker.from_env(timeout=60)
        client.ping()
    except (DockerException, OSError):
        return None
    return client


class DockerRuntime:
    """
    Runs each pod as a container on the machine's own network.

    A pod's sshd would listen on port 22. Here a file for ``/etc/ssh/sshd_config.d`` moves it to a
    free port of the loopback interface: the image stays as it is, if its start command uses
    sshd's usual configuration. No socket of the engine is in the container, nor privileges.

    :param engine: The Docker Engine.
    :param folder: Where small files of the pods are.
    """

    poll_seconds = 0.5

    def __init__(self, engine: docker.DockerClient, folder: Path) -> None:
        self._engine = engine
        self._folder = folder.resolve()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._read: dict[str, int] = {}

    async def pull(self, pod: PodRow) -> None:
        """Get the image unless it is there."""
        await self._do(self._pull, pod.image)

    def _pull(self, image: str) -> None:
        try:
            self._engine.images.get(image)
        except ImageNotFound:
            try:
                self._engine.images.pull(image)
            except DockerException as error:
                raise PullFailed(str(error)) from error

    async def start(self, pod: PodRow, launch: Launch) -> int | None:
        """Start the container and wait for a banner of its sshd."""
        port = find_free_port()
        folder = self._folder / pod.id
        (folder / "shared").mkdir(parents=True, exist_ok=True)
        (folder / "shared" / GPU_FILE).write_text(launch.gpu)
        (folder / "sshd.conf").write_text(f"Port {port}\nListenAddress 127.0.0.1\n")
        shutil.copyfile(HERE / "nvidia_smi.sh", folder / "nvidia-smi")
        (folder / "nvidia-smi").chmod(0o755)
        env = dict(launch.env)
        if not launch.has_key:
            env["PUBLIC_KEY"] = env["SSH_PUBLIC_KEY"] = ""
        await self._do(self._run, pod, env, folder)
        pod.runtime_handle = str(port)
        await self._wait_for_sshd(pod, port)
        return port

    def _run(self, pod: PodRow, env: dict[str, str], folder: Path) -> None:
        name = _name(pod)
        with contextlib.suppress(NotFound):
            container = self._engine.containers.get(name)
            # An automatic restart keeps the disk, but the port of its sshd is a new one.
            if container.status == "exited":
                container.start()
                return
            container.remove(force=True, v=True)
        volumes = {
            str(folder / "sshd.conf"): "/etc/ssh/sshd_config.d/pod.conf",
            str(folder / "nvidia-smi"): "/usr/bin/nvidia-smi",
            str(folder / "shared"): "/run/emulator",
        }
        options: dict[str, Any] = {}
        if pod.entrypoint:
            options["entrypoint"] = pod.entrypoint
        self._engine.containers.run(
            pod.image,
            pod.cmd or shlex.split(pod.args) or None,
            name=name,
            detach=True,
            network_mode="host",
            environment=env,
            labels={LABEL: pod.id},
            # A pod's user is root.
            user="0:0",
            volumes={source: {"bind": target, "mode": "ro"} for source, target in volumes.items()},
            **options,
        )

    async def _wait_for_sshd(self, pod: PodRow, port: int) -> None:
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            if await self.poll(pod) is not None:
                return
            await asyncio.sleep(0.1)

    async def adopt(self, pod: PodRow) -> int | None:
        """Find the container again."""
        container = await self._do(self._find, pod)
        if container is None or container.status != "running" or not pod.runtime_handle:
            return None
        return int(pod.runtime_handle)

    def _find(self, pod: PodRow) -> Any:
        try:
            return self._engine.containers.get(_name(pod))
        except NotFound:
            return None

    async def poll(self, pod: PodRow) -> int | None:
        """Return the exit code."""
        container = await self._do(self._find, pod)
        if container is None:
            return -1
        if container.status in ("created", "running", "restarting"):
            return None
        return int(container.attrs["State"]["ExitCode"])

    async def read_console(self, pod: PodRow) -> list[str]:
        """Return the new lines of the container's output."""

        def read() -> list[str]:
            container = self._find(pod)
            if container is None:
                return []
            lines: list[str] = container.logs(tail=5000).decode(errors="replace").splitlines()
            return lines

        lines = await self._do(read)
        seen = self._read.get(pod.id, 0)
        self._read[pod.id] = len(lines)
        return lines[seen:]

    async def set_gpu(self, pod: PodRow, gpu: str) -> None:
        """Change what nvidia-smi reads."""
        (self._folder / pod.id / "shared" / GPU_FILE).write_text(gpu)

    async def fill_disk(self, pod: PodRow) -> None:
        """Not possible here without quotas of the engine's storage: use process pods for it."""

    async def kill(self, pod: PodRow) -> None:
        """End the container."""

        def kill() -> None:
            with contextlib.suppress(DockerException):
                self._engine.containers.get(_name(pod)).kill()

        await self._do(kill)

    async def remove(self, pod: PodRow) -> None:
        """End the container and delete it."""

        def remove() -> None:
            with contextlib.suppress(DockerException):
                self._engine.containers.get(_name(pod)).remove(force=True, v=True)

        await self._do(remove)
        self._read.pop(pod.id, None)
        shutil.rmtree(self._folder / pod.id, ignore_errors=True)

    async def _do(self, call: Callable[..., Result], *arguments: Any) -> Result:
        """Run a blocking call to its end, also when nobody waits for it any more."""
        work = asyncio.ensure_future(asyncio.to_thread(call, *arguments))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise


def _name(pod: PodRow) -> str:
    return f"fake-runpod-{pod.id}"
