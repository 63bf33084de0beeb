"""Debian's registry of images as a process of its own, and images made for it without an engine."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import socket
import subprocess
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest

from fakes.images import APPLETS, RUNNER
from fakes.ports import find_free_port
from waiting import find_exit, wait_for

LOGIN = "puller"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "amd64")
INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def build_connection(**fields: Any) -> str:
    """Return an Airflow connection for a registry, as an environment variable holds it."""
    return json.dumps({"conn_type": "docker", "host": "127.0.0.1", **fields})


class Registry:
    """
    ``docker-registry`` on a free port of the loopback interface.

    :param folder: Where it keeps everything.
    :param password: What :data:`LOGIN` has to show; ``None`` for a registry open to everybody.
    """

    def __init__(self, folder: Path, *, password: str | None = None) -> None:
        program = shutil.which("docker-registry")
        if program is None:
            pytest.skip("NO docker-registry (apt install docker-registry): registries NOT tested")
        self._program = program
        self._folder = folder
        self._port = find_free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.password = password

    @property
    def host(self) -> str:
        """Return its host and port, as they stand in an image's name."""
        return f"127.0.0.1:{self._port}"

    @property
    def port(self) -> int:
        """Return where it listens."""
        return self._port

    def start(self) -> Registry:
        """Start it and wait until it answers."""
        settings: dict[str, Any] = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {"filesystem": {"rootdirectory": str(self._folder / "images")}},
            "http": {"addr": self.host},
        }
        if self.password is not None:
            users = self._folder / "users"
            hashed = bcrypt.hashpw(self.password.encode(), bcrypt.gensalt(4)).decode()
            users.write_text(f"{LOGIN}:{hashed}\n")
            settings["auth"] = {"htpasswd": {"realm": "test", "path": str(users)}}
        config = self._folder / "registry.json"
        config.write_text(json.dumps(settings))
        with (self._folder / "registry.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._program, "serve", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
            )
        wait_for("the registry answers", self._is_answering, unless=self._find_end)
        return self

    def stop(self) -> None:
        """End it; what it has is kept."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait()

    def connection(self, **changes: Any) -> str:
        """Return its Airflow connection, as an environment variable holds it."""
        shown = {"login": LOGIN, "password": self.password} if self.password else {}
        return build_connection(**({"port": self._port, **shown} | changes))

    def push(
        self,
        repository: str,
        tag: str,
        layers: list[bytes],
        *,
        mark: str = "",
        is_index: bool = False,
    ) -> str:
        """
        Store an image, and return its digest.

        :param layers: Archives of its files, the lowest first.
        :param mark: What tells it from another one of the same layers.
        :param is_index: Whether its tag names a list of one image for each kind of machine.
        """
        config = {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "config": {
                "Env": ["PATH=/bin"],
                "Entrypoint": ["/bin/sh", "/runner.sh"],
                "Labels": {"mark": mark},
            },
            "rootfs": {
                "type": "layers",
                "diff_ids": [_digest(layer) for layer in layers],
            },
            "history": [{"created_by": "test"} for _ in layers],
        }
        text = json.dumps(config).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                **self._put_blob(repository, text),
            },
            "layers": [
                {
                    "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                    **self._put_blob(repository, gzip.compress(layer, 1, mtime=0)),
                }
                for layer in layers
            ],
        }
        text = json.dumps(manifest).encode()
        if not is_index:
            return self._put_manifest(repository, tag, text, MANIFEST)
        digest = self._put_manifest(repository, _digest(text), text, MANIFEST)
        entry = {"mediaType": MANIFEST, "size": len(text), "digest": digest}
        listed = {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [{**entry, "platform": {"architecture": ARCHITECTURE, "os": "linux"}}],
        }
        return self._put_manifest(repository, tag, json.dumps(listed).encode(), INDEX)

    def _put_manifest(self, repository: str, name: str, text: bytes, kind: str) -> str:
        with self._client() as client:
            answer = client.put(
                f"/v2/{repository}/manifests/{name}",
                content=text,
                headers={"Content-Type": kind},
            )
            answer.raise_for_status()
        return str(answer.headers["Docker-Content-Digest"])

    def _put_blob(self, repository: str, data: bytes) -> dict[str, Any]:
        digest = _digest(data)
        with self._client() as client:
            if client.head(f"/v2/{repository}/blobs/{digest}").status_code != 200:
                begun = client.post(f"/v2/{repository}/blobs/uploads/")
                begun.raise_for_status()
                put = client.put(
                    httpx.URL(begun.headers["Location"]).copy_merge_params({"digest": digest}),
                    content=data,
                )
                put.raise_for_status()
        return {"size": len(data), "digest": digest}

    def _client(self) -> httpx.Client:
        auth = (LOGIN, self.password) if self.password else None
        return httpx.Client(base_url=f"http://{self.host}", auth=auth, trust_env=False, timeout=60)

    def _is_answering(self) -> bool:
        try:
            return httpx.get(f"http://{self.host}/v2/", trust_env=False).status_code in (200, 401)
        except httpx.HTTPError:
            return False

    def _find_end(self) -> str | None:
        assert self._process is not None
        log = (self._folder / "registry.log").read_text(errors="replace")
        return (end := find_exit(self._process)) and f"{end}: {log[-2000:]}"


def build_runner_layer() -> bytes:
    """Return the files of an image that runs the test runner."""
    busybox = Path("/bin/busybox")
    if not busybox.exists():
        pytest.skip("NO STATIC BUSYBOX (apt install busybox-static): registries NOT tested")

    def fill(tar: tarfile.TarFile) -> None:
        tar.add(busybox, "bin/busybox", filter=_at_no_time)
        tar.add(RUNNER, "runner.sh", filter=_at_no_time)
        for name in ("sys", "proc", "tmp", "in", "out"):
            member = tarfile.TarInfo(name)
            member.type, member.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(member)
        for applet in APPLETS.split():
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)

    return _build_tar(fill)


def build_random_layer(name: str, size: int) -> bytes:
    """Return a layer of one file, which does not get smaller by compression."""

    def fill(tar: tarfile.TarFile) -> None:
        member = tarfile.TarInfo(name)
        member.size = size
        tar.addfile(member, io.BytesIO(os.urandom(size)))

    return _build_tar(fill)


def _build_tar(fill: Any) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        fill(tar)
    return raw.getvalue()


def _at_no_time(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mtime = member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Wire:
    """
    A connection to a registry that somebody can cut: a proxy on the loopback interface.

    :param port: Where the registry listens.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", find_free_port()))
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.most_bytes: int | None = None
        """After so many bytes of the registry's it is cut; ``None`` for never."""
        self.passed = 0
        self._open = 0
        self._lock = threading.Lock()
        self.cuts = 0
        self.pause = 0.0
        """Seconds before each block of the registry's is let through."""
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def host(self) -> str:
        """Return what stands in the name of an image behind it."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def is_busy(self) -> bool:
        """Tell whether anybody is connected."""
        return self._open > 0

    def close(self) -> None:
        """Cut it for good."""
        self._listener.close()
        self._cut()

    def _cut(self) -> None:
        self.cuts += 1
        for pair in self._pairs:
            for end in pair:
                # Not closed: another thread may be reading there.
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._pairs.append((near, far))
            for source, target, counts in ((near, far, False), (far, near, True)):
                with self._lock:
                    self._open += 1
                threading.Thread(
                    target=self._copy, args=(source, target, counts), daemon=True
                ).start()

    def _copy(self, source: socket.socket, target: socket.socket, counts: bool) -> None:
        try:
            while block := source.recv(65536):
                if counts:
                    self.passed += len(block)
                    time.sleep(self.pause)
                    if self.most_bytes is not None and self.passed > self.most_bytes:
                        self._cut()
                        return
                target.sendall(block)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return
        finally:
            with self._lock:
                self._open -= 1
