"""Attempts as Docker containers."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The SDK imports its SSH transport when paramiko is there, at 11 MB of memory; the agent only
# ever speaks to the local socket.
_paramiko = sys.modules.get("paramiko", False)
if _paramiko is False:
    sys.modules["paramiko"] = None  # type: ignore[assignment]
import docker  # noqa: E402
from docker.errors import (  # noqa: E402
    APIError,
    DockerException,
    ImageNotFound,
    NotFound,
    StreamParseError,
)
from docker.types import DeviceRequest, LogConfig  # noqa: E402

if _paramiko is False:
    del sys.modules["paramiko"]

import requests  # noqa: E402
import urllib3  # noqa: E402

from touchstone_agent.adapters.pulled import PulledImages  # noqa: E402
from touchstone_agent.adapters.usage import is_at_home  # noqa: E402
from touchstone_agent.core.ports import (  # noqa: E402
    EngineFacts,
    Exit,
    HostLacks,
    LaunchSpec,
    RegistryAway,
    show_nothing,
    tell_nobody,
)
from touchstone_agent.core.pulls import PullProgress, classify_pull_problem  # noqa: E402
from touchstone_agent.logs import Log  # noqa: E402
from touchstone_agent.protocol.errors import PermanentError, TransientError  # noqa: E402
from touchstone_agent.protocol.logins import RegistryLogin  # noqa: E402
from touchstone_agent.protocol.messages import Refusal  # noqa: E402
from touchstone_agent.protocol.names import build_prefix  # noqa: E402
from touchstone_agent.protocol.references import find_pinned, name_by_content  # noqa: E402
from touchstone_agent.protocol.words import build_line  # noqa: E402
from touchstone_agent.settings import DockerSettings  # noqa: E402

IN, OUT, CACHE = "/in", "/out", "/cache"
TMP = "/tmp"  # noqa: S108 - inside a container it is that attempt's alone
NOBODY = 65534
RUNNER_USER = "TOUCHSTONE_RUNNER_USER=root"
"""In the environment of an image whose entry point, started as root, starts the trainer as another
user. Every other image runs as one user without any right."""

TRAINER_USER = "TOUCHSTONE_TRAINER_USER"
RUNNER_CAPABILITIES = ["SETUID", "SETGID", "KILL"]
"""What that takes: to become the trainer's user, and to signal it."""

DEVICES = "NVIDIA_VISIBLE_DEVICES"
"""By which the NVIDIA runtime hands devices over; it reads the image's own where it is not set."""

ENGINE_TIMEOUT_SECONDS = 60
LOOK_SECONDS = 1.0
"""Between two looks at the disk that an image is pulled to."""
LOG_TAIL_LINES = 200
LOG_TAIL_BYTES = 64 * 1024
_NO_GPU = ("could not select device driver", "nvidia-container-cli", "unresolvable CDI devices")
"""What the engine says when it cannot hand over a GPU, whatever was detected at the start."""

log = Log("docker")


