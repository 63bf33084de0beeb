"""Apply a manifest to an installation: submit new jobs, keep existing submissions."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from touchstone.client.access import REPOSITORY
from touchstone.client.api import LIST_LIMIT, Client
from touchstone.client.errors import NotFound, Refused, RunExists
from touchstone.client.fleet_tables import JobRow
from touchstone.client.packing import is_remote, pack
from touchstone.core.manifest import (
    Job,
    Manifest,
    build_conf,
    build_notes,
    build_submission_id,
    find_job,
)
from touchstone.core.trainer import Description, parse_description
from touchstone_agent.protocol.errors import ConfigurationError

NEW = "new"
SUBMITTED = "submitted now"
BEFORE = "submitted before"
OTHERS = "exists (no record that you may see)"

_DESCRIBE_SECONDS = 60
_GONE = frozenset({"cancelled", "retracted"})

Describe = Callable[[], str]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """
    A job that is ready to be submitted.

    :param job: The job.
    :param submission_id: Derived from its content.
    :param archive: What to upload; ``None`` for a git source.
    """

    job: Job
    submission_id: str
    archive: bytes | None


def prepare(manifest: Manifest, folder: Path, limit: int) -> list[Prepared]:
    """
    Pack the local sources of a manifest, and derive each job's submission id.

    :param manifest: The manifest.
    :param folder: Where relative sources begin: the manifest's own folder.
    :param limit: Bytes that an archive may have.
    :raises ConfigurationError: If a source is missing or unfit, or two jobs are the same work.
    """
    archives: dict[Path, bytes] = {}
    prepared: dict[str, Prepared] = {}
    for job in manifest.jobs:
        archive = None if is_remote(job.source) else _pack(job, folder, limit, archives)
        content = job.source if archive is None else hashlib.sha256(archive).hexdigest()
        submission_id = build_submission_id(job, content=content)
        if submission_id in prepared:
            raise ConfigurationError(
                f"jobs.{job.name}: is the same work as jobs.{prepared[submission_id].job.name}; "
                "leave one out, or give it another seed"
            )
        prepared[submission_id] = Prepared(job=job, submission_id=submission_id, archive=archive)
    return list(prepared.values())


def find_state(client: Client, submission_id: str) -> str | None:
    """Return the status of a submission; ``None`` if there is none that the user may see."""
    try:
        return str(client.get_submission(submission_id).value.submission.status)
    except NotFound:
        return None


def submit(client: Client, manifest: Manifest, prepared: Prepared) -> str:
    """
    Submit a job unless it has been; return its state.

    :raises Refused: If the installation refuses it, naming the job.
    """
    job = prepared.job
    state = find_state(client, prepared.submission_id)
    if state is not None:
        return state
    try:
        source = job.source if prepared.archive is None else client.upload(prepared.archive)
        conf = build_conf(job, source=source, notes=build_notes(manifest, job))
        sent = client.submit_as(prepared.submission_id, conf).value
    except RunExists:
        # Somebody else's, or of other notes: those are not what makes a job another one.
        return find_state(client, prepared.submission_id) or OTHERS
    except Refused as error:
        field = f"jobs.{job.name}"
        raise Refused(f"{field}: {error}", status=error.status, field=field) from error
    # One that was started a moment ago may have no record yet.
    return SUBMITTED if sent.is_new else BEFORE


def list_removed(client: Client, manifest: Manifest, kept: set[str]) -> tuple[list[JobRow], bool]:
    """
    Return the submissions that this manifest once made and no longer asks for.

    :param client: Speaks to the installation.
    :param manifest: The manifest as it is now.
    :param kept: The submissions it asks for.
    :return: Those that were not cancelled, and whether there were too many to look through all.
    """
    found = client.list_submissions(limit=LIST_LIMIT).value
    removed = [
        JobRow(job=job, submission_id=item.submission_id, state=str(item.status))
        for item in found.submissions
        if (job := find_job(manifest, item.submission_id, item.notes)) is not None
        and item.submission_id not in kept
        and item.status not in _GONE
    ]
    return removed, bool(found.next)


def describe_checkout() -> str:
    """
    Return what the trainer of this checkout says of itself.

    It needs none of its libraries for that, so any Python will do.

    :raises ConfigurationError: If there is no trainer here, or it fails.
    """
    source = REPOSITORY / "include" / "elnigma" / "src"
    if not (source / "elnigma").is_dir():
        raise ConfigurationError(f"describe: there is no trainer in {source}")
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "elnigma", "describe"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=_DESCRIBE_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigurationError(f"describe: the trainer in {source} failed: {error}") from error
    return done.stdout


def find_description(given: str | None, describe: Describe) -> tuple[Description | None, str]:
    """
    Return the trainer's description, and where it is from or why there is none.

    :param given: The description as the user has it; ``None`` to ask the checkout's trainer.
    :param describe: Asks that one.
    :raises ConfigurationError: If the user's is not one.
    """
    if given is not None:
        found = parse_description(given)
        return found, f"{found.trainer} {found.version}, as described"
    try:
        found = parse_description(describe())
    except ConfigurationError as error:
        return None, str(error)
    return found, f"{found.trainer} {found.version} of this checkout"


def _pack(job: Job, folder: Path, limit: int, archives: dict[Path, bytes]) -> bytes:
    place = f"jobs.{job.name}"
    path = (folder / Path(job.source).expanduser()).resolve()
    if job.ref is not None:
        raise ConfigurationError(
            f"{place}.ref: {job.source} is not a git URL, so it has no branches"
        )
    if path not in archives:
        if not path.exists():
            raise ConfigurationError(
                f"{place}.source: there is no {path}; a git source is a URL, "
                "for example https://host/owner/repo"
            )
        try:
            archives[path] = pack(path, limit)
        except ConfigurationError as error:
            raise ConfigurationError(f"{place}.source: {error}") from error
        except OSError as error:
            raise ConfigurationError(
                f"{place}.source: {path} cannot be read: {error.strerror}"
            ) from error
    return archives[path]
