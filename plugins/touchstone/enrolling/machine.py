"""A server's own side of an enrolment, over SSH: what the installer there is asked to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Protocol

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from touchstone.enrolling.bundle import Bundle
from touchstone.hooks.servers import Completed
from touchstone_agent.protocol.envelope import CLOCK_TOLERANCE
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.words import build_line

SETTINGS = "/etc/touchstone-agent"
Said = Annotated[str, Field(max_length=400), AfterValidator(lambda text: build_line(text, 400))]
"""What a server says goes to people's terminals: one line, of nothing but text."""
_FOLDER = re.compile(r"/var/tmp/touchstone-enrolment-[A-Za-z0-9]{10}")  # noqa: S108
_NUMBER = re.compile(r"[0-9]{1,15}")
_NOT_FOUND = 127
_MOST_RESULTS = 100
"""Of a doctor; ours looks at some twenty things."""
_OLDEST = (3, 11)
_TOO_NEW = (3, 13)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """
    One thing that the server's doctor has looked at.

    :param name: What, in a word.
    :param is_ok: Whether it is as it must be.
    :param is_warning: Whether it could be better.
    :param text: What it has found, one line.
    """

    name: str
    is_ok: bool
    is_warning: bool
    text: str


class Shell(Protocol):
    """How a server is spoken to."""

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", seconds: float = 300.0) -> Completed:
        """Run a command."""
        ...

    def put(self, data: bytes, path: str) -> None:
        """Write a file."""
        ...


class There(BaseModel):
    """
    What of us is on a server already, as it says itself.

    :param env: Environment that it works for.
    :param server: Its name there.
    :param version: Version of the agent in use.
    :param state_dir: Where the agent keeps its state.
    :param has_service: Whether systemd starts it.
    :param public_key: Of the key it has.
    :param key_id: Of the access key it has.
    :param is_running: Whether the agent runs.
    :param has_secrets: Whether the keys are there.
    :param config_sha256: Digest of its settings.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    env: Said | None = None
    server: Said | None = None
    version: Said | None = None
    state_dir: Said | None = None
    has_service: bool = True
    public_key: Said | None = None
    key_id: Said | None = None
    is_running: bool = False
    has_secrets: bool = False
    config_sha256: Said | None = None


class Facts(BaseModel):
    """
    What a server is, as its installer says.

    :param python: Version of its Python.
    :param machine: Its processor's architecture.
    :param system: Its operating system.
    :param is_root: Whether we are root there.
    :param has_systemd: Whether systemd looks after its services.
    :param time: Its clock, seconds since 1970.
    :param enrolled: What of us is there; ``None`` for nothing.
    :param staged: Versions that are installed.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    python: Annotated[str, Field(pattern=r"^\d{1,3}\.\d{1,3}\.\d{1,3}$")]
    machine: Said
    system: Said
    is_root: bool
    has_systemd: bool
    time: Annotated[float, Field(ge=0, le=10**11, allow_inf_nan=False)]
    enrolled: There | None = None
    staged: Annotated[tuple[Said, ...], Field(max_length=1000)] = ()


class Unfit(PermanentError):
    """The server lacks something; the message says what, and the way out."""