class DockerRuntime:
    """
    Runs each attempt in one container that has nothing but its input and output folders.

    :param settings: How to reach the engine.
    :param env: Environment; containers of another one are not seen.
    :param server: This server; containers with another label are not seen.
    :param min_free_bytes: Free disk below which a pull is given up.
    :param pulled: The images that were pulled here; ``None`` to keep no count of them.
    """

    name = "docker"

    def __init__(
        self,
        settings: DockerSettings,
        *,
        env: str,
        server: str,
        min_free_bytes: int = 0,
        pulled: PulledImages | None = None,
    ) -> None:
        self._settings = settings
        self._min_free_bytes = min_free_bytes
        self._pulled = pulled
        self._images_dir: Path | None = None
        self._env = env
        self._server = server
        self._lock = threading.Lock()
        self._connected: Any = None
        self._main_pids: dict[str, tuple[int, Path]] = {}
        shared = self.find_shared_user()
        if shared is not None:
            log.warning("runtime.shared_user", note=f"runner and trainer are one user: {shared}")

    def check(self) -> str:
        """Return the engine's version and what it can hand containers to."""
        with _translated("engine"):
            facts = self._client().info()
        runtimes = ", ".join(sorted(facts.get("Runtimes") or {}))
        return f"Docker Engine {facts['ServerVersion']}, runtimes {runtimes}"

    def read_engine(self) -> EngineFacts | None:
        """Return its storage driver, root folder, runtimes, and whether containers outlive it."""
        with _translated("engine"):
            facts = self._client().info()
        return EngineFacts(
            storage_driver=str(facts.get("Driver") or "")[:100],
            root=Path(str(facts.get("DockerRootDir") or "/")),
            has_live_restore=facts.get("LiveRestoreEnabled") is True,
            runtimes=tuple(sorted(str(name)[:100] for name in facts.get("Runtimes") or ()))[:100],
        )

    def count_cpus(self) -> int:
        """Return how many CPUs the engine can give to a container."""
        with _translated("engine"):
            return int(self._client().info()["NCPU"])

    def resolve_image(
        self,
        image: str,
        *,
        is_cancelled: Callable[[], bool],
        find_login: Callable[[], RegistryLogin | None] = show_nothing,
        tell: Callable[[float, str], None] = tell_nobody,
    ) -> str:
        """Return the digest of an image, pulled first if that is allowed and needed."""
        with _translated(f"image {image}"):
            is_pinned = find_pinned(image) is not None
            if self._pulled is not None and is_pinned:
                # Before it is looked for: what is needed now is not removed meanwhile.
                self._pulled.touch(name_by_content(image))
            found = self._find_image(image)
            if found is None and self._settings.pull:
                login = find_login() if is_pinned else None
                self._pull(image, login, is_cancelled, tell)
                found = self._find_image(image)
                if found is not None and is_pinned and self._pulled is not None:
                    self._pulled.add(name_by_content(image))
        if found is None:
            raise HostLacks(
                f"image {image} is not on this server; build or pull it there", Refusal.IMAGE
            )
        return found

    def sweep_images(self, in_use: Collection[str]) -> None:
        """Remove the oldest images that were pulled here, where they take too much."""
        if self._pulled is not None:
            with _translated("images"):
                self._pulled.sweep(
                    in_use=set(map(name_by_content, in_use)),
                    measure=self._measure_image,
                    remove=self._remove_image,
                )

    def _measure_image(self, name: str) -> int | None:
        try:
            return int(self._client().inspect_image(name).get("Size") or 0)
        except ImageNotFound:
            return None

    def _remove_image(self, name: str) -> bool:
        try:
            # Never by force: a container that has it may be anybody's.
            self._client().remove_image(name)
        except ImageNotFound:
            return True
        except APIError as error:
            if error.status_code != 409:
                raise
            return False
        return True

    def read_image_labels(self, image: str) -> Mapping[str, str]:
        """Return the labels of an image that is on this machine."""
        with _translated(f"image {image}"):
            config = self._client().inspect_image(name_by_content(image))["Config"] or {}
        return {str(name): str(value) for name, value in (config.get("Labels") or {}).items()}

    def find_shared_user(self, image: str | None = None) -> str | None:
        """Look whether this agent can let them be two users, and the image makes use of it."""
        if os.getuid() != 0:
            return "this agent is not root, so everything in a container is its user"
        if image is None:
            return None
        with _translated(f"image {image}"):
            is_apart = self._separates_users(image)
        return None if is_apart else f"the image does not set {RUNNER_USER}"

    def launch(self, spec: LaunchSpec) -> None:
        """Create and start the container, or adopt the one that has its name."""
        with _translated(spec.name):
            try:
                self._create(spec)
            except APIError as error:
                if error.status_code != 409:
                    raise
                log.info("container.adopted", container=spec.name)
            state = self._find_state(spec.name)
            if state is not None and state["Status"] == "created":
                self._start(spec.name)

    def exists(self, name: str) -> bool:
        """Tell whether there is a container of that name that was started."""
        with _translated(name):
            state = self._find_state(name)
        return state is not None and state["Status"] != "created"

    def wait(self, name: str) -> Exit | None:
        """Block until the container has ended."""
        with _translated(name):
            client = self._client()
            while True:
                try:
                    client.wait(name, timeout=None)
                except NotFound:
                    return None
                state = self._find_state(name)
                if state is None:
                    return None
                if state["Status"] in ("exited", "dead"):
                    return Exit(exit_code=state["ExitCode"], oom_killed=bool(state["OOMKilled"]))

    def stop(self, name: str, *, grace_seconds: float) -> None:
        """Send SIGTERM, and SIGKILL after the grace."""
        with _translated(name):
            try:
                self._client().stop(name, timeout=int(grace_seconds))
            except NotFound:
                return

    def kill(self, name: str) -> None:
        """Send SIGKILL to the first process, with which all others end; the engine may be busy."""
        if name in self._main_pids and self._kill_directly(*self._main_pids[name]):
            return
        with _translated(name):
            try:
                self._client().kill(name)
            except APIError as error:
                if error.status_code not in (404, 409):  # gone, or ended by itself
                    raise

    def find_main_pid(self, name: str, out: Path) -> int | None:
        """Ask the engine once; ``None`` also where its process ids are another machine's."""
        if os.getuid() != 0:
            return None
        if name not in self._main_pids:
            with _translated(name):
                state = self._find_state(name)
            if not state or not state.get("Pid"):
                return None
            self._main_pids[name] = (int(state["Pid"]), out)
        pid, _ = self._main_pids[name]
        return pid if is_at_home(pid, out, OUT) else None

    def _kill_directly(self, pid: int, out: Path) -> bool:
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            # The handle stays that of this process, even if another gets its number later.
            if not is_at_home(pid, out, OUT):
                return False
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        except OSError:
            return False
        finally:
            os.close(handle)
        return True

    def read_output(self, name: str) -> bytes:
        """Return the tail of the container's own log."""
        with _translated(name):
            try:
                blocks = self._client().logs(
                    name, stdout=True, stderr=True, tail=LOG_TAIL_LINES, stream=True, follow=False
                )
                tail = b""
                # Lines are as long as their writer liked.
                for block in blocks:
                    tail = (tail + block)[-LOG_TAIL_BYTES:]
            except NotFound:
                return b""
        return tail

    def remove(self, name: str) -> None:
        """Remove the container by force, and look that it is gone."""
        self._main_pids.pop(name, None)
        with _translated(name):
            try:
                self._client().remove_container(name, force=True, v=True)
            except NotFound:
                return
            except APIError as error:
                if error.status_code != 409:  # a removal is under way already
                    raise
            if self._find_state(name) is not None:
                raise TransientError(f"container {name} is still being removed", retry_after=0.5)

    def list_labels(self) -> Mapping[str, Mapping[str, str]]:
        """Return the labels of each container of this environment and server."""
        labels = [f"touchstone.env={self._env}", f"touchstone.server={self._server}"]
        with _translated("containers"):
            found = self._client().containers(all=True, filters={"label": labels})
        prefix = build_prefix(self._env)
        return {
            name: dict(item["Labels"])
            for item in found
            for name in (str(item["Names"][0]).lstrip("/"),)
            if name.startswith(prefix)
        }

    def _client(self) -> Any:
        """Connect on first use, so that an agent starts before its engine does."""
        with self._lock:
            if self._connected is None:
                self._connected = docker.APIClient(
                    base_url=self._settings.url, version="auto", timeout=ENGINE_TIMEOUT_SECONDS
                )
            return self._connected

    def _find_state(self, name: str) -> dict[str, Any] | None:
        try:
            state: dict[str, Any] = self._client().inspect_container(name)["State"]
        except NotFound:
            return None
        return state

    def _find_image(self, image: str) -> str | None:
        name = name_by_content(image)
        try:
            found = self._client().inspect_image(name)
        except ImageNotFound:
            return None
        digests = found.get("RepoDigests") or ()
        if "@" in name:
            return name
        return str(digests[0] if digests else found["Id"])

    def _separates_users(self, image: str) -> bool:
        config = self._client().inspect_image(name_by_content(image))["Config"] or {}
        return RUNNER_USER in (config.get("Env") or ())

    def _pull(
        self,
        image: str,
        login: RegistryLogin | None,
        is_cancelled: Callable[[], bool],
        tell: Callable[[float, str], None],
    ) -> None:
        name = name_by_content(image)
        has_tag = "@" in name or ":" in name.rsplit("/", 1)[-1]
        log.info("image.pull", image=image)
        pull_progress, looked_at = PullProgress(), 0.0
        # For this pull alone: the engine keeps no login, and neither does its client.
        shown = {"username": login.login, "password": login.password} if login else None
        try:
            # Without a tag the engine would pull every tag there is.
            lines = self._client().pull(
                name if has_tag else f"{name}:latest", stream=True, decode=True, auth_config=shown
            )
            for line in lines:
                if is_cancelled():
                    raise TransientError(f"pull of {image} cancelled")
                if "error" in line:
                    self._tell_pull_problem(image, str(line["error"]))
                    return
                pull_progress.take(line)
                if (now := time.monotonic()) >= looked_at + LOOK_SECONDS:
                    looked_at = now
                    self._check_space(image, pull_progress)
                    tell(pull_progress.percent, pull_progress.text)
        except APIError as error:
            self._tell_pull_problem(image, _explain(error))
        except (urllib3.exceptions.HTTPError, StreamParseError) as error:
            # A stream that breaks off is none of the client's own errors.
            raise RegistryAway(
                f"image {image}: the engine stopped telling of its pull: {type(error).__name__}"
            ) from error

    def _tell_pull_problem(self, image: str, problem: str) -> None:
        """
        Raise what a failed pull means; of a name without content it only means that it is not here.

        :raises HostLacks: If it will not be had on this server.
        :raises RegistryAway: If its registry may answer later.
        """
        said = build_line(problem, 300)
        log.warning("image.pull_failed", image=image, problem=said)
        if not find_pinned(image):
            return
        meaning = classify_pull_problem(said)
        if meaning is None:
            raise RegistryAway(f"image {image} cannot be pulled now: {said}")
        why, refusal = meaning
        raise HostLacks(f"image {image}: {why}: {said}", refusal)

    def _check_space(self, image: str, pull_progress: PullProgress) -> None:
        """Stop before the disk is full, on which everything else lives as well."""
        free = self._find_free_bytes()
        wanted = pull_progress.missing_bytes + self._min_free_bytes
        if free is not None and free < wanted:
            raise HostLacks(
                f"disk: {free // 1024**2} MiB free for images, {wanted // 1024**2} MiB wanted to "
                f"pull {image}",
                Refusal.DISK,
            )

    def _find_free_bytes(self) -> int | None:
        """Return what is free where the engine keeps images; ``None`` if that is not here."""
        if self._images_dir is None:
            told = self._client().info().get("DockerRootDir")
            self._images_dir = Path(str(told or "/nowhere"))
        try:
            return shutil.disk_usage(self._images_dir).free
        except OSError:
            return None

    def _create(self, spec: LaunchSpec) -> None:
        client = self._client()
        uid, gid = os.getuid(), os.getgid()
        is_apart = uid == 0 and not spec.network and self._separates_users(spec.image)
        if is_apart:
            # Everybody may add to it, and what is the runner's is nobody else's to touch.
            os.chown(spec.folder / "out", 0, 0)
            (spec.folder / "out").chmod(0o1777)
        elif uid == 0:
            uid = gid = NOBODY
            for folder in (spec.folder / "out", spec.cache if spec.network else None):
                if folder is not None:
                    os.chown(folder, uid, gid)
        client.create_container(
            image=name_by_content(spec.image),
            name=spec.name,
            command=[a.replace("{in}", IN).replace("{out}", OUT) for a in spec.argv],
            user=f"{uid}:{gid}",
            labels=dict(spec.labels),
            environment={
                **self._build_environment(spec),
                TRAINER_USER: f"{NOBODY}:{NOBODY}" if is_apart else "",
            },
            host_config=client.create_host_config(
                **self._build_host_config(spec),
                cap_add=RUNNER_CAPABILITIES if is_apart else [],
            ),
        )

    def _build_environment(self, spec: LaunchSpec) -> dict[str, str]:
        return {
            **spec.environment,
            "TOUCHSTONE_IN": IN,
            "TOUCHSTONE_OUT": OUT,
            "TOUCHSTONE_PROGRESS_FILE": f"{OUT}/progress.jsonl",
            "HOME": TMP,
            **({"TOUCHSTONE_CACHE": CACHE} if spec.cache else {}),
            # Images for CUDA ask for all, and get them where NVIDIA's runtime is the default one.
            DEVICES: ",".join(spec.gpu_ids) or "void",
        }

    def _build_host_config(self, spec: LaunchSpec) -> dict[str, Any]:
        def bind(folder: Path, target: str, mode: str) -> str:
            return f"{folder}:{target}:{mode}"

        limits = spec.limits
        binds = [bind(spec.folder / "in", IN, "ro"), bind(spec.folder / "out", OUT, "rw")]
        if spec.cache is not None:
            binds.append(bind(spec.cache, CACHE, "rw" if spec.network else "ro"))
        tmp_mib = min(self._settings.tmp_mib, max(16, limits.memory_mib // 2))
        return {
            "binds": binds,
            "init": True,
            "network_mode": self._settings.network if spec.network else "none",
            "read_only": True,
            "tmpfs": {TMP: f"rw,exec,nosuid,nodev,mode=1777,size={tmp_mib}m"},
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "mem_limit": f"{limits.memory_mib}m",
            "memswap_limit": f"{limits.memory_mib}m",
            "pids_limit": limits.pids,
            "nano_cpus": int(limits.cpus * 1e9),
            "log_config": LogConfig(
                type=LogConfig.types.JSON, config={"max-size": "1m", "max-file": "2"}
            ),
            # Never auto_remove: a container that ended while no agent ran must still be there.
            "auto_remove": False,
            "device_requests": [
                DeviceRequest(device_ids=list(spec.gpu_ids), capabilities=[["gpu"]])
            ]
            if spec.gpu_ids
            else None,
        }

    def _start(self, name: str) -> None:
        try:
            self._client().start(name)
        except APIError as error:
            # The engine sometimes answers with an error and has started it all the same.
            state = self._find_state(name)
            if state is not None and not str(state["StartedAt"]).startswith("0001-"):
                log.warning("container.started_with_error", container=name)
                return
            self._client().remove_container(name, force=True, v=True)
            reason = f"container {name} could not be started: {_explain(error)}"
            if any(words in reason for words in _NO_GPU):
                raise HostLacks(reason, Refusal.GPU) from error
            raise PermanentError(reason) from error


def _explain(error: APIError) -> str:
    return str(error.explanation or error).strip().replace("\n", " ")[:500]


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        raise PermanentError(f"{what}: {_explain(error)}") from error
    except APIError as error:
        if error.status_code is not None and 400 <= error.status_code < 500:
            raise PermanentError(f"{what}: {_explain(error)}") from error
        raise TransientError(f"{what}: {_explain(error)}") from error
    except (DockerException, requests.RequestException, OSError) as error:
        raise TransientError(
            f"{what}: the engine does not answer: {type(error).__name__}"
        ) from error
