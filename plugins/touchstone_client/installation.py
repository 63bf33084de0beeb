"""One installation, as a script uses it."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, Unpack

import httpx

from touchstone.client.access import Access, get_access
from touchstone.client.answers import Answer, Results, SubmissionAnswer, SubmissionList
from touchstone.client.api import Client
from touchstone.client.console import Reader, find_task
from touchstone.client.downloading import Fetched, download
from touchstone.client.packing import is_remote
from touchstone.client.requests import check_conf, check_id, drop_none, pack_source
from touchstone.client.watch import Ending, Snapshot, Watcher, get_submission
from touchstone.core.answers.acts import Ended, Sent
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_client.sending import ScheduleFields, Submitted

AGENT = "touchstone-client"
_LOGIN = ("TOUCHSTONE_TOKEN", "TOUCHSTONE_USER", "TOUCHSTONE_PASSWORD")


def connect(
    url: str | None = None,
    *,
    token: str | None = None,
    user: str | None = None,
    password: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Touchstone:
    """
    Return an installation; nobody logs in before the first question.

    What is not given is read from the environment: ``TOUCHSTONE_URL``, and ``TOUCHSTONE_TOKEN`` or
    ``TOUCHSTONE_USER`` and ``TOUCHSTONE_PASSWORD``. Without these, the installation that
    ``touchstone up`` has started on this machine is used.

    :param url: Airflow's address.
    :param token: A token of Airflow's login.
    :param user: Who to log in as, with a password.
    :param password: Their password.
    :param environ: The environment; ``None`` for the process's own.
    :raises NotInstalled: If nothing says where the installation is.
    :raises LoginRefused: If nothing says how to log in.
    :raises ConfigurationError: If the address is none, or a token and a password are given.
    """
    if token is not None and password is not None:
        raise ConfigurationError("token: give a token, or a user and a password, not both")
    known = dict(os.environ if environ is None else environ)
    given = {"TOUCHSTONE_TOKEN": token, "TOUCHSTONE_USER": user, "TOUCHSTONE_PASSWORD": password}
    if token is not None or password is not None:
        # A login of the environment's is another one's.
        known = {name: value for name, value in known.items() if name not in _LOGIN}
        known |= {name: value for name, value in given.items() if value is not None}
    if url is not None:
        known["TOUCHSTONE_URL"] = url
    return Touchstone(get_access(known, user=user))


class Touchstone:
    """
    One installation, as one user. A context manager: its end closes the connections.

    A connection that breaks is tried again where that changes nothing more. A token that has run
    out is replaced if there is a password.

    :param access: Where it is and who asks: see :func:`connect`.
    :param transport: How requests travel; ``None`` for the network.
    :param sleep: Waits that many seconds.
    :param clock: Seconds that only go up.
    """

    def __init__(
        self,
        access: Access,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = Client(access, transport=transport, agent=AGENT, sleep=sleep)
        self._sleep = sleep
        self._clock = clock

    def __enter__(self) -> Self:
        """Return the installation."""
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
        self._client.close()

    # --- sending ---------------------------------------------------------------------------

    def submit(
        self,
        source: str | Path,
        *,
        ref: str | None = None,
        path: str | None = None,
        system: str | None = None,
        waived_columns: Sequence[str] = (),
        notes: str | None = None,
        key: str | None = None,
        **schedule: Unpack[ScheduleFields],
    ) -> Submitted:
        """
        Submit a module; with ``intervals`` and other fields of a schedule, train it as well.

        :param source: A folder or ``.tar.gz`` of this machine, which is uploaded, or a git URL.
        :param ref: Branch, tag or commit of a git source.
        :param path: Folder of the module in the source.
        :param system: ``feature_set`` or ``model_structure``; ``None`` for the first.
        :param waived_columns: Columns that may know later rows; shown with every verdict.
        :param notes: For readers of the result.
        :param key: Your own name for this request: sent again with it, it is the same submission.
            ``None`` for a new submission.
        :param schedule: How to train it.
        :raises ConfigurationError: If a field makes no sense; nothing was sent then.
        :raises Refused: If the installation refuses a field, or the key is another request's.
        """
        is_upload = isinstance(source, Path) or not is_remote(source)
        if is_upload and ref is not None:
            raise ConfigurationError(f"ref: {source} is not a git URL, so it has no branches")
        fields = drop_none(
            {"source": str(source), "ref": ref, "path": path, "system": system, "notes": notes}
            | {"waived_columns": list(waived_columns) or None}
            | schedule
        )
        archive = pack_source(str(source)) if is_upload else None
        # Before anything is sent, so that nothing is uploaded for a field that is wrong.
        check_conf(fields | ({"source": "upload:" + "0" * 64} if archive is not None else {}))
        if archive is not None:
            fields["source"] = self._client.upload(archive)
        sent = self._client.submit(fields, key or _make_key()).value
        return self._describe(sent, is_scheduled="intervals" in fields)

    def schedule(
        self, submission_id: str, *, key: str | None = None, **schedule: Unpack[ScheduleFields]
    ) -> Submitted:
        """
        Train an accepted submission.

        :param submission_id: The submission.
        :param key: As for :meth:`submit`.
        :param schedule: How to train it; ``intervals`` must be there.
        :raises ConfigurationError: If a field makes no sense; nothing was sent then.
        :raises NotFound: If there is no such submission that the user may see.
        :raises Refused: If the installation refuses a field, or the submission's state.
        """
        fields = drop_none(dict(schedule))
        check_conf({"submission_id": check_id(submission_id), **fields})
        sent = self._client.schedule(submission_id, fields, key or _make_key()).value
        return self._describe(sent, is_scheduled=True)

    def cancel(self, submission_id: str, reason: str | None = None) -> Ended:
        """
        End a submission's tasks and runs; what has ended already stays as it is.

        :param reason: Why, in one line; shown with the submission.
        :return: What was under way.
        :raises NotFound: If there is no such submission that the user may see.
        """
        return self._client.cancel(check_id(submission_id), reason).value

    # --- waiting ---------------------------------------------------------------------------

    def wait(
        self,
        sent: Submitted | str,
        *,
        seconds: float | None = None,
        show: Callable[[Snapshot], None] | None = None,
    ) -> Ending:
        """
        Return how a run ended, through restarts of the api-server.

        :param sent: What :meth:`submit` or :meth:`schedule` has returned; or a submission's id,
            for its latest run.
        :param seconds: How long to wait at most; ``None`` for as long as it takes.
        :param show: Takes what is known, about once a second.
        :raises StillRunning: If the time is over before the run is; the run goes on.
        :raises Unreachable: If the api-server has not answered for five minutes.
        :raises NotFound: If there is no such submission that the user may see.
        """
        known = self._find_run(sent) if isinstance(sent, str) else sent
        watcher = Watcher(self._client, _View(show), clock=self._clock, sleep=self._sleep)
        return watcher.wait(
            known.submission_id, known.run_id, is_scheduled=known.is_scheduled, seconds=seconds
        )

    def _find_run(self, submission_id: str) -> Submitted:
        found = self._client.find_submission(check_id(submission_id))
        run_ids = found.submission.run_ids if found else ()
        run_id = run_ids[-1] if run_ids else submission_id
        conf = self._client.get_run(run_id).conf
        is_scheduled = isinstance(conf, dict) and any(
            conf.get(name) for name in ("intervals", "replay")
        )
        sent = Sent(submission_id=submission_id, run_id=run_id, is_new=False)
        return self._describe(sent, is_scheduled=is_scheduled)

    # --- looking ---------------------------------------------------------------------------

    def list_submissions(
        self, *, status: str | None = None, user: str | None = None, limit: int = 50
    ) -> Answer[SubmissionList]:
        """Return the newest submissions that the user may see."""
        return self._client.list_submissions(status=status, user=user, limit=limit)

    def get_submission(self, submission_id: str) -> Answer[SubmissionAnswer]:
        """
        Return a submission and its tasks.

        :raises NotRegistered: If its run has not got as far as its record.
        :raises NotFound: If there is none that the user may see, or its run was refused.
        """
        return get_submission(self._client, check_id(submission_id))

    def get_results(self, submission_id: str) -> Answer[Results]:
        """
        Return what a submission came to; its ``document`` is all of it, as JSON.

        :raises NotFound: If there is no such submission that the user may see.
        """
        return self._client.get_results(check_id(submission_id))

    def download(
        self, submission_id: str, task_id: str, folder: str | Path, *, only: Sequence[str] = ()
    ) -> list[Fetched]:
        """
        Fetch the models and other files of a training, and check their digests.

        What is there already, whole, is not fetched again.

        :param task_id: The training, for example ``i5``.
        :param folder: Where to; made if it is not there.
        :param only: Patterns of paths, such as ``models/*``; empty for all files.
        :raises NotFound: If there is no such training, or it has no files, with why.
        :raises Unreachable: If the object store does not answer.
        :raises ConfigurationError: If no file matches, or the folder cannot be written.
        """
        return download(self._client, check_id(submission_id), task_id, Path(folder), only=only)

    def read_log(
        self, submission_id: str, task_id: str | None = None, *, attempt: str | None = None
    ) -> str:
        """
        Return a task's console as it is now.

        :param task_id: ``validation`` or ``i5``, for example; ``None`` for the first task that
            failed, or the validation.
        :param attempt: ``<try>-<fence>``; ``None`` for the newest.
        :raises NotFound: If there is no such task.
        """
        pieces: list[str] = []
        self._read_log(submission_id, task_id, attempt, pieces.append, follow=False)
        return "".join(pieces)

    def follow_log(
        self,
        submission_id: str,
        task_id: str | None = None,
        *,
        write: Callable[[str], object],
        attempt: str | None = None,
    ) -> None:
        """
        Hand on a task's console as it grows, until the task has ended.

        Submitted code wrote it: a terminal should not get it as it is.

        :param write: Takes each piece of text.
        :raises NotFound: If there is no such task, and none will come.
        """
        self._read_log(submission_id, task_id, attempt, write, follow=True)

    def _read_log(
        self,
        submission_id: str,
        task_id: str | None,
        attempt: str | None,
        write: Callable[[str], object],
        *,
        follow: bool,
    ) -> None:
        check_id(submission_id)
        sleep = self._sleep if follow else None
        chosen = find_task(self._client, submission_id, task_id, _ignore, sleep)
        reader = Reader(self._client, submission_id, chosen, attempt=attempt, sleep=self._sleep)
        reader.read(write, _ignore, follow=follow)

    def _describe(self, sent: Sent, *, is_scheduled: bool) -> Submitted:
        return Submitted(
            submission_id=sent.submission_id,
            run_id=sent.run_id,
            is_new=sent.is_new,
            is_scheduled=is_scheduled,
            page=self._client.build_page_address(sent.submission_id),
        )


class _View:
    def __init__(self, show: Callable[[Snapshot], None] | None) -> None:
        self._show = show

    def show(self, snapshot: Snapshot) -> None:
        if self._show is not None:
            self._show(snapshot)

    def show_silence(self, seconds: float) -> None:
        pass


def _make_key() -> str:
    # One request, sent again when its answer was lost, is still one.
    return secrets.token_hex(16)


def _ignore(_line: str) -> None:
    pass
