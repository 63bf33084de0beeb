"""Every request a client makes, through one funnel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import quote, urlencode

import httpx
from pydantic import JsonValue, TypeAdapter, ValidationError

from touchstone.client.access import Access
from touchstone.client.answers import (
    Answer,
    AttachedServer,
    Comparison,
    DataSetList,
    DataSetVersions,
    DrainedServer,
    EventList,
    EventObjection,
    FleetStatus,
    Leaderboard,
    Results,
    ShownDataSet,
    ShownEvent,
    ShownQueue,
    SubmissionAnswer,
    SubmissionList,
    Token,
)
from touchstone.client.errors import (
    Forbidden,
    LoginRefused,
    NotFound,
    NotInstalled,
    Refused,
    RunExists,
    Unreachable,
)
from touchstone.core.answers.acts import Closing, Ended, Reordered, Sent, ShownRun
from touchstone.core.answers.audit import AuditLog
from touchstone.core.answers.comparison import ComparedSubmissions
from touchstone.core.answers.costs import CostReport
from touchstone.core.answers.fleet import FleetReport, Placements, ServerWork
from touchstone.core.answers.gpus import GpuCatalogue
from touchstone.core.answers.plans import SchedulePlan
from touchstone.core.answers.sources import SourceReport, Uploaded
from touchstone.core.answers.tasks import LogPage, TaskFiles, TaskList
from touchstone_agent.protocol.words import describe_refusal

LIST_LIMIT = 500
"""As many submissions as the API lists at once."""

_API = "/touchstone/api/v1"
_PAUSES = (0.2, 0.5, 1.0)
"""Seconds before each further try of a request that changes nothing."""

_BUSY_PAUSES = (1.0, 2.0, 4.0, 8.0)
"""The same of a request that waits for its turn, of an upload for example."""

KEY_HEADER = "Idempotency-Key"
_MOST_KEPT = 8
"""Answers that are kept by their tags: who waits asks for one or two over and over."""

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

Read = TypeVar("Read")
Document = dict[str, JsonValue]


@dataclass(frozen=True, kw_only=True)
class _KeptAnswer:
    """An answer that may be given again, as long as the API says that its tag is still right."""

    tag: str
    document: Document


class Client:
    """
    Speaks to one installation as one user.

    :param access: Where it is and who asks.
    :param transport: How requests travel; ``None`` for the network.
    :param agent: What the program calls itself; the audit tells the command line by it.
    :param sleep: Waits that many seconds.
    """

    def __init__(
        self,
        access: Access,
        *,
        transport: httpx.BaseTransport | None = None,
        agent: str = "touchstone-client",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._access = access
        self._token = access.token
        self._sleep = sleep
        self._kept: dict[str, _KeptAnswer] = {}
        self._http = httpx.Client(
            base_url=access.url,
            transport=transport,
            timeout=30,
            headers={"User-Agent": agent},
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
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def build_page_address(self, submission_id: str) -> str:
        """Return the address of a submission's page."""
        path = f"/touchstone/pages/submissions/{quote(submission_id, safe='')}"
        return f"{self._access.url}{path}"

    # --- runs ------------------------------------------------------------------------------

    def get_run(self, run_id: str) -> ShownRun:
        """
        Return a run of the DAG.

        :raises NotFound: If there is none that the user has a part in.
        """
        return self._get(ShownRun, f"runs/{quote(run_id, safe='')}").value

    # --- submissions -----------------------------------------------------------------------

    def list_submissions(
        self,
        *,
        status: str | None = None,
        user: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Answer[SubmissionList]:
        """
        Return the newest submissions.

        :param cursor: The ``next`` of an earlier page; ``None`` for the first one.
        """
        return self._read(SubmissionList, self._list(status, user, limit, cursor))

    def list_all_submissions(
        self, *, status: str | None = None, user: str | None = None
    ) -> Answer[SubmissionList]:
        """Return all submissions, page by page; otherwise like :meth:`list_submissions`."""
        page = self._list(status, user, LIST_LIMIT, None)
        found = _get_list(page, "submissions")
        while cursor := page.get("next"):
            page = self._list(status, user, LIST_LIMIT, str(cursor))
            found += _get_list(page, "submissions")
        return self._read(SubmissionList, {**page, "submissions": found})

    def _list(
        self, status: str | None, user: str | None, limit: int, cursor: str | None
    ) -> Document:
        query = {"status": status, "user": user, "limit": str(limit), "cursor": cursor}
        given = {key: value for key, value in query.items() if value is not None}
        return self._ask("GET", f"{_API}/submissions", params=given)

    def get_submission(self, submission_id: str) -> Answer[SubmissionAnswer]:
        """
        Return a submission and its tasks.

        :raises NotFound: If there is none of that id that the user may see.
        """
        return self._get(SubmissionAnswer, f"submissions/{submission_id}")

    def find_submission(self, submission_id: str) -> SubmissionAnswer | None:
        """Return a submission and its tasks; ``None`` if there is none that the user may see."""
        try:
            return self.get_submission(submission_id).value
        except NotFound:
            return None

    def submit(self, fields: Mapping[str, object], key: str) -> Answer[Sent]:
        """
        Submit a module, with a schedule or without.

        :param fields: As in a run's conf.
        :param key: The request's own name: it is one submission however often it is sent.
        :raises Refused: If a field is wrong, which it names, or the key is another request's.
        """
        return self._post_once(Sent, "submissions", fields, key)

    def submit_as(self, submission_id: str, fields: Mapping[str, object]) -> Answer[Sent]:
        """
        Submit a module, or replay a training, under an id that decides what it is.

        :param submission_id: The id: what it stands for is one submission however often it is sent.
        :param fields: As in a run's conf.
        :raises RunExists: If the id belongs to another submission.
        :raises Refused: If a field is wrong, which it names.
        """
        path = f"{_API}/submissions/{quote(submission_id, safe='')}"

        def ask() -> Document:
            return self._ask("PUT", path, json=fields)

        try:
            return self._read(Sent, self._repeat(ask))
        except Refused as error:
            if error.status != 409:
                raise
            raise RunExists(str(error), status=409, field=error.field) from error

    def schedule(self, submission_id: str, fields: Mapping[str, object], key: str) -> Answer[Sent]:
        """
        Schedule an accepted submission.

        :param fields: The schedule, as in a run's conf.
        :param key: As for :meth:`submit`.
        """
        return self._post_once(Sent, f"submissions/{submission_id}/schedule", fields, key)

    def plan(
        self, submission_ids: Sequence[str], schedule: Mapping[str, object]
    ) -> Answer[SchedulePlan]:
        """
        Return what would become of a schedule if it were given now; nothing is changed.

        :param submission_ids: Accepted submissions that it would be given to.
        :param schedule: Its fields, as in a run's conf.
        :raises Refused: What a real scheduling would refuse, with the field's name.
        """
        body = {"submissions": list(submission_ids), "schedule": schedule}
        return self._post(SchedulePlan, "plans", body)

    def get_results(self, submission_id: str) -> Answer[Results]:
        """Return what a submission came to."""
        return self._get(Results, f"submissions/{submission_id}/results")

    def get_log(
        self, submission_id: str, task_id: str, *, offset: int = 0, attempt: str | None = None
    ) -> Answer[LogPage]:
        """Return a page of a task's console."""
        query = {"offset": str(offset)}
        if attempt is not None:
            query["attempt"] = attempt
        path = f"{_API}/submissions/{submission_id}/tasks/{task_id}/log"
        return self._read(LogPage, self._ask("GET", path, params=query))

    def list_files(self, submission_id: str, task_id: str) -> Answer[TaskFiles]:
        """Return the files that a training has left, with where they can be read."""
        path = f"{_API}/submissions/{submission_id}/tasks/{quote(task_id, safe='')}/files"
        return self._read(TaskFiles, self._ask("GET", path))

    def iterate_file(self, url: str) -> Iterator[bytes]:
        """
        Yield a file of :meth:`list_files`, piece by piece.

        :raises Unreachable: If the store does not answer, or says no.
        """
        # Our own token is nothing for a store.
        try:
            with self._http.stream("GET", url) as answer:
                if not answer.is_success:
                    raise Unreachable(f"the object store answers {answer.status_code}; try again")
                yield from answer.iter_bytes()
        except httpx.TransportError as error:
            raise Unreachable(
                f"the connection to the object store broke ({type(error).__name__}); try again"
            ) from error

    def list_tasks(
        self,
        *,
        status: str | None = None,
        server: str | None = None,
        submission_id: str | None = None,
        user: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Answer[TaskList]:
        """
        Return tasks of all submissions that the user may see, the newest first.

        :param server: For admins, those at work there; with a user or a submission, what ran there.
        :param cursor: The ``next`` of an earlier page; ``None`` for the first one.
        """
        query = {
            "status": status,
            "server": server,
            "submission": submission_id,
            "user": user,
            "limit": str(limit),
            "cursor": cursor,
        }
        given = {key: value for key, value in query.items() if value is not None}
        return self._read(TaskList, self._ask("GET", f"{_API}/tasks", params=given))

    def look(self, fields: Mapping[str, object]) -> Answer[SourceReport]:
        """
        Return what is known of a source before it is sent; nothing is changed.

        :param fields: ``source``, and ``system``, ``ref`` and ``path`` as in a run's conf.
        :raises Refused: What ``register`` would refuse of it, with the field's name.
        """

        def ask() -> Document:
            return self._ask("POST", f"{_API}/sources/look", json=fields)

        return self._read(SourceReport, self._repeat(ask))

    def upload(self, archive: bytes) -> str:
        """Upload a ``.tar.gz``; return the source that stands for it."""
        return self._read(Uploaded, self._send_archive("content", archive)).value.source

    def _send_archive(self, path: str, archive: bytes) -> Document:
        headers = {"Content-Type": "application/gzip"}
        return self._wait_while_busy(
            lambda: self._ask("POST", f"{_API}/{path}", content=archive, headers=headers)
        )

    def _wait_while_busy(self, ask: Callable[[], Document]) -> Document:
        """Ask, and again after a while if as many ask as are answered at once."""
        pauses = iter(_BUSY_PAUSES)
        while True:
            try:
                return ask()
            except Refused as error:
                pause = next(pauses, None) if error.status == 429 else None
                if pause is None:
                    raise
                self._sleep(pause)

    def cancel(self, submission_id: str, reason: str | None) -> Answer[Ended]:
        """End a submission's tasks and runs."""
        return self._post(Ended, f"submissions/{submission_id}/cancel", {"reason": reason})

    def retract(self, submission_id: str) -> Answer[Ended]:
        """Withdraw a submission for good."""
        return self._post(Ended, f"submissions/{submission_id}/retract", {})

    # --- the queue -------------------------------------------------------------------------

    def get_queue(self) -> Answer[ShownQueue]:
        """Return what waits for a slot."""
        return self._get(ShownQueue, "queue")

    def change_order(
        self, submission_id: str, task_id: str | None, change: Mapping[str, object]
    ) -> Answer[Reordered]:
        """
        Change the place of what waits.

        :param task_id: The task; ``None`` for all of the submission's.
        :param change: ``priority`` or ``move``, as the API takes it.
        """
        body = {"submission_id": submission_id, "task_id": task_id, **change}
        return self._post(Reordered, "queue/priority", body)

    # --- events ----------------------------------------------------------------------------

    def list_events(self) -> Answer[EventList]:
        """Return all events."""
        return self._get(EventList, "events")

    def get_event(self, name: str) -> Answer[ShownEvent]:
        """Return an event."""
        return self._get(ShownEvent, f"events/{quote(name, safe='')}")

    def get_objection(self, name: str) -> Answer[EventObjection]:
        """Say whether an event takes a submission of the user now."""
        return self._get(EventObjection, f"events/{quote(name, safe='')}/objection")

    def apply_event(self, name: str, text: str) -> Answer[ShownEvent]:
        """Write down what an event's file says."""
        return self._post(ShownEvent, "events/apply", {"name": name, "text": text})

    def set_baseline(self, name: str, baseline: str) -> Answer[ShownEvent]:
        """Set what an event's submissions are compared with."""
        path = f"events/{quote(name, safe='')}/baseline"
        return self._post(ShownEvent, path, {"baseline": baseline})

    def close_event(self, name: str, key: str) -> Answer[Closing]:
        """
        Start the run that closes an event.

        :param key: As for :meth:`submit`.
        """
        return self._post_once(Closing, f"events/{quote(name, safe='')}/close", {}, key)

    def get_closing(self, name: str, run_id: str) -> Answer[Closing]:
        """Return how far the run is that closes an event."""
        path = f"events/{quote(name, safe='')}/closings/{quote(run_id, safe='')}"
        return self._get(Closing, path)

    def get_leaderboard(self, name: str) -> Answer[Leaderboard]:
        """Return all of an event's leaderboard, best first, in as few requests as it takes."""
        path = f"events/{quote(name, safe='')}/leaderboard?limit={LIST_LIMIT}"
        page, first = self._get(Leaderboard, path), 1.0
        document = page.document
        rows, unreadable = (_get_list(document, name) for name in ("rows", "unreadable"))
        while page.value.next is not None and page.value.next > first:
            first = page.value.next
            page = self._get(Leaderboard, f"{path}&first={first}")
            rows = [*rows, *_get_list(page.document, "rows")]
            more = _get_list(page.document, "unreadable")
            unreadable = [*unreadable, *(each for each in more if each not in unreadable)]
        whole = {**document, "rows": rows, "next": None, "unreadable": unreadable}
        return self._read(Leaderboard, whole)

    def compare(self, submission_ids: Sequence[str]) -> Answer[Comparison]:
        """Return what was said of some submissions."""
        wanted = urlencode([("submission", each) for each in submission_ids])
        return self._get(Comparison, f"verdicts?{wanted}")

    def compare_intervals(self, submission_ids: Sequence[str]) -> Answer[ComparedSubmissions]:
        """Return two to five submissions beside each other, by prediction interval."""
        wanted = urlencode([("submission", each) for each in submission_ids])
        return self._get(ComparedSubmissions, f"comparison?{wanted}")

    # --- data sets -------------------------------------------------------------------------

    def list_data_sets(self) -> Answer[DataSetList]:
        """Return all versions of all data sets."""
        return self._get(DataSetList, "data")

    def get_data_set(self, name: str) -> Answer[DataSetVersions]:
        """Return the versions of a data set, the newest first."""
        return self._get(DataSetVersions, f"data/{quote(name, safe='')}")

    def add_data_set(self, archive: bytes) -> Answer[ShownDataSet]:
        """Add a data set, packed."""
        return self._read(ShownDataSet, self._send_archive("data", archive))

    def add_private_data_set(self, text: str, digest: str, data_bytes: int) -> Answer[ShownDataSet]:
        """Add a data set of which only its ``data.toml`` and its digest are sent."""
        body = {"text": text, "digest": digest, "data_bytes": data_bytes}
        return self._post(ShownDataSet, "data/private", body)

    # --- RunPod ----------------------------------------------------------------------------

    def list_gpus(self) -> Answer[GpuCatalogue]:
        """Return the GPU models that can be rented now."""
        return self._get(GpuCatalogue, "gpus")

    # --- costs -----------------------------------------------------------------------------

    def get_costs(
        self, *, month: str | None = None, by: str | None = None, user: str | None = None
    ) -> Answer[CostReport]:
        """
        Return what the pods have cost that were launched in a month.

        :param month: As ``2026-11``; ``None`` for this one.
        :param by: ``submission``, ``submitter`` or ``gpu``; ``None`` for the first.
        :param user: Whose pods alone are counted; ``None`` for all that the user may see.
        """
        query = {"month": month, "by": by, "user": user}
        given = {key: value for key, value in query.items() if value is not None}
        return self._read(CostReport, self._ask("GET", f"{_API}/costs", params=given))

    def list_acts(
        self, submission_id: str | None = None, *, limit: int = 50, cursor: str | None = None
    ) -> Answer[AuditLog]:
        """
        Return who did what, the newest first.

        :param submission_id: To which submission; ``None`` for all acts, which admins may see.
        :param cursor: The ``next`` of an earlier page; ``None`` for the first one.
        """
        of = f"/submissions/{quote(submission_id, safe='')}" if submission_id else ""
        query = {"limit": str(limit), **({"cursor": cursor} if cursor is not None else {})}
        return self._read(AuditLog, self._ask("GET", f"{_API}{of}/audit", params=query))

    # --- the fleet -------------------------------------------------------------------------

    def get_fleet(self) -> Answer[FleetStatus]:
        """Return how servers and pools are."""
        return self._get(FleetStatus, "fleet")

    def check_fleet(self, text: str) -> Answer[FleetReport]:
        """Return what applying a fleet file would do."""
        return self._post(FleetReport, "fleet/check", {"text": text})

    def apply_fleet(self, text: str) -> Answer[FleetReport]:
        """Apply a fleet file, all of it or nothing."""
        return self._post(FleetReport, "fleet/apply", {"text": text})

    def reload_fleet(self) -> Answer[FleetReport]:
        """Apply the installation's own fleet file."""
        return self._post(FleetReport, "fleet/reload", {})

    def drain_server(self, name: str) -> Answer[DrainedServer]:
        """Let nothing new start on a server."""
        return self._post(DrainedServer, f"servers/{quote(name, safe='')}/drain", {})

    def attach_server(self, name: str, slots: int | None) -> Answer[AttachedServer]:
        """Give a drained server its slots back; ``None`` for as many as it had."""
        return self._post(
            AttachedServer, f"servers/{quote(name, safe='')}/attach", {"slots": slots}
        )

    def get_work(self, name: str) -> Answer[ServerWork]:
        """Return what runs on a server, and what draining or attaching it would change."""
        return self._get(ServerWork, f"servers/{quote(name, safe='')}/work")

    def set_slots(
        self, name: str, slots: int, validation_slots: int | None
    ) -> Answer[AttachedServer]:
        """Give a server another number of slots; ``None`` for as many validations as now."""
        body = {"slots": slots, "validation_slots": validation_slots}
        return self._post(AttachedServer, f"servers/{quote(name, safe='')}/slots", body)

    def pause_placements(self, reason: str | None) -> Answer[Placements]:
        """Let nothing new start anywhere."""
        return self._post(Placements, "placements/pause", {"reason": reason})

    def resume_placements(self) -> Answer[Placements]:
        """Let tasks start again."""
        return self._post(Placements, "placements/resume", {})

    # --- the funnel ------------------------------------------------------------------------

    def _get(self, kind: type[Read], path: str) -> Answer[Read]:
        """Return an answer; one that has not changed since it was asked for last is not sent."""
        kept = self._kept.pop(path, None)
        headers = {} if kept is None else {"If-None-Match": kept.tag}
        answer = self._ask_once("GET", f"{_API}/{path}", headers=headers)
        if kept is None or answer.status_code != 304:
            document, tag = self._get_document(answer), answer.headers.get("ETag")
            kept = None if tag is None else _KeptAnswer(tag=tag, document=document)
        else:
            document = kept.document
        if kept is not None:
            # The newest stands last, and the oldest goes.
            self._kept[path] = kept
            while len(self._kept) > _MOST_KEPT:
                del self._kept[next(iter(self._kept))]
        return self._read(kind, document)

    def _post(self, kind: type[Read], path: str, body: Mapping[str, object]) -> Answer[Read]:
        return self._read(kind, self._ask("POST", f"{_API}/{path}", json=body))

    def _post_once(
        self, kind: type[Read], path: str, body: Mapping[str, object], key: str
    ) -> Answer[Read]:
        """Send what its key makes the same request, again if nobody knows whether it arrived."""
        headers = {KEY_HEADER: key}

        def ask() -> Document:
            return self._ask("POST", f"{_API}/{path}", json=body, headers=headers)

        return self._read(kind, self._repeat(ask))

    def _repeat(self, ask: Callable[[], Document]) -> Document:
        """Ask again if nobody knows whether it arrived; for what is one however often it is."""
        pauses = iter(_PAUSES)
        while True:
            try:
                return self._wait_while_busy(ask)
            except Unreachable:
                pause = next(pauses, None)
                if pause is None:
                    raise
                self._sleep(pause)

    def _read(self, kind: type[Read], document: Document) -> Answer[Read]:
        try:
            return Answer(document=document, value=TypeAdapter(kind).validate_python(document))
        except ValidationError as error:
            raise NotInstalled(
                f"{self._access.url} answers with something else than Touchstone of this version "
                f"does: {describe_refusal(error)}"
            ) from error

    def _ask(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, object] | None = None,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Document:
        answer = self._ask_once(
            method, path, json=json, params=params, content=content, headers=headers
        )
        return self._get_document(answer)

    def _ask_once(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, object] | None = None,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Return an answer as it came, having logged in if need be."""

        def send(token: str) -> httpx.Response:
            return self._send(
                method, path, token, json=json, params=params, content=content, headers=headers
            )

        if self._token is None:
            self._token = self._log_in()
        answer = send(self._token)
        if answer.status_code == 401 and self._access.password is not None:
            # The token ran out while somebody waited for a long training.
            self._token = self._log_in()
            answer = send(self._token)
        return answer

    def _send(
        self,
        method: str,
        path: str,
        token: str | None,
        *,
        json: Mapping[str, object] | None = None,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        sent = {"Accept": "application/json", **(headers or {})}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        pauses = iter(_PAUSES if method == "GET" else ())
        while True:
            try:
                return self._http.request(
                    method, path, headers=sent, json=json, params=params, content=content
                )
            except httpx.InvalidURL as error:
                raise NotInstalled(f"{self._access.url} is not an address: {error}") from error
            except httpx.TransportError as error:
                pause = next(pauses, None)
                if pause is None:
                    is_harmless = method in {"GET", "PUT"} or KEY_HEADER in sent
                    raise self._explain_silence(error, is_harmless=is_harmless) from error
                self._sleep(pause)

    def _explain_silence(self, error: httpx.TransportError, *, is_harmless: bool) -> Unreachable:
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return Unreachable(
                f"nothing answers at {self._access.url}: is the stack up? `touchstone up`"
            )
        unsure = "" if is_harmless else "; look with `touchstone list` before trying again"
        return Unreachable(
            f"the connection to {self._access.url} broke ({type(error).__name__}){unsure}"
        )

    def _log_in(self) -> str:
        body: dict[str, object] = {
            "username": self._access.user,
            "password": self._access.password,
        }
        answer = self._send("POST", "/auth/token", None, json=body)
        if answer.status_code in {400, 401, 403}:
            raise self._refuse_login()
        try:
            return Token.model_validate(self._get_document(answer)).access_token
        except ValidationError:
            raise NotInstalled(
                f"{self._access.url} gives no tokens: set TOUCHSTONE_TOKEN"
            ) from None

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

    def _get_document(self, answer: httpx.Response) -> Document:
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


def _get_list(page: Mapping[str, JsonValue], name: str) -> list[JsonValue]:
    found = page.get(name)
    return found if isinstance(found, list) else []


def _find_json(answer: httpx.Response) -> Document | None:
    kind = answer.headers.get("content-type", "").partition(";")[0].strip()
    if kind not in {"application/json", "application/problem+json"}:
        return None
    try:
        body = answer.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


def _explain_refusal(status: int, body: Document) -> Refused:
    detail, said = body.get("detail"), body.get("field")
    field = said if isinstance(said, str) else None
    first = detail[0] if isinstance(detail, list) and detail else None
    if isinstance(first, dict):
        # Airflow's own validation: one entry per error, each with its place.
        place = first.get("loc")
        parts = place[1:] if isinstance(place, list) else []
        field = ".".join(str(part) for part in parts) or None
        detail = first.get("msg")
    message = detail if isinstance(detail, str) else f"the api-server answers {status}"
    if field is not None and not message.startswith(f"{field}:"):
        message = f"{field}: {message}"
    if status == 403:
        return Forbidden(message, status=status, field=field)
    if status == 404:
        return NotFound(message, status=status, field=field)
    return Refused(message, status=status, field=field)
