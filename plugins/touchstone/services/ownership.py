"""Decide by the submission's record whether a run may be registered for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from touchstone.core.authority import Run
from touchstone.core.conf import MAX_RUNS, RunConf, Source
from touchstone.core.documents import shorten
from touchstone.core.names import find_submission_of_run
from touchstone.core.states import SCHEDULABLE, SUBMISSION_OPEN, SubmissionStatus
from touchstone.services.checks import may_schedule
from touchstone_agent.protocol.errors import ConfigurationError

if TYPE_CHECKING:
    from touchstone.core.records.submissions import Submission
    from touchstone.stores.records import RecordStore


class NotItsOwn(ConfigurationError):
    """A run names a submission that it may not work on (now); nothing may be changed for it."""


def check_run_id(records: RecordStore, conf: RunConf, run: Run) -> str:
    """
    Return the submission that a run brings or schedules, if it may.

    :raises NotItsOwn: If it is another user's, or the run's id stands for another one.
    """
    own = find_submission_of_run(run.run_id)
    found = records.find_submission(own)
    if conf.source is not None:
        if found is not None:
            check_taken(found, conf.source, run)
        return own
    assert conf.submission_id is not None  # noqa: S101 - parse_conf gives exactly one of the two
    if own != conf.submission_id and found is not None:
        # People would take it for a run of that one.
        raise NotItsOwn(f"run_id: {run.run_id} stands for submission {own}; choose another run id")
    named = found if own == conf.submission_id else records.find_submission(conf.submission_id)
    if named is None:
        raise NotItsOwn(f"submission_id: there is no {conf.submission_id!r}")
    check_schedulable(named, run)
    return conf.submission_id


def check_taken(found: Submission, source: Source, run: Run) -> None:
    """Refuse a run that would bring a submission anew that is there already."""
    taken = f"run_id: submission {found.submission_id} exists already"
    is_retracted = found.status is SubmissionStatus.RETRACTED
    is_its_own = run.run_id in found.run_ids and may_schedule(found, run.user)
    # A replay has the source of what it replays, and is none.
    if not is_its_own or is_retracted or found.replay_of:
        raise NotItsOwn(f"{taken}; choose another run id")
    # Of a run that was refused nothing is on record but that; a cleared run brings what it brought.
    if found.source_url is not None and not found.is_from(source):
        raise NotItsOwn(f"{taken}, from {_name_source(found)}; choose another run id")
    _check_idle(found, run)


def check_content(found: Submission, sha256: str) -> None:
    """
    Refuse content that is not the one an id stands for, once that was accepted.

    :param found: The submission.
    :param sha256: Digest of what a run brings.
    :raises NotItsOwn: If it is another.
    """
    first = found.content_sha256
    if found.accepted_at and first and sha256 != first:
        raise NotItsOwn(
            f"run_id: submission {found.submission_id} exists already, with content "
            f"{first[:12]} from {_name_source(found)}, and this is {sha256[:12]}; "
            "choose another run id"
        )


def _name_source(found: Submission) -> str:
    """Return where a submission came from, in a few words."""
    where = str(found.source_url)
    at = found.source_ref or (found.commit or "")[:12]
    return shorten(f"{where} at {at}" if at else where)


def check_schedulable(found: Submission, run: Run) -> None:
    """Refuse a run that would train what it may not, or not now."""
    submission_id = found.submission_id
    if not may_schedule(found, run.user):
        raise NotItsOwn(f"submission_id: there is no {submission_id!r}")
    if found.replay_of:
        raise NotItsOwn(
            f"submission_id: {submission_id} is a replay of {found.replay_of}, and comes to "
            "nothing of its own; schedule what it replays"
        )
    is_again = run.run_id in found.run_ids
    if not found.accepted_at or (found.status not in SCHEDULABLE and not is_again):
        raise NotItsOwn(
            f"submission_id: {submission_id} is {found.status}"
            + ("" if found.accepted_at else " and was never accepted")
            + "; only an accepted submission without a run at work can be scheduled"
        )
    if not is_again and len(found.run_ids) >= MAX_RUNS:
        raise ConfigurationError(
            f"submission_id: {submission_id} has had {MAX_RUNS} runs, which is all that one may "
            "have; submit it anew"
        )
    _check_idle(found, run)


def _check_idle(found: Submission, run: Run) -> None:
    """Refuse a run that was cleared while a newer one is at work on its submission."""
    newest = found.newest_run_id
    if newest != run.run_id and found.status in SUBMISSION_OPEN:
        raise NotItsOwn(
            f"run_id: {newest} is at work on submission {found.submission_id}; wait for its end"
        )