class Machine:
    """
    One server, as root.

    :param shell: Logged in.
    :param bundle: What it gets.
    :param python: Command of its Python.
    """

    def __init__(self, shell: Shell, bundle: Bundle, *, python: str = "python3") -> None:
        self._shell = shell
        self._bundle = bundle
        self._python = python
        self._sudo: tuple[str, ...] = ()
        self._folder: str | None = None

    # --- looking --------------------------------------------------------------------------------

    def look(self) -> Facts:
        """
        Return what the server is; nothing is left on it.

        :raises Unfit: If the agent cannot run there.
        """
        installer = (self._bundle.folder / "install.py").read_bytes()
        command = (self._python, "-I", "-", "probe")
        asked_at = datetime.now(UTC)
        done = self._shell.run(command, stdin=installer, seconds=60)
        answered_at = datetime.now(UTC)
        if done.code == _NOT_FOUND:
            raise Unfit(
                f"Python: there is no {self._python}: install Python 3.11 or 3.12 (Debian: "
                "`apt-get install python3`), or name another with --python"
            )
        facts = _read_facts(done)
        version = tuple(int(part) for part in facts.python.split(".")[:2])
        if not _OLDEST <= version < _TOO_NEW:
            raise Unfit(
                f"Python: {self._python} is {facts.python}: install Python 3.11 or 3.12, or "
                "name another with --python"
            )
        if facts.system != "Linux":
            raise Unfit(f"system: {facts.system}, and enrolment by SSH is for Linux")
        _check_clock(facts.time, asked_at, answered_at)
        if not facts.is_root:
            self._become_root()
            # What root sees: the settings of an agent are not for everybody.
            again = self._shell.run((*self._sudo, *command), stdin=installer, seconds=60)
            facts = _read_facts(again)
        return facts

    def _become_root(self) -> None:
        done = self._shell.run(("sudo", "-n", "true"), seconds=30)
        if done.code:
            raise Unfit(
                f"rights: the connection's user is not root, and {_explain_sudo(done)}: let it run "
                "sudo without a password, or name root as the connection's login"
            )
        self._sudo = ("sudo", "-n")

    # --- sending --------------------------------------------------------------------------------

    def open_folder(self) -> str:
        """Make a folder on the server that only its login may read; :meth:`close` removes it."""
        if self._folder is None:
            done = self._shell.run(
                ("mktemp", "-d", "/var/tmp/touchstone-enrolment-XXXXXXXXXX"),  # noqa: S108
                seconds=30,
            )
            # The last line: a shell may print a greeting first.
            folder = (done.output.strip().splitlines() or [""])[-1]
            if done.code or not _FOLDER.fullmatch(folder):
                raise Unfit(f"disk: no folder can be made in /var/tmp: {_line(done.errors)}")
            self._folder = folder
        return self._folder

    def send_bundle(self) -> int:
        """Send the bundle; return how many bytes that was."""
        folder, sent = self.open_folder(), 0
        self._shell.run(("mkdir", "-p", f"{folder}/wheels"), seconds=30)
        for name, data in self._bundle.read_all():
            self.send({name: data})
            sent += len(data)
        return sent

    def send(self, files: Mapping[str, bytes]) -> None:
        """Send files into the folder; on a full disk that is what is said."""
        folder = self.open_folder()
        for name, data in files.items():
            try:
                self._shell.put(data, f"{folder}/{name}")
            except TransientError as error:
                self._explain_disk(folder, len(data))
                raise error from None

    def _explain_disk(self, folder: str, wanted: int) -> None:
        done = self._shell.run(("df", "--output=avail", "-k", folder), seconds=30)
        words = done.output.split()
        free = int(words[-1]) * 1024 if words and _NUMBER.fullmatch(words[-1]) else None
        if free is not None and free < wanted:
            raise Unfit(f"disk: {free // 1024**2} MiB free in /var/tmp on the server: make room")

    def close(self) -> None:
        """Remove the folder, if the server still answers."""
        folder, self._folder = self._folder, None
        if folder is not None:
            self._shell.run((*self._sudo, "rm", "-rf", "--", folder), seconds=60)

    # --- doing ----------------------------------------------------------------------------------

    def install(self) -> None:
        """Install the bundle that was sent, beside whatever is there."""
        self._ask("stage", self.open_folder(), at="installing")

    def examine(self, *, is_enrolled: bool = False) -> list[Finding]:
        """
        Return the doctor's list of the machine itself, as the sent version sees it.

        :param is_enrolled: Whether the settings are the server's own, not those that were sent.
        """
        folder = SETTINGS if is_enrolled else self.open_folder()
        config = f"{folder}/agent.toml"
        return _read_results(self._ask("examine", self._bundle.version, config, at="looking"))

    def configure(self) -> None:
        """Make user, settings and service of what was sent."""
        self._ask("configure", self.open_folder(), at="configuring")

    def doctor(self) -> list[Finding]:
        """Return the doctor's whole list."""
        return _read_results(self._ask("doctor", at="looking"))

    def start(self) -> None:
        """Start the agent, or start it anew."""
        self._ask("start", at="starting")

    def switch(self, version: str) -> str:
        """Let another version run from the next start on; return the one before."""
        return _line(str(self._ask("switch", version, at="switching").get("before")))

    def prune(self) -> None:
        """Remove all versions but the one in use."""
        self._ask("prune", at="removing old versions")

    def unstage(self) -> None:
        """Remove a version that nothing uses."""
        self._ask("unstage", self._bundle.version, at="undoing")

    def read_log(self) -> str:
        """Return the last line of what the agent said."""
        lines = self._ask("log", at="reading the log").get("lines")
        return _line(str(lines[-1])) if isinstance(lines, list) and lines else "nothing"

    def remove(self) -> list[str]:
        """Remove all of it from the server; return what could not be."""
        left = self._ask("remove", at="removing").get("left")
        return [_line(str(path)) for path in left][:20] if isinstance(left, list) else []

    def _ask(self, command: str, *arguments: str, at: str) -> dict[str, object]:
        # What is on the server already may be of another version.
        script = (self._bundle.folder / "install.py").read_bytes()
        argv = (*self._sudo, self._python, "-I", "-", command, *arguments)
        return _read(self._shell.run(argv, stdin=script), at)


