"""A module's validation on this machine, before anything is sent: by the same trainer."""

from __future__ import annotations

import os
import platform
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import psutil
import typer

from touchstone.client.options import Waived
from touchstone.client.packing import is_remote
from touchstone.client.requests import pack_source
from touchstone.client.tables import clean
from touchstone.confined.archives import repack
from touchstone.core.conf import WAIVED, Source, System, parse_conf
from touchstone.core.tasks import (
    CONTENT_FOLDER,
    build_argv,
    build_environment,
    build_validation_spec,
)
from touchstone.hooks.git import GitSource
from touchstone.hooks.repository import Content
from touchstone.settings import Settings, get_settings
from touchstone.stack.agent_config import RUNNER_COMMAND
from touchstone.stack.images import choose_runtime
from touchstone.stack.layout import Runtime as RuntimeName
from touchstone.terminal import AsJson, print_json, say
from touchstone_agent.adapters.docker import DockerRuntime
from touchstone_agent.adapters.files import make_attempt_folder, read_below, remove_tree
from touchstone_agent.adapters.process import ProcessRuntime
from touchstone_agent.adapters.transfer import unpack
from touchstone_agent.contract import build_limit_variables
from touchstone_agent.core.ports import LaunchSpec, Runtime
from touchstone_agent.evidence import read_verdict
from touchstone_agent.protocol.documents import parse_json
from touchstone_agent.protocol.errors import ConfigurationError, TransientError
from touchstone_agent.protocol.logins import RegistryLogin
from touchstone_agent.protocol.messages import AttemptRef
from touchstone_agent.protocol.references import parse_reference
from touchstone_agent.settings import DockerSettings, ProcessSettings

if TYPE_CHECKING:
    from touchstone.core.tasks import TaskSpec
    from touchstone_agent.protocol.messages import Limits

ENV = "check"
"""In the names of containers, so that no agent takes one for its own."""
EXIT_REFUSED = 1
_POLL_SECONDS = 0.05
_MOST_CPUS = 2
"""The processes in which the trainer validates a model structure at once."""
_STOP_SECONDS = 10
_MOST_CONSOLE_BYTES = 1024**2
_MOST_RESULT_BYTES = 1024**2


