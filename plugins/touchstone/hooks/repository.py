"""One git repository, read by git in a process with limits, and packed the same way every time."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shlex
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Final

from touchstone.confined.archives import Names, PackedFile, write_archive
from touchstone.confined.running import AskedTooMuch, Bounds, Done, TookTooLong, run_confined
from touchstone.core.refs import (
    HEADS,
    TAGS,
    RefListing,
    choose_ref,
    is_full_id,
    may_be_short_id,
    parse_listing,
)
from touchstone.core.remotes import Remote
from touchstone_agent.adapters.archives import MAX_MEMBERS, UnsafeArchive, check_name, show_name
from touchstone_agent.protocol.errors import ConfigurationError

GIT_SECONDS: Final = 60
"""How long one git command may take; a source that answers more slowly is unreachable."""

LISTING_SECONDS: Final = 15
"""The same where somebody waits for the answer, and nothing is fetched."""

MAX_REMARKS: Final = 10

_MEMORY_BYTES = 4 * 1024**3

_FILE_FACTOR = 4

_FILE_BYTES = 64 * 1024**2
"""A repository's files on disk may be this many times, and this many bytes, larger than content."""

_LISTING_BYTES = MAX_MEMBERS * 1200

_REFS_BYTES = 8 * 1024**2
"""Some eighty thousand branches and tags; who has more types the name."""

_LFS_BYTES = 1024

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"

_UNREADABLE = (
    "cannot be read within {seconds} s: there is no such repository, this installation may "
    "not read it, or its host does not answer; mend the URL, or ask an admin"
)
"""One line for whatever happens on the way: another one for each would map somebody's network."""

_CAUSES = (
    ("Host key verification failed", "its host shows a key that is not known here; ask an admin to "
     "add it to known_hosts of the installation's git connection"),
    ("Permission denied", "its host refuses this installation's key; ask an admin to give it "
     "access, or to set TOUCHSTONE_GIT_CONN_ID"),
    ("Could not resolve host", "its host has no address; mend the name in the URL"),
    ("Connection refused", "its host refuses the connection; mend host and port in the URL"),
    ("Failed to connect", "its host cannot be connected to; mend host and port in the URL"),
    ("timed out", "its host does not answer; mend the URL, or try later"),
    ("Authentication failed", "its host wants to know who asks; ask an admin to set "
     "TOUCHSTONE_GIT_CONN_ID"),
    ("could not read Username", "there is no such repository, or it is not for everybody; mend the "
     "URL, or ask an admin to set TOUCHSTONE_GIT_CONN_ID"),
    ("not appear to be a git repository", "there is no git repository; mend the URL"),
    ("does not exist", "there is no such repository; mend the URL"),
    ("not found", "there is no such repository, or it is not for everybody; mend the URL"),
)  # fmt: skip
"""By what git or ssh says: the message for a host that an admin has named, and for paths."""

_WITHOUT = ("--quiet", "--no-tags", "--no-recurse-submodules")

_SHALLOW = (*_WITHOUT, "--depth=1")

_EVERYTHING = ("+refs/heads/*:refs/all/heads/*", "+refs/tags/*:refs/all/tags/*")

_MOST_LARGEST = 3
"""Files that are named where there is too much."""

_MOST_CANDIDATES = 20
"""Objects of one beginning that are looked at; more are for somebody with more digits."""

_PAGE = re.compile(r"(https://[^/]+/[^/]+/.+?)/(?:-/)?(?:tree|blob|src)/.+")
"""Where a browser is when somebody looks at a folder of a branch."""

_TOO_LARGE = f"signal {signal.SIGXFSZ.value}"
"""In what git says of a helper that was ended for the size of a file."""

