"""
How a server becomes this installation's, and stops being that: names, rights, settings. Pure.

A server's record says how far it is. ``begun``: its key is on record, and nothing was heard of it.
``enrolled``: it was heard, and has pools. ``removing``: nothing new starts there. ``removed``: it
has no pools, and nothing is at work there any more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Final

from touchstone.core.fleet import check_server_name
from touchstone.core.records.servers import EnrolmentState, Server, ServerEntry, WorkLease
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.protocol.names import (
    build_control_queue,
    build_event_queue,
    build_request_queue,
)

STATE_DIR: Final = PurePosixPath("/var/lib/touchstone-agent")
ENGINE_SOCKET: Final = PurePosixPath("/var/run/docker.sock")
LEASE: Final = timedelta(minutes=10)
"""How long a process that works on a server keeps others away without a sign of life."""
HEARD_LATELY: Final = timedelta(seconds=60)
"""Four heartbeats of an agent with its defaults."""
MAX_SLOTS: Final = 1000
_SYSTEM_FOLDERS = frozenset(
    map(PurePosixPath, ("/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/opt", "/proc"))
) | frozenset(
    map(PurePosixPath, ("/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var"))  # noqa: S108
)
_HIDDEN_FOLDERS = tuple(
    map(PurePosixPath, ("/home", "/root", "/run/user", "/tmp", "/var/tmp"))  # noqa: S108
)
_SHARED_FOLDERS = frozenset(map(PurePosixPath, ("/var/lib", "/var/log", "/usr/local", "/mnt")))


@dataclass(frozen=True, kw_only=True)
class EnrolmentRequest:
    """
    A server as somebody wants it.

    :param server: Its name.
    :param ssh_conn_id: Airflow connection of type ``ssh`` by which it is set up; ``None`` where
        its owner runs one command there.
    :param slots: Trainings at a time.
    :param validation_slots: Validations at a time.
    :param images: Patterns of images that may run there.
    :param gpu: ``auto`` for all GPUs that are found, ``none`` for none.
    :param gpu_shares: Trainings that share one GPU at a time.
    :param state_dir: Where its agent keeps journal and attempts.
    :param engine_socket: The container engine's.
    :param has_service: Whether systemd starts the agent.
    :param python: Command of the Python that runs it.
    """

    server: str
    ssh_conn_id: str | None = None
    slots: int = 1
    validation_slots: int = 1
    images: tuple[str, ...] = ()
    gpu: str = "auto"
    gpu_shares: int = 1
    state_dir: PurePosixPath = STATE_DIR
    engine_socket: PurePosixPath = ENGINE_SOCKET
    has_service: bool = True
    python: str = "python3"


@dataclass(frozen=True, kw_only=True)
class Stores:
    """
    Where a server finds the queues and the object store.

    :param region: AWS region.
    :param queues_url: Endpoint of the queues; ``None`` for AWS's own.
    :param objects_url: Where presigned URLs lead to.
    """

    region: str
    queues_url: str | None
    objects_url: str


def check_request(requested: EnrolmentRequest) -> None:
    """
    Check what somebody wants, before anything is done for it.

    :raises ConfigurationError: Naming the field, what was found, and the way out.
    """
    check_server_name(requested.server)
    for name, number in (
        ("slots", requested.slots),
        ("validation_slots", requested.validation_slots),
    ):
        if not 0 <= number <= MAX_SLOTS:
            raise ConfigurationError(f"{name}: {number} is not from 0 to {MAX_SLOTS}")
    if not 1 <= requested.gpu_shares <= 64:
        raise ConfigurationError(f"gpu_shares: {requested.gpu_shares} is not from 1 to 64")
    if requested.gpu not in {"auto", "none"}:
        raise ConfigurationError(f"gpu: {requested.gpu[:40]!r} is neither auto nor none")
    if not requested.images:
        raise ConfigurationError("images: name at least the trainer's, with --image")
    for image in requested.images:
        if not image or len(image) > 512 or not image.isprintable() or " " in image:
            raise ConfigurationError(f"images: {image[:60]!r} cannot be an image's name")
    _check_folder("state_dir", requested.state_dir)
    if requested.state_dir in _SYSTEM_FOLDERS | _SHARED_FOLDERS:
        raise ConfigurationError(
            f"state_dir: {requested.state_dir} is not the agent's alone, and removing the server "
            f"removes it; name a folder of its own, such as {STATE_DIR}"
        )
    _check_folder("engine_socket", requested.engine_socket)
    for name, path in (
        ("state_dir", requested.state_dir),
        ("engine_socket", requested.engine_socket),
    ):
        if requested.has_service and any(path.is_relative_to(hidden) for hidden in _HIDDEN_FOLDERS):
            raise ConfigurationError(
                f"{name}: {path} is where the service sees nothing, as of all home folders and "
                "temporary ones: name another place"
            )
    if not requested.python or not all(c.isalnum() or c in "/._-" for c in requested.python):
        raise ConfigurationError(f"python: {requested.python[:60]!r} cannot be a command's name")


def _check_folder(name: str, path: PurePosixPath) -> None:
    text = str(path)
    is_plain = all(c.isalnum() or c in "/._-" for c in text)  # it stands in a unit file
    if not path.is_absolute() or ".." in path.parts or not is_plain or len(text) > 200:
        raise ConfigurationError(
            f"{name}: {text[:60]!r} is not an absolute path of letters, digits and /._-"
        )


def find_other_environment(server: Server | None, env: str) -> str | None:
    """
    Return why a server may not work for an environment: it is online in another one.

    :param server: The server's record, if there is one.
    :param env: The environment that wants it.
    """
    if server is None or server.env in {None, env}:
        return None
    is_idle = server.drained is not None and not server.running
    if is_idle or server.state is EnrolmentState.REMOVED:
        return None
    name = server.server
    return (
        f"{name} is online in environment {server.env}: run `touchstone fleet drain {name}` there "
        f"and let end what runs, or `touchstone agent remove {name}`"
    )


def belongs_here(entry: Server | ServerEntry, env: str) -> bool:
    """
    Tell whether a server works for an environment, and is not being removed.

    One whose record makes no sense does, as far as that is known: it must be told of.
    """
    server = entry.server if isinstance(entry, ServerEntry) else entry
    leaving = {EnrolmentState.REMOVING, EnrolmentState.REMOVED}
    return entry.env in {None, env} and (server is None or server.state not in leaving)


def list_server_queues(server: str) -> tuple[str, str]:
    """Return the queues that are one server's alone."""
    return build_request_queue(server), build_control_queue(server)