def _explain_sudo(done: Completed) -> str:
    """Return why sudo made nobody root; it says so in English to who asks for no other language."""
    if done.code == _NOT_FOUND:
        return "there is no sudo"
    if "password is required" in done.errors:
        return "sudo asks it for a password"
    return f"sudo says: {_line(done.errors)[:200] or 'nothing'}"


def _check_clock(said: float, asked_at: datetime, answered_at: datetime) -> None:
    there = datetime.fromtimestamp(said, UTC)
    ahead = max(there - answered_at, asked_at - there, timedelta(0))
    if ahead > CLOCK_TOLERANCE:
        side = "ahead of" if there > answered_at else "behind"
        raise Unfit(
            f"clock: {ahead.total_seconds():.0f} s {side} the control plane's, and messages are "
            f"refused from {CLOCK_TOLERANCE.total_seconds():.0f} s on: synchronise it "
            "(`timedatectl set-ntp true`, or chrony)"
        )


def _read(done: Completed, at: str) -> dict[str, object]:
    last = (done.output.strip().splitlines() or [""])[-1]
    try:
        found = json.loads(last)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        said = _line(done.errors) or _line(done.output) or "nothing"
        raise Unfit(f"{at}: the server's Python ended with {done.code} and said: {said}")
    if "problem" in found:
        raise Unfit(_line(str(found["problem"])))
    return found


def _read_facts(done: Completed) -> Facts:
    found = _read(done, "looking at the server")
    try:
        return Facts.model_validate(found)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise Unfit(f"looking at the server: its answer makes no sense ({place})") from None


def _read_results(found: Mapping[str, object]) -> list[Finding]:
    """Return a doctor's list in bounded, known fields."""
    results = found.get("results")
    if not isinstance(results, list) or not results:
        raise Unfit("doctor: it looked at nothing; run it again")
    return [
        Finding(
            name=_line(str(item.get("name")))[:200],
            is_ok=item.get("is_ok") is True,
            is_warning=item.get("is_warning") is True,
            text=_line(str(item.get("text"))),
        )
        for item in results[:_MOST_RESULTS]
        if isinstance(item, dict)
    ]


def find_failures(results: Iterable[Finding]) -> str | None:
    """Return what of a doctor's list fails, in one line; ``None`` if nothing does."""
    failed = [f"{item.name}: {item.text}" for item in results if not item.is_ok]
    return build_line("; ".join(failed), 2000) or None


def _line(text: str) -> str:
    lines = text.strip().splitlines() or [""]
    return build_line(lines[-1], 800)
