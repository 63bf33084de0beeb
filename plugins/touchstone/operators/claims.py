"""What a run may be registered for, by what is on record of its submission."""

from __future__ import annotations

from typing import TYPE_CHECKING

from touchstone.core.authority import Run
from touchstone.core.conf import MAX_RUNS, RunConf, Source
from touchstone.core.documents import shorten
from touchstone.core.names import find_submission_of_run
from touchstone.core.states import SCHEDULABLE, SUBMISSION_OPEN, SubmissionStatus
from touchstone.operators.checks import may_schedule
from touchstone_agent.protocol.errors import ConfigurationError

if TYPE_CHECKING:
    from touchstone.hooks.records import Record, RecordStore


class NotItsOwn(ConfigurationError):
    """A run asks for what is not its own, or not now: nothing at all may be changed for it."""


def check_run_id(records: RecordStore, conf: RunConf, run: Run) -> str:
    """
    Return the submission that a run brings or schedules, if it may.

    :raises NotItsOwn: If it is somebody else's, or the run's id says that it were.
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


def check_taken(found: Record, source: Source, run: Run) -> None:
    """Refuse a run that would bring a submission anew that is there already."""
    taken = f"run_id: submission {found['submission_id']} exists already"
    is_retracted = found["status"] == SubmissionStatus.RETRACTED
    if run.run_id not in found["run_ids"] or not may_schedule(found, run.user) or is_retracted:
        raise NotItsOwn(f"{taken}; choose another run id")
    # Of a run that was refused nothing is on record but that; a cleared run brings what it brought.
    if "source_url" in found and any(
        found.get(name) != value for name, value in describe_source(source).items()
    ):
        raise NotItsOwn(f"{taken}, from {_name_source(found)}; choose another run id")
    _check_idle(found, run)


def check_content(found: Record, sha256: str) -> None:
    """
    Refuse content that is not the one an id stands for, once that was accepted.

    :param found: The submission.
    :param sha256: Digest of what a run brings.
    :raises NotItsOwn: If it is another.
    """
    first = found.get("content_sha256")
    if found.get("accepted_at") and first and sha256 != first:
        raise NotItsOwn(
            f"run_id: submission {found['submission_id']} exists already, with content "
            f"{first[:12]} from {_name_source(found)}, and this is {sha256[:12]}; "
            "choose another run id"
        )


def _name_source(found: Record) -> str:
    """Return where a submission came from, in a few words."""
    where = str(found.get("source_url"))
    at = found.get("source_ref") or (found.get("commit") or "")[:12]
    return shorten(f"{where} at {at}" if at else where)


def check_schedulable(found: Record, run: Run) -> None:
    """Refuse a run that would train what it may not, or not now."""
    submission_id = found["submission_id"]
    if not may_schedule(found, run.user):
        raise NotItsOwn(f"submission_id: there is no {submission_id!r}")
    status = SubmissionStatus(found["status"])
    is_again = run.run_id in found["run_ids"]
    if not found.get("accepted_at") or (status not in SCHEDULABLE and not is_again):
        raise NotItsOwn(
            f"submission_id: {submission_id} is {status}"
            + ("" if found.get("accepted_at") else " and was never accepted")
            + "; only an accepted submission without a run at work can be scheduled"
        )
    if not is_again and len(found["run_ids"]) >= MAX_RUNS:
        raise ConfigurationError(
            f"submission_id: {submission_id} has had {MAX_RUNS} runs, which is all that one may "
            "have; submit it anew"
        )
    _check_idle(found, run)


def _check_idle(found: Record, run: Run) -> None:
    """Refuse a run that was cleared while a newer one is at work on its submission."""
    newest = found["run_ids"][-1]
    if newest != run.run_id and found["status"] in SUBMISSION_OPEN:
        raise NotItsOwn(
            f"run_id: {newest} is at work on submission {found['submission_id']}; wait for its end"
        )


def take_up(found: Record, run: Run) -> list[str]:
    """Return a submission's runs with the one that works on it from now on as the last."""
    return [*(item for item in found["run_ids"] if item != run.run_id), run.run_id]


def describe_source(source: Source) -> Record:
    """Return what is on record of where a submission came from, which never changes."""
    return {
        "system": source.system.value,
        "source_url": source.url,
        "source_ref": source.ref,
        "source_path": source.path,
    }