def build_identity_name(server: str) -> str:
    """Return the name of a server's identity at AWS, which takes 64 characters."""
    return f"ts-{server}"


def build_agent_policy(*, server: str, env: str, region: str, account: str) -> dict[str, object]:
    """
    Return what one server's identity may do at AWS: its own queues, and telling.

    Nothing of S3: files travel by presigned URL. Nothing of another server's queues, and of the
    events of all only sending, whose senders are told apart by their signatures.

    :param account: The AWS account that has the queues.
    """

    def name_queue(queue: str) -> str:
        return f"arn:aws:sqs:{region}:{account}:{queue}"

    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "ReceiveCommands",
                "Effect": "Allow",
                "Action": ["sqs:GetQueueUrl", "sqs:ReceiveMessage", "sqs:DeleteMessage"],
                "Resource": [name_queue(queue) for queue in list_server_queues(server)],
            },
            {
                "Sid": "SendEvents",
                "Effect": "Allow",
                "Action": ["sqs:GetQueueUrl", "sqs:SendMessage"],
                "Resource": [name_queue(build_event_queue(env))],
            },
        ],
    }


def render_agent_config(requested: EnrolmentRequest, *, env: str, stores: Stores) -> str:
    """Return the settings file of a server's agent; it holds no secret."""
    top: dict[str, object] = {
        "env": env,
        "server": requested.server,
        "state_dir": str(requested.state_dir),
        "private_key_file": "server.key",
        "control_public_key_file": "control.pub",
        "images_allowed": list(requested.images),
        "slots": requested.slots,
        "validation_slots": requested.validation_slots,
        "gpu": requested.gpu,
        "gpu_shares": requested.gpu_shares,
        "objects_url": stores.objects_url,
    }
    sqs: dict[str, object] = {"region": stores.region, "credentials_file": "aws_credentials"}
    if stores.queues_url is not None:
        sqs["endpoint_url"] = stores.queues_url
    return render_toml(top, {"sqs": sqs, "docker": {"url": f"unix://{requested.engine_socket}"}})


def render_toml(top: Mapping[str, object], tables: Mapping[str, Mapping[str, object]]) -> str:
    """Return a TOML document of texts, numbers, and lists of them."""
    # JSON's strings, numbers and lists of strings are TOML's as well.
    lines = [f"{key} = {json.dumps(value)}" for key, value in top.items()]
    for table, values in tables.items():
        lines += ["", f"[{table}]", *(f"{k} = {json.dumps(v)}" for k, v in values.items())]
    return "\n".join(lines) + "\n"


def render_credentials(key_id: str, secret: str) -> str:
    """Return the file by which a server's agent is known to AWS."""
    return f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = {secret}\n"


# --- what is on record ----------------------------------------------------------------------------


def take_lease(server: Server, *, token: str, by: str, now: datetime) -> Server:
    """
    Say what a record becomes when somebody begins, or goes on, to work on its server.

    :param token: Of this work alone.
    :raises ConfigurationError: If somebody else is at it.
    """
    held = server.worked_on
    if held is not None and held.token != token and held.until > now:
        raise ConfigurationError(
            f"{held.by} is at work on {server.server} right now; wait until that has "
            f"ended, or until {held.until.isoformat()[:19]} UTC if nobody is"
        )
    return server.change(worked_on=WorkLease(token=token, by=by, until=now + LEASE))


def was_heard(server: Server, *, since: datetime) -> bool:
    """Tell whether a heartbeat was taken in since a moment."""
    return server.heartbeat_at is not None and server.heartbeat_at > since


def describe_server(entry: ServerEntry) -> dict[str, object]:
    """Return what ``agent list`` tells of a server: plain JSON values."""
    server = entry.server
    if server is None:
        unknown = dict.fromkeys(("version", "commit", "heard_at", "ssh_conn_id", "enrolled_by"))
        return {"server": entry.name, "env": entry.env, "state": "unreadable", **unknown}
    enrolment = server.enrolment
    version = (server.inventory.agent_version if server.inventory else None) or ""
    number, _, commit = version.partition("+")
    return {
        "server": server.server,
        "env": server.env,
        "state": server.state.value if server.state else "known",
        "version": number or None,
        "commit": commit.removeprefix("g") or None,
        "heard_at": server.heartbeat_at.isoformat() if server.heartbeat_at else None,
        "ssh_conn_id": enrolment.ssh_conn_id if enrolment else None,
        "enrolled_by": enrolment.by if enrolment else None,
    }
