"""A PostgreSQL server of one's own, for as long as a test needs it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from waiting import find_exit, wait_for

_DEBIAN = Path("/usr/lib/postgresql")

# Durability costs seconds here and helps nobody; the rest keeps it small.
_OPTIONS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "listen_addresses": "",
}


def find_programs() -> Path | None:
    """Return the folder of PostgreSQL's programs, the newest version's; ``None`` without any."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = [path for path in _DEBIAN.glob("*/bin") if (path / "initdb").exists()]
    return max(versions, key=lambda path: float(path.parent.name), default=None)


class Postgres:
    """
    A server that listens on a socket in a folder of its own, and nowhere else.

    :param programs: Folder of its programs.
    """

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        # It refuses to run as root.
        self._user = _find_user() if os.geteuid() == 0 else None
        # Not pytest's own folder, which no other user may enter; and a socket's path is short.
        self._folder = Path(tempfile.mkdtemp(prefix="touchstone-pg-"))
        if self._user is not None:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Make an empty cluster and wait until it answers."""
        data, log = self._folder / "data", self._folder / "log"
        self._run("initdb", "--pgdata", str(data), "--auth=trust", "--username=airflow")
        options = {**_OPTIONS, "unix_socket_directories": str(self._folder)}
        arguments = [word for item in options.items() for word in ("-c", "=".join(item))]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [str(self._programs / "postgres"), "-D", str(data), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._folder,
                start_new_session=True,
                **self._identity,
            )
        process = self._process
        wait_for(
            "PostgreSQL is ready",
            lambda: self._try("pg_isready", "--host", str(self._folder)).returncode == 0,
            unless=lambda: (end := find_exit(process)) and f"{end}: {log.read_text()[-2000:]}",
        )

    def create_database(self, name: str) -> str:
        """Make an empty database; return its address for SQLAlchemy."""
        self._run("createdb", "--host", str(self._folder), "--username=airflow", name)
        return f"postgresql+psycopg2://airflow@/{name}?host={self._folder}"

    def stop(self) -> None:
        """End it, whoever is connected, and remove all it had."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGINT)
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _identity(self) -> dict[str, object]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}

    def _try(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self._programs / program), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self._folder,
            **self._identity,
        )

    def _run(self, program: str, *arguments: str) -> None:
        done = self._try(program, *arguments)
        if done.returncode != 0:
            raise RuntimeError(f"{program} failed:\n{done.stdout}\n{done.stderr}")


def _find_user() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