def check(
    source: Annotated[
        str,
        typer.Argument(show_default=False, help="A folder, a .tar.gz or a git URL."),
    ],
    system: Annotated[str, typer.Option(help="feature_set or model_structure.")] = "feature_set",
    ref: Annotated[str | None, typer.Option(help="Branch, tag or commit of the source.")] = None,
    path: Annotated[str | None, typer.Option(help="Folder of the module in the source.")] = None,
    waive_column: Waived = None,
    runtime: Annotated[
        str, typer.Option(help="What the trainer runs in: auto, docker or process.")
    ] = "auto",
    log: Annotated[bool, typer.Option("--log", help="Print what the trainer printed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Validate a module on this machine as the installation would; nothing is sent."""
    started = time.monotonic()
    # As Ctrl-C: nothing that was started here stays.
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    settings = get_settings()
    content, wanted = take_content(
        source, system=system, ref=ref, path=path, waived=waive_column or (), settings=settings
    )
    for remark in content.remarks:
        say(f"note: {remark}")
    with _open_runtime(settings, runtime) as (engine, image, folder, cpus):
        limits = settings.validation_limits
        # On a server the other CPUs are somebody else's. Here nobody waits but the engineer.
        limits = limits.model_copy(update={"cpus": max(limits.cpus, min(_MOST_CPUS, cpus))})
        found = validate(
            engine,
            folder,
            content,
            system=wanted.system,
            image=image,
            limits=limits,
            waived_columns=wanted.waived_columns,
        )
    seconds = round(time.monotonic() - started, 1)
    _print(found, seconds=seconds, log=log, as_json=as_json)
    if not found.is_accepted:
        raise typer.Exit(EXIT_REFUSED)


@dataclass(frozen=True, kw_only=True)
class Checked:
    """
    What came of a validation on this machine.

    :param is_accepted: Whether the installation would accept it.
    :param failure_class: Why not, in one word.
    :param reason: Why not, in one line.
    :param system: What kind of module it is.
    :param checks: What the trainer has checked, in its own words.
    :param columns: The columns that it has found, in its own words.
    :param console: What the trainer has printed.
    """

    is_accepted: bool
    failure_class: str | None
    reason: str | None
    system: str
    checks: object = field(default_factory=dict)
    columns: object = field(default_factory=list)
    console: str

    def dump(self) -> dict[str, object]:
        """Return it as ``--json`` prints it."""
        return {
            "outcome": "accepted" if self.is_accepted else "refused",
            "class": self.failure_class,
            "reason": self.reason,
            "system": self.system,
            "checks": self.checks,
            "columns": self.columns,
            "console": self.console,
        }


def take_content(
    source: str,
    *,
    system: str,
    ref: str | None,
    path: str | None,
    settings: Settings,
    waived: Sequence[str] = (),
) -> tuple[Content, Source]:
    """
    Return what would be submitted, refused as ``register`` refuses it, and how it was named.

    :param waived: Columns that may know later rows.
    :raises ConfigurationError: With the name of the field that is wrong.
    """
    remote = is_remote(source)
    if ref is not None and not remote:
        raise ConfigurationError(f"ref: {source} is not a git URL, so it has no branches")
    url = source if remote else "upload:" + "0" * 64
    told = {"ref": ref, "path": path or ".", "system": system, WAIVED: list(waived)}
    wanted = parse_conf({"source": url, **told}).source
    assert wanted is not None  # noqa: S101 - it was given
    if remote:
        git = GitSource(hosts=("*",), allow_local=True, max_bytes=settings.content_bytes)
        return git.fetch(source, wanted.ref, wanted.path), wanted
    archive = repack(
        pack_source(source), "source", path=wanted.path, max_bytes=settings.content_bytes
    )
    return Content(archive=archive, commit=None), wanted


def validate(
    engine: Runtime,
    folder: Path,
    content: Content,
    *,
    system: System,
    image: str,
    limits: Limits,
    waived_columns: tuple[str, ...] = (),
) -> Checked:
    """
    Run a validation to its end.

    :param engine: Where.
    :param folder: A folder for all of it.
    :param image: The trainer's.
    :param limits: Of the validation.
    :param waived_columns: Columns that may know later rows.
    :raises PermanentError: If the trainer cannot be run here.
    """
    ref = AttemptRef(
        submission_id=f"check-{secrets.token_hex(4)}", task_id="validation", attempt=1, fence=1
    )
    task = build_validation_spec(
        ref.submission_id,
        system=system,
        image=image,
        content_sha256=content.sha256,
        content_size=len(content.archive),
        limits=limits,
        waived_columns=waived_columns,
    )
    name = ref.container_name(ENV)
    attempt = folder / name
    make_attempt_folder(attempt)
    # Only the runner's user and root are to look into it, and the runner may be another user.
    attempt.chmod(0o755)
    _stage(content, attempt)
    try:
        engine.launch(_build_spec(task, ref, name, attempt))
        while (end := engine.wait(name)) is None:
            time.sleep(_POLL_SECONDS)
        return _read(attempt / "out", end.exit_code, task)
    finally:
        engine.stop(name, grace_seconds=0)
        engine.remove(name)


def _stage(content: Content, attempt: Path) -> None:
    archive = attempt / "tmp" / "content.tar.gz"
    archive.write_bytes(content.archive)
    target = attempt / "in" / CONTENT_FOLDER
    target.mkdir(mode=0o755)
    unpack(archive, target, max_bytes=2 * 1024**3)
    archive.unlink()


def _build_spec(task: TaskSpec, ref: AttemptRef, name: str, attempt: Path) -> LaunchSpec:
    me = psutil.Process()
    return LaunchSpec(
        ref=ref,
        name=name,
        labels={
            "touchstone.env": ENV,
            "touchstone.server": platform.node(),
            "touchstone.owner": f"{me.pid}:{me.create_time()}",
        },
        image=task.image,
        argv=build_argv(task),
        environment={**build_environment(task, ref), **build_limit_variables(task.limits)},
        folder=attempt,
        limits=task.limits,
    )


def _read(out: Path, exit_code: int | None, task: TaskSpec) -> Checked:
    verdict = read_verdict(out, output_bytes=task.limits.output_bytes, exit_code=exit_code)
    console = out / "console.log"
    text = console.read_bytes()[-_MOST_CONSOLE_BYTES:] if console.is_file() else b""
    found = Checked(
        is_accepted=False,
        failure_class="unknown",
        reason=verdict if isinstance(verdict, str) else verdict.reason,
        system=task.system.value,
        console=text.decode(errors="replace"),
    )
    if isinstance(verdict, str):
        return found
    found = replace(found, failure_class=verdict.failure_class)
    if verdict.outcome != "succeeded":
        return found
    raw = read_below(out, "result.json", limit=_MOST_RESULT_BYTES)
    result = parse_json(raw, max_bytes=_MOST_RESULT_BYTES)
    return replace(
        found,
        is_accepted=True,
        checks=result.get("checks") or found.checks,
        columns=result.get("columns") or found.columns,
    )


@contextmanager
def _open_runtime(settings: Settings, wanted: str) -> Iterator[tuple[Runtime, str, Path, int]]:
    """
    Yield what the trainer runs in, and its image.

    Also yields a folder that is gone afterwards, and the number of CPUs.
    """
    chosen = choose_runtime(wanted, lambda part, line: say(f"{part}: {line}"))
    folder = Path(tempfile.mkdtemp(prefix="touchstone-check-"))
    try:
        engine: Runtime
        cpus = os.cpu_count() or 1
        if chosen == RuntimeName.DOCKER:
            engine = docker = DockerRuntime(DockerSettings(), env=ENV, server=platform.node())
            # The engine must find it, and the runner look into it.
            folder.chmod(0o755)
            _remove_orphans(engine)
            # The engine's: it may be in a virtual machine, and refuses to give more than it has.
            cpus = docker.count_cpus()
        else:
            engine = ProcessRuntime(
                ProcessSettings(command=RUNNER_COMMAND),
                env=ENV,
                server=platform.node(),
                attempts_dir=folder,
            )
        image, login = settings.trainer_image, None
        if chosen == RuntimeName.DOCKER and settings.registry_conn_ids:
            image, login = _ask_registry(settings)
        engine.resolve_image(image, is_cancelled=lambda: False, find_login=lambda: login)
        yield engine, image, folder, cpus
    finally:
        remove_tree(folder)


def _ask_registry(settings: Settings) -> tuple[str, RegistryLogin | None]:
    """Return the trainer's image as a submission would pin it now, and what pulls it."""
    # Airflow, which keeps the registry's connection, takes seconds to import.
    from touchstone.hooks.registry import find_access, pin_image

    image = settings.trainer_image
    access = find_access(settings.registry_conn_ids, parse_reference(image).registry)
    if access is None:
        return image, None
    pinned = pin_image(settings, image).pinned or image
    if not access.login:
        return pinned, None
    return pinned, RegistryLogin(login=access.login, password=access.password)


def _remove_orphans(engine: Runtime) -> None:
    """Remove containers of checks that were killed before they could do so themselves."""
    with suppress(TransientError):
        for name, labels in engine.list_labels().items():
            pid, _, created = labels.get("touchstone.owner", "").partition(":")
            if pid.isdecimal() and not _is_alive(int(pid), created):
                engine.remove(name)


def _is_alive(pid: int, created: str) -> bool:
    try:
        return str(psutil.Process(pid).create_time()) == created
    except psutil.NoSuchProcess:
        return False


def _print(found: Checked, *, seconds: float, log: bool, as_json: bool) -> None:
    if as_json:
        print_json({**found.dump(), "seconds": seconds})
        return
    if log:
        # Code under test wrote this: on a terminal it must not move the cursor.
        console = found.console
        typer.echo(clean(console) if sys.stdout.isatty() else console, nl=False)
    if found.is_accepted:
        number = len(found.columns) if isinstance(found.columns, list) else 0
        columns = f", {number} columns" if number else ""
        typer.echo(f"accepted after {seconds} s{columns}")
        return
    typer.echo(f"refused: {found.reason}")
