"""Servers join by a DAG run, for those who may let them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from touchstone.core.enrolment import ENGINE_SOCKET, STATE_DIR, EnrolmentRequest, check_request
from touchstone.operators.authority import get_map_index, get_run
from touchstone.settings import get_settings
from touchstone_agent.protocol.errors import ConfigurationError, TouchstoneError, TransientError

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.sdk.types import TaskInstanceKey

SERVERS = "servers"
"""The run's parameter that lists the servers."""
MAX_SERVERS = 200
_RECORDS = "/touchstone/api/v1/servers"


class ServerLink(BaseOperatorLink):
    """Leads to the record of the server that a task lets join."""

    name = "Server's record"

    def get_link(
        self,
        operator: BaseOperator,
        *,
        ti_key: TaskInstanceKey,  # noqa: ARG002 - Airflow's signature
    ) -> str:
        """
        Return where Touchstone's API shows it; of a task that has not come so far, where all are.

        Airflow asks when the task has ended, whichever way, and keeps the answer.
        """
        from airflow.sdk.configuration import conf

        server = getattr(operator, "server", None)
        path = f"{_RECORDS}/{server}" if server else _RECORDS
        return f"{conf.get('api', 'base_url', fallback='').rstrip('/')}{path}"


class ListServersOperator(BaseOperator):
    """
    Checks a run's servers and its user before it touches any server.

    :return: (XCom) A number for each server; what it stands for is read from the run itself.
    """

    def execute(self, context: Context) -> list[int]:
        """
        Return the places of the servers in the run's list.

        :raises AirflowFailException: If the list is wrong, or it is not an admin's run.
        """
        return list(range(len(read_requests(context))))


class EnrolOperator(BaseOperator):
    """
    Lets one server of the run's list join, as ``touchstone agent enroll --ssh`` does.

    :return: (XCom) The server, what runs there, and whether anything was done.
    """

    operator_extra_links = (ServerLink(),)

    def __init__(self, *, place: object, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.place = place
        self.server: str | None = None

    def execute(self, context: Context) -> dict[str, object]:
        """
        Enrol it; a server that has joined stays unchanged.

        :raises AirflowFailException: If no repetition would mend it.
        :raises AirflowException: If something does not answer; the next try goes on.
        """
        from touchstone.enrolling.bundle import find_bundle
        from touchstone.enrolling.registering import Registrar
        from touchstone.enrolling.service import Enrolling, Step

        requests = read_requests(context)
        place = get_map_index(context["ti"])
        if not 0 <= place < len(requests):
            raise AirflowFailException(f"there is no server {place} in the run's list")
        requested = requests[place]
        self.server = requested.server

        def report(step: Step) -> None:
            self.log.info("%s: %s: %s: %s", step.server, step.name, step.state, step.text)

        settings = get_settings()
        try:
            registrar = Registrar.connect(settings, by=get_run(context).user)
            done = Enrolling(registrar, find_bundle(settings), report=report).enroll(requested)
        except TransientError as error:
            raise AirflowException(f"{requested.server}: {error}") from error
        except TouchstoneError as error:
            raise AirflowFailException(f"{requested.server}: {error}") from error
        return {"server": done.server, "version": done.version, "is_changed": done.is_changed}


def read_requests(context: Context) -> list[EnrolmentRequest]:
    """
    Return the servers that a run lists.

    :raises AirflowFailException: If it is not an admin's run, or a server is described wrongly.
    """
    user, settings = get_run(context).user, get_settings()
    if user not in settings.admins:
        raise AirflowFailException(
            f"nothing was done: {user} may enrol no servers; an admin may (TOUCHSTONE_ADMINS)"
        )
    listed = context["params"].get(SERVERS)
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_SERVERS:
        raise AirflowFailException(f"{SERVERS}: is no list of 1 to {MAX_SERVERS} servers")
    trainers = (settings.trainer_image, *filter(None, [settings.trainer_image_cuda]))
    requests = []
    for place, item in enumerate(listed):
        try:
            requested = _read_request(item, trainers)
            check_request(requested)
            if not requested.ssh_conn_id:
                raise ConfigurationError("ssh_conn_id: is missing")
        except (ConfigurationError, TypeError, ValueError) as error:
            raise AirflowFailException(f"{SERVERS}[{place}]: {error}") from error
        requests.append(requested)
    names = [requested.server for requested in requests]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise AirflowFailException(f"{SERVERS}: {twice} stands there twice; keep one")
    return requests


def _read_request(item: object, trainers: tuple[str, ...]) -> EnrolmentRequest:
    if not isinstance(item, Mapping):
        raise ConfigurationError("is not an object with server and ssh_conn_id")
    unknown = set(item) - set(_PROPERTIES)
    if unknown:
        raise ConfigurationError(f"{sorted(map(str, unknown))[0][:40]}: is not known")
    return EnrolmentRequest(
        server=str(item.get("server") or ""),
        ssh_conn_id=str(item.get("ssh_conn_id") or ""),
        slots=int(item.get("slots", 1)),
        validation_slots=int(item.get("validation_slots", 1)),
        images=tuple(map(str, item.get("images") or trainers)),
        gpu=str(item.get("gpu", "auto")),
        gpu_shares=int(item.get("gpu_shares", 1)),
        state_dir=PurePosixPath(str(item.get("state_dir") or STATE_DIR)),
        engine_socket=PurePosixPath(str(item.get("engine_socket") or ENGINE_SOCKET)),
        has_service=item.get("has_service", True) is not False,
    )


_PROPERTIES: dict[str, object] = {
    "server": {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,59}$"},
    "ssh_conn_id": {"type": "string", "minLength": 1, "maxLength": 250},
    "slots": {"type": "integer", "minimum": 0, "maximum": 1000},
    "validation_slots": {"type": "integer", "minimum": 0, "maximum": 1000},
    "images": {"type": "array", "items": {"type": "string", "maxLength": 512}, "maxItems": 50},
    "gpu": {"enum": ["auto", "none"]},
    "gpu_shares": {"type": "integer", "minimum": 1, "maximum": 64},
    "state_dir": {"type": "string", "maxLength": 200},
    "engine_socket": {"type": "string", "maxLength": 200},
    "has_service": {"type": "boolean"},
}

SERVER_SCHEMA: dict[str, object] = {
    "type": "object",
    "required": ["server", "ssh_conn_id"],
    "additionalProperties": False,
    "properties": _PROPERTIES,
}
"""How a run describes a server, as JSON Schema."""
