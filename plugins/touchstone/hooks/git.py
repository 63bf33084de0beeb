"""Where submitted content may be fetched from, and as whom."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from touchstone.core.refs import RefListing
from touchstone.core.remotes import Remote, is_allowed, parse_remote
from touchstone.hooks.repository import (
    LISTING_SECONDS,
    Content,
    GitCredentials,
    Repository,
)
from touchstone_agent.protocol.errors import ConfigurationError


def find_credentials(conn_id: str | None) -> GitCredentials | None:
    """
    Return the credentials that an Airflow connection holds; ``None`` without one.

    :param conn_id: The connection: host; login and password for https; for ssh in ``extra`` either
        ``private_key`` and ``known_hosts``, or ``key_file`` and ``known_hosts_file``.
    :raises ConfigurationError: If it names no host, or a file that cannot be read.
    """
    if conn_id is None:
        return None
    from airflow.sdk.bases.hook import BaseHook

    connection = BaseHook.get_connection(conn_id)
    extra: Mapping[str, object] = connection.extra_dejson or {}
    if not connection.host:
        raise ConfigurationError(f"connection {conn_id!r} names no host to show its credentials to")
    port = f":{connection.port}" if connection.port else ""
    secrets = (connection.login or "") + (connection.password or "")
    if not secrets.isprintable():
        raise ConfigurationError(f"connection {conn_id!r}: login and password are one line each")
    return GitCredentials(
        address=f"{connection.host.lower()}{port}",
        login=connection.login or "",
        password=connection.password or "",
        private_key=_read_secret(conn_id, extra, "private_key", "key_file"),
        known_hosts=_read_secret(conn_id, extra, "known_hosts", "known_hosts_file"),
    )


def _read_secret(conn_id: str, extra: Mapping[str, object], name: str, file_name: str) -> str:
    if extra.get(name):
        return str(extra[name])
    if not extra.get(file_name):
        return ""
    try:
        return Path(str(extra[file_name])).expanduser().read_text()
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"connection {conn_id!r}: {file_name} cannot be read: {type(error).__name__}"
        ) from error


class GitSource:
    """
    Reads git repositories, as little of them as possible.

    Nothing of a repository is executed, and nothing of this host's configuration is used: no
    hooks, no submodules, no filters, no work tree, no other user's keys. Files are those of the
    commit, byte for byte.

    :param hosts: Patterns of the hosts that may be read from, see
        :func:`~touchstone.core.remotes.is_allowed`.
    :param allow_local: Whether paths and ``file://`` are allowed; plain ``http://`` and ``git://``
        never are.
    :param max_bytes: Largest sum of the files.
    :param credentials: What a host is shown; ``None`` for nothing.
    """

    def __init__(
        self,
        *,
        hosts: Sequence[str],
        allow_local: bool,
        max_bytes: int,
        credentials: GitCredentials | None = None,
    ) -> None:
        self._hosts = tuple(hosts)
        self._allow_local = allow_local
        self._max_bytes = max_bytes
        self._credentials = credentials

    def fetch(self, url: str, ref: str | None, path: str) -> Content:
        """
        Return a folder of a repository at a ref, packed.

        :param path: Folder below the root; ``.`` for the root.
        :raises ConfigurationError: If the source cannot be reached, has no such ref or no such
            folder, holds links, or is too large; the message begins with the field's name.
        :raises TransientError: If this process is to end.
        """
        with self._open(url, url_field="source") as git:
            commit = git.fetch(url, ref, ref_field="ref", url_field="source")
            folder = str(PurePosixPath(path))
            tree = commit if folder == "." else f"{commit}:{folder}"
            if not git.is_folder(tree):
                raise ConfigurationError(f"path: {git.explain_path(commit, folder)}")
            return git.pack(tree, commit, field="path", keep_links_out=False)

    def fetch_all(self, url: str, ref: str, *, field: str) -> Content:
        """
        Return all of a repository at a ref, packed, but for symbolic links and submodules.

        :param field: The user's name of the ref, with which every error message begins.
        :raises ConfigurationError: If the repository cannot be reached, has no such ref, or is too
            large.
        :raises TransientError: If this process is to end.
        """
        with self._open(url, url_field=field) as git:
            commit = git.fetch(url, ref, ref_field=field, url_field=field)
            return git.pack(commit, commit, field=field, keep_links_out=True)

    def list_refs(self, url: str, *, field: str = "source") -> RefListing:
        """
        Return the branches and tags of a repository, within seconds; nothing is fetched.

        :param field: The user's name of it, with which every error message begins.
        :raises ConfigurationError: If it may not or cannot be read, or has too many.
        """
        with self._open(url, url_field=field, seconds=LISTING_SECONDS) as git:
            return git.list_refs(url, url_field=field)

    @contextmanager
    def _open(
        self, url: str, *, url_field: str, seconds: int | None = None
    ) -> Iterator[Repository]:
        remote = self.check(url, url_field)
        with tempfile.TemporaryDirectory(prefix="touchstone-git-") as folder:
            credentials = self._credentials
            if credentials is not None and credentials.address != remote.address:
                credentials = None
            # What keeps a host from answering tells of somebody's network, unless an admin has
            # named the host, or the user is on this machine anyhow.
            named = [pattern for pattern in self._hosts if pattern != "*"]
            git = Repository(
                Path(folder),
                remote,
                credentials,
                max_bytes=self._max_bytes,
                tells_causes=self._allow_local or is_allowed(remote, named),
                seconds=seconds,
            )
            git.prepare()
            yield git

    def check(self, url: str, field: str) -> Remote:
        """
        Return a repository's address, if it may be read from here; nothing is asked of it.

        :param field: The user's name of it, with which every error message begins.
        :raises ConfigurationError: If it may not.
        """
        try:
            remote = parse_remote(url)
        except ValueError as error:
            raise ConfigurationError(f"{field}: {error}") from error
        if remote.is_local and not self._allow_local:
            raise ConfigurationError(
                f"{field}: a path is not allowed here; use https:// or ssh:// (git@host:repo)"
            )
        if not remote.is_local and not is_allowed(remote, self._hosts):
            known = ", ".join(self._hosts) or "none (setting TOUCHSTONE_GIT_HOSTS)"
            raise ConfigurationError(
                f"{field}: {remote.address} is not a host that this installation reads from; "
                f"those are: {known}"
            )
        return remote
