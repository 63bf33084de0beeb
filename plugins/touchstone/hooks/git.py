"""Fetches submitted content from git, and packs it the same way every time."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from touchstone_agent.protocol.errors import ConfigurationError

GIT_SECONDS = 60
"""How long one git command may take; a source that answers more slowly is unreachable."""

_FILE_FACTOR = 4
_FILE_BYTES = 64 * 1024**2
"""A repository's files on disk may be this many times, and this many bytes, larger than content."""

_SAFE_PROTOCOLS = "https:ssh"


@dataclass(frozen=True, kw_only=True)
class Content:
    """
    Packed content.

    :param archive: The ``.tar.gz``; equal files give equal bytes.
    :param commit: The git commit it came from; ``None`` for an upload.
    """

    archive: bytes
    commit: str | None

    @property
    def sha256(self) -> str:
        """Return the archive's hex digest, which names the content."""
        return hashlib.sha256(self.archive).hexdigest()


class GitSource:
    """
    Reads git repositories, as little of them as possible.

    Nothing of a repository is executed: no hooks, no submodules, no filters, no work tree.

    :param allow_local: Whether paths and ``file://`` are allowed; plain ``http://`` and ``git://``
        never are.
    :param max_bytes: Largest content after packing.
    """

    def __init__(self, *, allow_local: bool, max_bytes: int) -> None:
        self._protocols = f"{_SAFE_PROTOCOLS}:file" if allow_local else _SAFE_PROTOCOLS
        self._max_bytes = max_bytes

    def fetch(self, url: str, ref: str | None, path: str) -> Content:
        """
        Return a folder of a repository at a ref, packed.

        :param path: Folder below the root; ``.`` for the root.
        :raises ConfigurationError: If the source cannot be reached, has no such ref or no such
            folder, or is too large; the message begins with the field's name.
        """
        with tempfile.TemporaryDirectory(prefix="touchstone-git-") as folder:
            repository = Path(folder)
            commit = self._fetch(repository, url, ref, ref_field="ref", url_field="source")
            tree = f"{commit}:{'' if path == '.' else path.rstrip('/')}"
            kind = self._git(repository, "cat-file", "-t", tree)
            if kind.returncode != 0 or kind.stdout.strip() != b"tree":
                raise ConfigurationError(f"path: {commit[:12]} has no folder {path!r}")
            body = self._pack(repository, tree, field="path")
        archive = repack(body, "source", max_bytes=self._max_bytes)
        return Content(archive=archive, commit=commit)

    def fetch_all(self, url: str, ref: str, *, field: str) -> Content:
        """
        Return all of a repository at a ref, packed, but for symbolic links and submodules.

        :param field: The user's name of the ref, with which every error message begins.
        :raises ConfigurationError: If the repository cannot be reached, has no such ref, or is too
            large.
        """
        with tempfile.TemporaryDirectory(prefix="touchstone-git-") as folder:
            repository = Path(folder)
            commit = self._fetch(repository, url, ref, ref_field=field, url_field=field)
            body = self._pack(repository, commit, field=field)
        archive = repack(body, field, max_bytes=self._max_bytes, keep_links_out=True)
        return Content(archive=archive, commit=commit)

    def _pack(self, repository: Path, tree: str, *, field: str) -> bytes:
        # To a file of limited size: a few kilobytes of nested trees can unfold to anything.
        packed = repository / "packed.tar"
        tar = self._git(repository, "archive", "--format=tar", f"--output={packed}", "--", tree)
        if tar.returncode != 0:
            raise ConfigurationError(
                f"{field}: cannot pack it ({_last_line(tar.stderr)}); "
                f"there may be {self._max_bytes} bytes"
            )
        return packed.read_bytes()

    def _fetch(
        self, repository: Path, url: str, ref: str | None, *, ref_field: str, url_field: str
    ) -> str:
        self._check_protocol(url, url_field)
        self._git(repository, "init", "--quiet", "--bare")
        fetched = self._git(
            repository,
            *("fetch", "--quiet", "--depth=1", "--no-tags", "--no-recurse-submodules"),
            *("--", url, ref or "HEAD"),
            field=url_field,
        )
        if fetched.returncode != 0:
            line = _shown(_last_line(fetched.stderr))
            if "couldn't find remote ref" in line or "not our ref" in line:
                raise ConfigurationError(f"{ref_field}: {_shown(url)} has no ref {ref or 'HEAD'!r}")
            raise ConfigurationError(f"{url_field}: cannot read {_shown(url)}: {line}")
        commit = self._git(repository, "rev-parse", "--verify", "FETCH_HEAD^{commit}")
        if commit.returncode != 0:
            raise ConfigurationError(f"{ref_field}: {ref!r} of {_shown(url)} is not a commit")
        return commit.stdout.decode().strip()

    def _check_protocol(self, url: str, field: str) -> None:
        is_remote = url.startswith(("https://", "ssh://")) or (
            "://" not in url and not url.startswith(("/", ".")) and ":" in url
        )
        if not is_remote and "file" not in self._protocols.split(":"):
            raise ConfigurationError(
                f"{field}: {_shown(url)!r} is not allowed here; "
                "use https:// or ssh:// (git@host:repo)"
            )

    def _git(
        self, repository: Path, *arguments: str, field: str = "source"
    ) -> subprocess.CompletedProcess[bytes]:
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": os.environ.get("HOME", str(repository)),
            "LC_ALL": "C",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ALLOW_PROTOCOL": self._protocols,
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=15",
        } | {
            # How the host trusts servers and reaches them is the host's own matter.
            key: value
            for key, value in os.environ.items()
            if key in {"GIT_SSL_CAINFO", "SSL_CERT_FILE", "HTTPS_PROXY", "https_proxy", "NO_PROXY"}
        }
        # The repository may belong to another user when it is a path of this host.
        command = ["git", "-c", "safe.directory=*", "-C", str(repository), *arguments]
        try:
            return subprocess.run(
                ["prlimit", f"--fsize={_FILE_FACTOR * self._max_bytes + _FILE_BYTES}", *command],
                env=environment,
                capture_output=True,
                timeout=GIT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ConfigurationError(
                f"{field}: git {arguments[0]} did not end within {GIT_SECONDS} s"
            ) from error


def repack(
    tar: bytes, field: str, *, path: str = ".", max_bytes: int, keep_links_out: bool = False
) -> bytes:
    """
    Return regular files of a tar as a ``.tar.gz`` whose bytes depend on nothing but them.

    :param tar: The tar, plain or compressed.
    :param field: The user's name of what is packed, for the error message.
    :param path: Take only what is below this folder, which becomes the root.
    :param max_bytes: Largest sum of the files, and largest result.
    :param keep_links_out: Leave links out, rather than refuse them.
    :raises ConfigurationError: If it is not a tar, has a member that could escape, or is too
        large or empty.
    """
    prefix = "" if path == "." else path.strip("/") + "/"
    files: dict[str, tuple[bytes, int]] = {}
    total = 0
    try:
        with tarfile.open(fileobj=io.BytesIO(tar)) as source:
            for member in source:
                name = member.name.removeprefix("./")
                is_link = member.issym() or member.islnk()
                if member.isdir() or not name.startswith(prefix) or (is_link and keep_links_out):
                    continue
                if not member.isfile() or name.startswith("/") or ".." in Path(name).parts:
                    raise ConfigurationError(f"{field}: {member.name!r} is not a plain file inside")
                total += member.size
                if total > max_bytes:
                    raise ConfigurationError(f"{field}: more than {max_bytes} bytes of files")
                stream = source.extractfile(member)
                body = stream.read() if stream else b""
                files[name.removeprefix(prefix)] = (body, 0o755 if member.mode & 0o100 else 0o644)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ConfigurationError(f"{field}: not a readable tar archive: {error}") from error
    if not files:
        raise ConfigurationError(f"{'path' if prefix else field}: no files in {path!r}")
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as compressed,
        tarfile.open(fileobj=compressed, mode="w", format=tarfile.PAX_FORMAT) as target,
    ):
        for name in sorted(files):
            body, mode = files[name]
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(body), mode
            target.addfile(info, io.BytesIO(body))
    return packed.getvalue()


def _shown(url: str) -> str:
    """Return a URL as anybody may read it: an installation's own may hold a token."""
    return re.sub(r"://[^/@]*@", "://", url)


def _last_line(stderr: bytes) -> str:
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("fatal: ")[:300] if lines else "git gave no reason"
