"""Every request a client makes, through one funnel."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from touchstone.client.access import Access
from touchstone.client.errors import (
    Forbidden,
    LoginRefused,
    NotFound,
    NotInstalled,
    Refused,
    RunExists,
    Unreachable,
)

DAG_ID = "touchstone"
LIST_LIMIT = 500
"""As many submissions as the API lists at once."""

_DAG = f"/api/v2/dags/{DAG_ID}"
_API = "/touchstone/api/v1"
_PAUSES = (0.2, 0.5, 1.0)
"""Seconds before each further try of a request that changes nothing."""

_BUSY_PAUSES = (1.0, 2.0, 4.0, 8.0)
"""The same of an upload, while as many are under way as are taken at once."""

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_PARAM = re.compile(r"Invalid input for param (?P<field>\w+): (?P<message>[^\n]*)")


class Client:
    """
    Speaks to one installation as one user.

    :param access: Where it is and who asks.
    :param transport: How requests travel; ``None`` for the network.
    :param sleep: Waits that many seconds.
    """

    def __init__(
        self,
        access: Access,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._access = access
        self._token = access.token
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=access.url,
            transport=transport,
            timeout=30,
            # No proxy of the environment reaches this machine's own loopback.
            trust_env=httpx.URL(access.url).host not in _LOOPBACK,
        )

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self._http.close()

    # --- runs ------------------------------------------------------------------------------

    def start_run(self, run_id: str, conf: dict[str, Any]) -> dict[str, Any]:
        """
        Start a run of the DAG.

        :param run_id: The run's id; decides the submission's.
        :param conf: Flat conf, keys of :data:`touchstone.core.conf.CONF_KEYS`.
        :raises RunExists: If there is a run of that id.
        :raises Refused: If Airflow refuses a field, naming it.
        """
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        pauses, is_unsure = iter(_PAUSES), False
        while True:
            try:
                return self._ask("POST", f"{_DAG}/dagRuns", json=body)
            except RunExists as error:
                if is_unsure:
                    # The request that was not heard back of had started it.
                    return self.get_run(run_id)
                message = f"there is a run {run_id!r} already"
                raise RunExists(message, status=error.status) from error
            except Unreachable:
                # The run id makes asking twice harmless, so silence need not be the user's.
                pause = next(pauses, None)
                if pause is None:
                    raise
                is_unsure = True
                self._sleep(pause)

    def get_run(self, run_id: str) -> dict[str, Any]:
        """Return a run."""
        return self._ask("GET", f"{_DAG}/dagRuns/{run_id}")

    def is_paused(self) -> bool:
        """Tell whether the DAG is paused: its runs wait until somebody unpauses it."""
        return bool(self._ask("GET", _DAG).get("is_paused"))

    def list_run_tasks(self, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run."""
        tasks = self._ask("GET", f"{_DAG}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return list(tasks)

    def get_run_task_log(self, run_id: str, task: dict[str, Any]) -> list[dict[str, Any]]:
        """
        Return the newest log of a task instance, line by line.

        :param task: One of :meth:`list_run_tasks`.
        """
        path = f"{_DAG}/dagRuns/{run_id}/taskInstances/{task['task_id']}/logs/{task['try_number']}"
        query = {"full_content": "true", "map_index": task.get("map_index", -1)}
        lines = self._ask("GET", path, params=query)["content"]
        return [line if isinstance(line, dict) else {"event": str(line)} for line in lines]

    # --- submissions -----------------------------------------------------------------------

    def list_submissions(
        self,
        *,
        status: str | None = None,
        user: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> dict[str, Any]:
        """
        Return the newest submissions.

        :param cursor: The ``next`` of an earlier page; ``None`` for the first one.
        :return: ``submissions``, and ``next``: ``None`` if there are no more.
        """
        query = {"status": status, "user": user, "limit": limit, "cursor": cursor}
        given = {key: value for key, value in query.items() if value is not None}
        return self._ask("GET", f"{_API}/submissions", params=given)

    def list_all_submissions(
        self, *, status: str | None = None, user: str | None = None
    ) -> dict[str, Any]:
        """Return all submissions, page by page; otherwise like :meth:`list_submissions`."""
        page = self.list_submissions(status=status, user=user, limit=LIST_LIMIT)
        found = [*page["submissions"]]
        while page.get("next"):
            page = self.list_submissions(
                status=status, user=user, limit=LIST_LIMIT, cursor=page["next"]
            )
            found += page["submissions"]
        return {**page, "submissions": found}

    def get_submission(self, submission_id: str) -> dict[str, Any]:
        """
        Return a submission and its tasks.

        :raises NotFound: If there is none of that id that the user may see.
        """
        return self._ask("GET", f"{_API}/submissions/{submission_id}")

    def get_results(self, submission_id: str) -> dict[str, Any]:
        """Return what a submission came to."""
        return self._ask("GET", f"{_API}/submissions/{submission_id}/results")

    def get_log(
        self, submission_id: str, task_id: str, *, offset: int = 0, attempt: str | None = None
    ) -> dict[str, Any]:
        """Return a page of a task's console."""
        query: dict[str, Any] = {"offset": offset}
        if attempt is not None:
            query["attempt"] = attempt
        return self._ask(
            "GET", f"{_API}/submissions/{submission_id}/tasks/{task_id}/log", params=query
        )

    def upload(self, archive: bytes) -> str:
        """Upload a ``.tar.gz``; return the source that stands for it."""
        pauses = iter(_BUSY_PAUSES)
        while True:
            try:
                answer = self._ask(
                    "POST",
                    f"{_API}/content",
                    content=archive,
                    headers={"Content-Type": "application/gzip"},
                )
            except Refused as error:
                pause = next(pauses, None) if error.status == 429 else None
                if pause is None:
                    raise
                self._sleep(pause)
            else:
                return str(answer["source"])

    def cancel(self, submission_id: str, reason: str | None) -> dict[str, Any]:
        """End a submission's tasks and runs."""
        return self._ask(
            "POST", f"{_API}/submissions/{submission_id}/cancel", json={"reason": reason}
        )

    def retract(self, submission_id: str) -> dict[str, Any]:
        """Withdraw a submission for good."""
        return self._ask("POST", f"{_API}/submissions/{submission_id}/retract", json={})

    # --- RunPod ----------------------------------------------------------------------------

    def list_gpus(self) -> dict[str, Any]:
        """Return the GPU models that can be rented now."""
        return self._ask("GET", f"{_API}/gpus")

    # --- the fleet -------------------------------------------------------------------------

    def get_fleet(self) -> dict[str, Any]:
        """Return how servers and pools are."""
        return self._ask("GET", f"{_API}/fleet")

    def check_fleet(self, text: str) -> dict[str, Any]:
        """Return what applying a fleet file would do."""
        return self._ask("POST", f"{_API}/fleet/check", json={"text": text})

    def apply_fleet(self, text: str) -> dict[str, Any]:
        """Apply a fleet file, all of it or nothing."""
        return self._ask("POST", f"{_API}/fleet/apply", json={"text": text})

    def reload_fleet(self) -> dict[str, Any]:
        """Apply the installation's own fleet file."""
        return self._ask("POST", f"{_API}/fleet/reload", json={})

    def drain_server(self, name: str) -> dict[str, Any]:
        """Let nothing new start on a server."""
        return self._ask("POST", f"{_API}/servers/{quote(name, safe='')}/drain", json={})

    def attach_server(self, name: str, slots: int | None) -> dict[str, Any]:
        """Give a drained server its slots back; ``None`` for as many as it had."""
        return self._ask(
            "POST", f"{_API}/servers/{quote(name, safe='')}/attach", json={"slots": slots}
        )

    def pause_placements(self, reason: str | None) -> dict[str, Any]:
        """Let nothing new start anywhere."""
        return self._ask("POST", f"{_API}/placements/pause", json={"reason": reason})

    def resume_placements(self) -> dict[str, Any]:
        """Let tasks start again."""
        return self._ask("POST", f"{_API}/placements/resume", json={})

    # --- the funnel ------------------------------------------------------------------------

    def _ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        if self._token is None:
            self._token = self._log_in()
        answer = self._send(method, path, self._token, **request)
        if answer.status_code == 401 and self._access.password is not None:
            # The token ran out while somebody waited for a long training.
            self._token = self._log_in()
            answer = self._send(method, path, self._token, **request)
        return self._read(answer)

    def _send(self, method: str, path: str, token: str | None, **request: Any) -> httpx.Response:
        headers = {"Accept": "application/json", **request.pop("headers", {})}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        pauses = iter(_PAUSES if method == "GET" else ())
        while True:
            try:
                return self._http.request(method, path, headers=headers, **request)
            except httpx.InvalidURL as error:
                raise NotInstalled(f"{self._access.url} is not an address: {error}") from error
            except httpx.TransportError as error:
                pause = next(pauses, None)
                if pause is None:
                    raise self._explain_silence(method, error) from error
                self._sleep(pause)

    def _explain_silence(self, method: str, error: httpx.TransportError) -> Unreachable:
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return Unreachable(
                f"nothing answers at {self._access.url}: is the stack up? `touchstone up`"
            )
        unsure = "" if method == "GET" else "; look with `touchstone list` before trying again"
        return Unreachable(
            f"the connection to {self._access.url} broke ({type(error).__name__}){unsure}"
        )

    def _log_in(self) -> str:
        body = {"username": self._access.user, "password": self._access.password}
        answer = self._send("POST", "/auth/token", None, json=body)
        if answer.status_code in {400, 401, 403}:
            raise self._refuse_login()
        token = self._read(answer).get("access_token")
        if not isinstance(token, str):
            raise NotInstalled(f"{self._access.url} gives no tokens: set TOUCHSTONE_TOKEN")
        return token

    def _refuse_login(self) -> LoginRefused:
        if self._access.password is None:
            return LoginRefused(
                f"{self._access.url} refuses TOUCHSTONE_TOKEN: it has run out or is not for this "
                "installation; get another, or set TOUCHSTONE_USER and TOUCHSTONE_PASSWORD"
            )
        return LoginRefused(
            f"{self._access.url} does not let {self._access.user!r} in: check TOUCHSTONE_USER and "
            "TOUCHSTONE_PASSWORD"
        )

    def _read(self, answer: httpx.Response) -> dict[str, Any]:
        if answer.status_code == 401:
            raise self._refuse_login()
        body = _find_json(answer)
        if answer.status_code >= 500:
            detail = body.get("detail") if body else None
            raise Unreachable(
                f"{self._access.url} answers {answer.status_code}"
                + (f": {detail}" if isinstance(detail, str) else "")
            )
        if answer.is_success:
            if body is None:
                # A plugin that cannot be imported leaves its addresses to Airflow's own pages.
                raise NotInstalled(
                    f"{self._access.url} answers, but not as Touchstone: its plugin is missing or "
                    "cannot be imported (see Airflow's /api/v2/plugins/importErrors)"
                )
            return body
        raise _explain_refusal(answer.status_code, body or {})


def _find_json(answer: httpx.Response) -> dict[str, Any] | None:
    if not answer.headers.get("content-type", "").startswith("application/json"):
        return None
    try:
        body = answer.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _explain_refusal(status: int, body: dict[str, Any]) -> Refused:
    detail, field = body.get("detail"), body.get("field")
    if isinstance(detail, list) and detail:
        # Airflow's own validation: one entry per error, each with its place.
        first = detail[0]
        field = ".".join(str(part) for part in first.get("loc", ())[1:]) or None
        detail = first.get("msg")
    message = detail if isinstance(detail, str) else f"the api-server answers {status}"
    if match := _PARAM.search(message):
        # Behind this line follows a dump of the whole JSON schema.
        field = match["field"]
        message = f"{field}: {match['message']}"
    elif isinstance(field, str) and not message.startswith(f"{field}:"):
        message = f"{field}: {message}"
    if status == 403:
        return Forbidden(message, status=status, field=field)
    if status == 404:
        return NotFound(message, status=status, field=field)
    if status == 409:
        # Airflow's only conflict here is a run id that is taken; ours come with a sentence.
        kind = Refused if isinstance(detail, str) else RunExists
        return kind(message, status=status, field=field)
    return Refused(message, status=status, field=field)
