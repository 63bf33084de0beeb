"""Pods as processes: a real sshd each, in namespaces of its own where the machine allows it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from fakes.ports import find_free_port
from fakes.runpod.runtime import GPU_FILE, Launch
from fakes.runpod.store import PodRow

HERE = Path(__file__).parent
SSHD = "/usr/sbin/sshd"
UNSHARE = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"]
START_SECONDS = 120
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ProcessRuntime:
    """
    Runs each pod as a process tree.

    :param folder: Where the pods' disks are.
    :param programs: Folders whose programs every pod has on its PATH, as if they were in its image.
    :param entrypoint: The image's entry point, run beside sshd with the order's arguments; empty
        for an image that only waits for SSH. An order's own entry point brings its own sshd, if
        the pod is isolated.
    :param may_isolate: Whether to use namespaces where the machine allows it.
    """

    poll_seconds = 0.2

    def __init__(
        self,
        folder: Path,
        *,
        programs: list[Path],
        entrypoint: list[str] | None = None,
        may_isolate: bool = True,
    ) -> None:
        self._folder = folder.resolve()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._programs = [str(path.resolve()) for path in programs]
        self._entrypoint = entrypoint or []
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._read: dict[str, int] = {}
        self.is_isolated = may_isolate and can_isolate(self._folder)

    async def pull(self, pod: PodRow) -> None:
        """All images are this machine."""

    async def start(self, pod: PodRow, launch: Launch) -> int | None:
        """Start the pod's first process and wait for its sshd."""
        folder = self._folder / pod.id
        (folder / "shared").mkdir(parents=True, exist_ok=True)
        (folder / "shared" / GPU_FILE).write_text(launch.gpu)
        port = find_free_port()
        (folder / "spec.json").write_text(json.dumps(self._build_spec(pod, launch, folder, port)))
        command = [sys.executable, str(HERE / "pod_init.py"), str(folder / "spec.json")]
        if self.is_isolated:
            command = [*UNSHARE, "--", *command]
        child = self._spawn(pod, command, launch)
        self._children[pod.id] = child
        pod.runtime_handle = f"{child.pid}:{_read_start_time(child.pid)}:{port}"
        await self._wait_for_sshd(child, port)
        return port

    def _spawn(self, pod: PodRow, command: list[str], launch: Launch) -> subprocess.Popen[bytes]:
        # Not in a thread: a life that is cancelled meanwhile must find what it has started.
        with (self._folder / pod.id / "console.log").open("ab") as console:
            self._read.setdefault(pod.id, console.tell())
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd="/",
                env={"PATH": PATH, "LANG": "C.UTF-8", **launch.env},
                start_new_session=True,
            )

    def _build_spec(self, pod: PodRow, launch: Launch, folder: Path, port: int) -> dict[str, Any]:
        arguments = pod.cmd or shlex.split(pod.args)
        entrypoint = pod.entrypoint or self._entrypoint
        return {
            "folder": str(folder),
            "port": port,
            "has_key": launch.has_key,
            "disk_mib": launch.disk_mib if self.is_isolated else None,
            "is_isolated": self.is_isolated,
            "brings_sshd": self.is_isolated and bool(pod.entrypoint),
            "programs": self._programs,
            "program": [*entrypoint, *arguments] if entrypoint else arguments,
            "nvidia_smi": str(HERE / "nvidia_smi.sh"),
            "gpu_file": str(folder / "shared" / GPU_FILE),
            "sshd": SSHD,
        }

    async def _wait_for_sshd(self, child: subprocess.Popen[bytes], port: int) -> None:
        deadline = time.monotonic() + START_SECONDS
        while child.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)

    async def adopt(self, pod: PodRow) -> int | None:
        """Find the process again, if it is still the same one."""
        if not pod.runtime_handle:
            return None
        pid, started, port = pod.runtime_handle.split(":")
        return int(port) if _read_start_time(int(pid)) == started else None

    async def poll(self, pod: PodRow) -> int | None:
        """Return the exit code, -1 when somebody else's child has ended."""
        child = self._children.get(pod.id)
        if child is not None:
            return child.poll()
        return None if await self.adopt(pod) is not None else -1

    async def read_console(self, pod: PodRow) -> list[str]:
        """Return the new whole lines of the console."""
        path = self._folder / pod.id / "console.log"
        if not path.exists():
            return []
        # What an earlier emulator has read is in its logs already.
        position = self._read.setdefault(pod.id, path.stat().st_size)
        with path.open("rb") as file:
            file.seek(position)
            data = file.read(1024**2)
        whole = data[: data.rfind(b"\n") + 1]
        self._read[pod.id] = position + len(whole)
        return whole.decode(errors="replace").splitlines()

    async def set_gpu(self, pod: PodRow, gpu: str) -> None:
        """Change what nvidia-smi reads."""
        (self._folder / pod.id / "shared" / GPU_FILE).write_text(gpu)

    async def fill_disk(self, pod: PodRow) -> None:
        """Write into the pod's disk until nothing fits; an isolated pod has one of its own."""
        if not self.is_isolated or (first := self._find_first_process(pod)) is None:
            return
        command = ["nsenter", "--target", str(first), "--mount", "--root", "dd", "if=/dev/zero"]
        await asyncio.to_thread(
            subprocess.run, [*command, "of=/var/filler", "bs=64k"], capture_output=True, check=False
        )

    def _find_first_process(self, pod: PodRow) -> int | None:
        pid = (pod.runtime_handle or "0:").split(":")[0]
        children = Path(f"/proc/{pid}/task/{pid}/children")
        return int(children.read_text().split()[0]) if children.exists() else None

    async def kill(self, pod: PodRow) -> None:
        """End the process and all below it."""
        if await self.adopt(pod) is None:
            return
        pid = int((pod.runtime_handle or "").split(":")[0])
        # An isolated pod's PID 1 dies with unshare, and all with it; another cleans up on TERM.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if self.is_isolated else signal.SIGTERM)
        while True:
            child = self._children.get(pod.id)
            if child is not None:
                child.poll()
            if await self.adopt(pod) is None:
                return
            await asyncio.sleep(0.02)

    async def remove(self, pod: PodRow) -> None:
        """End the process and delete its disk."""
        await self.kill(pod)
        self._children.pop(pod.id, None)
        self._read.pop(pod.id, None)
        await asyncio.to_thread(shutil.rmtree, self._folder / pod.id, ignore_errors=True)


def can_isolate(folder: Path) -> bool:
    """Return whether this machine gives us namespaces and a copy-on-write root."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    probe = folder / "probe"
    for name in ("upper", "work", "root"):
        (probe / name).mkdir(parents=True, exist_ok=True)
    layers = f"lowerdir=/,upperdir={probe / 'upper'},workdir={probe / 'work'}"
    command = [*UNSHARE, "--", "mount", "-t", "overlay", "overlay", "-o", layers]
    done = subprocess.run([*command, str(probe / "root")], capture_output=True, check=False)
    shutil.rmtree(probe, ignore_errors=True)
    return done.returncode == 0


def _read_start_time(pid: int) -> str | None:
    """Return when a process began (clock ticks since boot); ``None`` for none or a dead one."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    after_name = text.rpartition(")")[2].split()
    return None if after_name[0] in ("Z", "X") else after_name[19]