_HOST_VARIABLES = frozenset(
    {
        *("GIT_SSL_CAINFO", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        *("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"),
    }
)
"""How the host trusts servers and reaches them is the host's own matter."""

_CONFIG = """\
[safe]
    directory = *
[core]
    hooksPath = /dev/null
    attributesFile = /dev/null
    fsmonitor = false
    packedGitWindowSize = 32m
[pack]
    threads = 1
[gc]
    auto = 0
[maintenance]
    auto = false
[http]
    followRedirects = false
[transfer]
    credentialsInUrl = die
[submodule]
    recurse = false
"""
"""All that git knows: a repository on this machine may be another user's, and nothing that is
configured for somebody else is run."""

_HELPER = """\
[credential "https://{address}"]
    helper = "!f() {{ test \\"$1\\" = get && printf 'username=%s\\\\npassword=%s\\\\n' \
\\"$TOUCHSTONE_GIT_LOGIN\\" \\"$TOUCHSTONE_GIT_PASSWORD\\"; }}; f"
"""


@dataclass(frozen=True, kw_only=True)
class Content:
    """
    Packed content.

    :param archive: The ``.tar.gz``; equal files give equal bytes.
    :param commit: The git commit it came from; ``None`` for an upload.
    :param remarks: What is not in it, although one might think so; a line each.
    """

    archive: bytes
    commit: str | None
    remarks: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """Return the archive's hex digest, which names the content."""
        return hashlib.sha256(self.archive).hexdigest()


@dataclass(frozen=True, kw_only=True)
class GitCredentials:
    """
    What one host is shown, and no other.

    :param address: The host, with its port if that is not the protocol's own.
    :param login: User name for https.
    :param password: Password or token for https.
    :param private_key: Private key for ssh, as a key file holds it.
    :param known_hosts: Keys of hosts that ssh trusts, as a ``known_hosts`` file holds them.
    """

    address: str
    login: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    private_key: str = field(default="", repr=False)
    known_hosts: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A file of a tree."""

    name: str
    object_id: str
    size: int
    is_executable: bool


def explain_missing(ref: str, field: str) -> ConfigurationError:
    """Return what to tell of a ref that a repository does not have."""
    short = ref.removeprefix("origin/")
    advice = "push it, or name another" if short == ref else f"name it {show_name(short)}"
    return ConfigurationError(
        f"{field}: the repository has no branch and no tag {show_name(ref)}; {advice}"
    )


class Repository:
    """git in a folder of its own, with a home and a configuration that hold nothing else."""

    def __init__(
        self,
        folder: Path,
        remote: Remote,
        credentials: GitCredentials | None,
        *,
        max_bytes: int,
        tells_causes: bool,
        seconds: int | None = None,
    ) -> None:
        self._home = folder / "home"
        self._repository = folder / "repository"
        self._remote = remote
        self._credentials = credentials
        self._max_bytes = max_bytes
        self._tells_causes = tells_causes
        self._seconds = GIT_SECONDS if seconds is None else seconds

    def prepare(self) -> None:
        """Make the home, the configuration and an empty repository."""
        self._home.mkdir(mode=0o700)
        config = _CONFIG
        if self._credentials and self._credentials.password and self._remote.scheme == "https":
            config += _HELPER.format(address=self._remote.address)
        (self._home / "gitconfig").write_text(config)
        if self._credentials and self._remote.scheme == "ssh":
            for name in ("private_key", "known_hosts"):
                file = self._home / name
                file.touch(mode=0o600)
                # ssh takes no key without a line feed at its end.
                file.write_text(getattr(self._credentials, name).rstrip("\n") + "\n")
        self._repository.mkdir()
        done = self._run("init", "--quiet", "--bare", "--template=")
        if done.code != 0:
            raise RuntimeError(f"git cannot make a repository: {done.errors[-300:]!r}")

    def fetch(self, url: str, ref: str | None, *, ref_field: str, url_field: str) -> str:
        """
        Fetch one commit, and return its full id.

        :raises ConfigurationError: If it cannot be had.
        """
        wanted = "HEAD" if ref is None else self._find_name(url, ref, ref_field, url_field)
        if wanted is None:
            assert ref is not None  # noqa: S101 - HEAD was not looked for
            return self._find_short(url, ref, ref_field, url_field)
        fetched = self._ask(url_field, "fetch", *_SHALLOW, "--", url, wanted)
        if fetched.code != 0:
            said = fetched.errors.decode(errors="replace")
            if "couldn't find remote ref" in said or "not our ref" in said:
                raise ConfigurationError(
                    f"{ref_field}: the repository has no commit {show_name(ref)}; push it first"
                    if ref is not None
                    else f"{url_field}: the repository has no commits; push one first"
                )
            raise self._explain(said, url, url_field)
        commit = self._run("rev-parse", "--verify", "FETCH_HEAD^{commit}")
        if commit.code != 0:
            raise ConfigurationError(
                f"{ref_field}: {show_name(str(ref))} is not a commit; name one, or a branch"
            )
        return commit.output.decode().strip()

    def _find_name(self, url: str, ref: str, ref_field: str, url_field: str) -> str | None:
        """
        Return what a ref is called in full; ``None`` if it can only be the beginning of an id.

        :raises ConfigurationError: If there is no such ref, or two.
        """
        if is_full_id(ref):
            return ref.lower()
        names = [ref] if ref.startswith("refs/") or ref == "HEAD" else [HEADS + ref, TAGS + ref]
        peeled = [f"{name}^{{}}" for name in names]
        listed = self._ask(url_field, "ls-remote", "--quiet", "--", url, *names, *peeled)
        if listed.code != 0:
            raise self._explain(listed.errors.decode(errors="replace"), url, url_field)
        lines = (
            line.partition("\t") for line in listed.output.decode(errors="replace").split("\n")
        )
        try:
            name = choose_ref(ref, {name: object_id for object_id, _, name in lines if name})
        except ValueError as error:
            raise ConfigurationError(f"{ref_field}: {error}") from error
        if name is None and not may_be_short_id(ref):
            raise explain_missing(ref, ref_field)
        return name

    def _find_short(self, url: str, ref: str, ref_field: str, url_field: str) -> str:
        """
        Fetch whatever the branches and tags have, and return the one commit that begins so.

        :raises ConfigurationError: If none does, or several do, or there is too much to fetch.
        """
        try:
            fetched = self._ask(url_field, "fetch", *_WITHOUT, "--", url, *_EVERYTHING)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"{ref_field}: looking for a commit that begins with {show_name(ref)} takes too "
                "long; give all 40 digits"
            ) from error
        if fetched.code != 0:
            raise self._explain(fetched.errors.decode(errors="replace"), url, url_field)
        found = self._run("rev-parse", f"--disambiguate={ref.lower()}").output.decode().split()
        commits = [
            object_id
            for object_id in found[:_MOST_CANDIDATES]
            if self._run("cat-file", "-t", object_id).output.strip() == b"commit"
        ]
        if len(commits) == 1 and len(found) <= _MOST_CANDIDATES:
            return commits[0]
        raise ConfigurationError(
            f"{ref_field}: {len(commits)} commits begin with {show_name(ref)}; give all 40 digits"
            if commits
            else f"{ref_field}: the repository has no branch, no tag and no commit "
            f"{show_name(ref)}; push it, or name another"
        )

    def list_refs(self, url: str, *, url_field: str) -> RefListing:
        """
        Return the repository's branches and tags; nothing is fetched.

        :raises ConfigurationError: If it cannot be read.
        """
        listed = self._ask(
            *(url_field, "ls-remote", "--quiet", "--symref", "--", url),
            *("HEAD", f"{HEADS}*", f"{TAGS}*"),
            file_bytes=_REFS_BYTES,
        )
        if listed.code != 0:
            raise self._explain(listed.errors.decode(errors="replace"), url, url_field)
        return parse_listing(listed.output.decode(errors="replace"))

    @property
    def _unreadable(self) -> str:
        return _UNREADABLE.format(seconds=self._seconds)

    def _ask(self, url_field: str, *arguments: str, file_bytes: int | None = None) -> Done:
        """Run a command that talks with the repository's host."""
        try:
            return self._run(*arguments, file_bytes=file_bytes)
        except (TookTooLong, AskedTooMuch) as error:
            raise ConfigurationError(f"{url_field}: {self._unreadable}") from error

    def _explain(self, said: str, url: str, url_field: str) -> ConfigurationError:
        """Return what to tell of a repository that cannot be read."""
        if _TOO_LARGE in said:
            return ConfigurationError(
                f"{url_field}: the repository is larger than is taken here; submit the folder"
            )
        if page := _PAGE.match(url):
            return ConfigurationError(
                f"{url_field}: {show_name(url)} is a page about a repository; give {page[1]}, the "
                "branch as ref and the folder as path"
            )
        causes = (text for sign, text in _CAUSES if sign in said) if self._tells_causes else ()
        return ConfigurationError(f"{url_field}: {next(iter(causes), self._unreadable)}")

    def is_folder(self, tree: str) -> bool:
        """Tell whether an object is a folder, or a commit with one."""
        kind = self._run("cat-file", "-t", f"{tree}^{{tree}}" if ":" not in tree else tree)
        return kind.code == 0 and kind.output.strip() == b"tree"

    def explain_path(self, commit: str, folder: str) -> str:
        """Say why a path of a commit is no folder that could be submitted."""
        missing = f"{commit[:12]} has no folder {show_name(folder)}"
        if "\\" in folder:
            return f"{missing}; write / between folders"
        kind = self._run("cat-file", "-t", f"{commit}:{folder}").output.strip()
        if kind == b"blob":
            parent = str(PurePosixPath(folder).parent)
            return f"{show_name(folder)} is a file; give its folder, {show_name(parent)}"
        if kind == b"commit":
            return f"{show_name(folder)} is a submodule, which is not taken; submit its repository"
        return f"{missing}; give one that is in the repository at that commit"

    def pack(self, tree: str, commit: str, *, field: str, keep_links_out: bool) -> Content:
        """
        Return all files of a folder, packed.

        :raises ConfigurationError: If they are too many or too large, or could not be used.
        """
        try:
            entries, remarks = self._list(tree, keep_links_out=keep_links_out)
            files = self._read(entries, remarks)
        except UnsafeArchive as error:
            raise ConfigurationError(f"{field}: {error}") from error
        except (TookTooLong, AskedTooMuch) as error:
            raise ConfigurationError(
                f"{field}: git {error} while it read {commit[:12]}: that is no ordinary "
                "repository; submit the folder"
            ) from error
        archive = io.BytesIO()
        write_archive(files, archive)
        if len(remarks) > MAX_REMARKS:
            remarks[MAX_REMARKS:] = [f"and {len(remarks) - MAX_REMARKS} more such files"]
        return Content(archive=archive.getvalue(), commit=commit, remarks=tuple(remarks))

    def _list(self, tree: str, *, keep_links_out: bool) -> tuple[list[_Entry], list[str]]:
        """Return the files of a tree, and what is to be said of what is none."""
        listed = self._run(
            "ls-tree", "-r", "-z", "-l", "--full-tree", tree, file_bytes=_LISTING_BYTES
        )
        if listed.code != 0:
            raise UnsafeArchive("has a folder that git cannot read; repair the repository")
        entries: list[_Entry] = []
        remarks: list[str] = []
        names = Names()
        for line in listed.output.split(b"\0")[:-1]:
            facts, _, raw_name = line.partition(b"\t")
            mode, kind, object_id, size = facts.split()
            name = check_name(raw_name.decode("utf-8", "surrogateescape"))
            if kind == b"commit":
                remarks.append(
                    f"{show_name(name)} is a submodule: its files are not taken; commit "
                    "copies, if the module needs them"
                )
                continue
            if mode == b"120000":
                if keep_links_out:
                    continue
                raise UnsafeArchive(f"{show_name(name)} is a symbolic link; commit the file itself")
            names.add(name)
            if len(entries) >= MAX_MEMBERS:
                raise UnsafeArchive(
                    f"has more than {MAX_MEMBERS} files; submit the folder of the module alone"
                )
            entries.append(
                _Entry(
                    name=name,
                    object_id=object_id.decode(),
                    size=int(size),
                    is_executable=mode == b"100755",
                )
            )
        if not entries:
            raise UnsafeArchive("there are no files in it; commit the module's files")
        total = sum(entry.size for entry in entries)
        if total > self._max_bytes:
            raise UnsafeArchive(
                f"its files have {total} bytes, more than {self._max_bytes} bytes; leave out "
                + ", ".join(
                    f"{show_name(entry.name)} ({entry.size})"
                    for entry in sorted(entries, key=lambda entry: -entry.size)[:_MOST_LARGEST]
                )
            )
        return entries, remarks

    def _read(self, entries: Sequence[_Entry], remarks: list[str]) -> list[PackedFile]:
        """Return the files that were listed, as git has them: no filter, no conversion."""
        with tempfile.TemporaryFile() as wanted:
            wanted.write(b"".join(entry.object_id.encode() + b"\n" for entry in entries))
            wanted.seek(0)
            read = self._run(
                *("cat-file", "--batch"),
                given=wanted,
                file_bytes=sum(entry.size + 200 for entry in entries),
            )
        files, place = [], 0
        for entry in entries:
            start = read.output.find(b"\n", place) + 1
            heading = f"{entry.object_id} blob {entry.size}".encode()
            body = read.output[start : start + entry.size]
            if read.output[place : start - 1] != heading or len(body) != entry.size:
                raise UnsafeArchive(
                    f"{show_name(entry.name)} cannot be read by git; repair the repository"
                )
            place = start + entry.size + 1
            if entry.size < _LFS_BYTES and body.startswith(_LFS_POINTER):
                remarks.append(
                    f"{show_name(entry.name)} is a pointer of Git LFS: what it stands for is not "
                    "in the repository, and is not taken; commit the file itself"
                )
            files.append(PackedFile(name=entry.name, body=body, is_executable=entry.is_executable))
        return files

    def _run(
        self, *arguments: str, given: IO[bytes] | None = None, file_bytes: int | None = None
    ) -> Done:
        largest = _FILE_FACTOR * self._max_bytes + _FILE_BYTES
        return run_confined(
            ["git", *arguments],
            bounds=Bounds(
                seconds=self._seconds,
                cpu_seconds=self._seconds,
                memory_bytes=_MEMORY_BYTES,
                file_bytes=largest if file_bytes is None else file_bytes,
            ),
            environment=self._build_environment(),
            given=given,
            folder=str(self._repository),
        )

    def _build_environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in _HOST_VARIABLES if name in os.environ}
        environment = kept | {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(self._home),
            "LC_ALL": "C",
            "GIT_DIR": str(self._repository),
            "GIT_CONFIG_GLOBAL": str(self._home / "gitconfig"),
            "GIT_CONFIG_SYSTEM": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "true",
            "GIT_ALLOW_PROTOCOL": self._remote.scheme,
            "GIT_SSH_VARIANT": "ssh",
            "GIT_SSH_COMMAND": self._build_ssh(),
        }
        if self._credentials and self._remote.scheme == "https":
            environment["TOUCHSTONE_GIT_LOGIN"] = self._credentials.login
            environment["TOUCHSTONE_GIT_PASSWORD"] = self._credentials.password
        return environment

    def _build_ssh(self) -> str:
        """Return the ssh that is used: it looks nowhere but in the home that was made for it."""
        has_key = bool(self._credentials and self._credentials.private_key)
        key, hosts = self._home / "private_key", self._home / "known_hosts"
        options = [
            "BatchMode=yes",
            "ConnectTimeout=15",
            "StrictHostKeyChecking=yes",
            f"UserKnownHostsFile={hosts}",
            "GlobalKnownHostsFile=/dev/null",
            "IdentityAgent=none",
            "IdentitiesOnly=yes",
            f"IdentityFile={key if has_key else 'none'}",
        ]
        words = ["ssh", "-F", "/dev/null", *(word for option in options for word in ("-o", option))]
        return shlex.join(words)
