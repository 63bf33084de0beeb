"""
Whose a submission is, and which of Airflow's runs may work on it. Pure.

Airflow's users choose run ids, confs and XComs. None of these is authority: a run works on a
submission only if that submission's record names the run, and its owner or an admin triggered it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from touchstone.core.names import find_submission_of_run, is_submission_id
from touchstone.core.records.submissions import Submission
from touchstone.core.states import SubmissionStatus

UNKNOWN_USER: Final = "unknown"
"""Whose a run is that nobody triggered by name."""

CONF_SUBMISSION: Final = "submission_id"
"""Key of a run's conf by which it names the submission that it is to train."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """
    A DAG run, by what Airflow alone writes of it and by what its user chose.

    :param run_id: Its id, which the user chose.
    :param submission_id: The submission that it asks to work on; ``None`` if it names nonsense.
    :param user: Who triggered it, as Airflow's auth manager knows them.
    """

    run_id: str
    submission_id: str | None
    user: str


def build_run(run_id: str, *, conf: object, user: str | None) -> Run:
    """Return a run, with the submission that its conf names, or else its id stands for."""
    named = conf.get(CONF_SUBMISSION) if isinstance(conf, Mapping) else None
    return Run(
        run_id=run_id,
        submission_id=find_named_submission(run_id, named),
        user=user or UNKNOWN_USER,
    )


def find_named_submission(run_id: str, named: object) -> str | None:
    """
    Return the submission that a run asks to work on; whether it may is another matter.

    :param run_id: The run.
    :param named: What its conf says under :data:`CONF_SUBMISSION`: anything at all.
    :return: ``None`` if it names what cannot be a submission.
    """
    if named is None or named == "":
        return find_submission_of_run(run_id)
    return named if isinstance(named, str) and is_submission_id(named) else None


def may_spend(owner: str, user: str, admins: Collection[str]) -> bool:
    """Tell whether a user may spend machines on a submission: its owner may, and admins."""
    return user in {owner, *admins}


def find_objection(submission: Submission | None, run: Run, admins: Collection[str]) -> str | None:
    """
    Say why a run may not work on the submission that it asks for; ``None`` if it may.

    :param submission: That submission's record; ``None`` if there is none.
    :param run: The run.
    :param admins: Users who may work on everybody's.
    """
    if (
        submission is None
        or run.run_id not in submission.run_ids
        or not may_spend(submission.submitted_by, run.user, admins)
    ):
        # One answer for all three: nobody learns whose submissions there are.
        return f"run {run.run_id} is no run of a submission that {run.user} may work on"
    if submission.status is SubmissionStatus.RETRACTED:
        return f"submission {submission.submission_id} was retracted"
    if submission.newest_run_id != run.run_id:
        return (
            f"run {run.run_id} is not the newest of {submission.submission_id}: "
            f"{submission.newest_run_id} is; "
            "clear the task 'register' to take it up again, or schedule the submission anew"
        )
    return None
