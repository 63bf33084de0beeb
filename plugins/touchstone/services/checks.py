"""What ``register`` refuses before anything is spent; each error begins with the field's name."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from touchstone.core.authority import may_spend
from touchstone.core.conf import MAX_USER, RunConf, Source
from touchstone.core.names import build_content_key
from touchstone.core.pools import RUNPOD_POOL
from touchstone.core.records.stored import RecordUnreadable
from touchstone.core.schedule import Placement, Platform, Schedule
from touchstone.core.states import SubmissionStatus
from touchstone.settings import Settings, get_settings
from touchstone_agent.protocol.errors import ConfigurationError, TouchstoneError

if TYPE_CHECKING:
    from touchstone.core.data_sets import PinnedData
    from touchstone.core.eligibility import Needs, Resource
    from touchstone.core.records.submissions import Submission
    from touchstone.hooks.repository import Content
    from touchstone.stores.objects import ObjectStore
    from touchstone.stores.records import RecordStore

log = logging.getLogger(__name__)


def find_rental(conf: RunConf) -> Resource | None:
    """
    Return RunPod as somewhere to run, with what it has; ``None`` if the schedule keeps off it.

    :raises ConfigurationError: If only RunPod is wanted, and this installation is not connected.
    """
    if conf.schedule is None or conf.schedule.platform is Platform.ON_PREM:
        return None
    from touchstone.core.eligibility import Capability, Resource
    from touchstone.services.pods.facts import find_hook, read_market

    wanted = get_settings().runpod
    hook = find_hook(wanted)
    if hook is None:
        if conf.schedule.platform is Platform.RUNPOD:
            raise ConfigurationError(
                "platform: this installation is not connected to RunPod; use any or on-prem"
            )
        return None
    try:
        market = read_market(hook, wanted)
    except TouchstoneError as error:
        # It may have by the time that a pod is wanted what cannot be asked for now.
        log.warning("RunPod cannot be asked what it has: %s", error)
        market = None
    anything = float("inf")
    return Resource(
        name=RUNPOD_POOL,
        platform=Platform.RUNPOD,
        capability=Capability(cuda=True, vram_gib=anything, ram_gib=anything),
        market=market,
    )


def may_schedule(submission: Submission, user: str) -> bool:
    """Tell whether a user may spend machines on a submission: its owner may, and admins."""
    return may_spend(submission.submitted_by, user, get_settings().admins)


def check_user(user: str) -> None:
    """Refuse a submitter whose name is in too many records to be of any length."""
    if len(user) > MAX_USER:
        raise ConfigurationError(f"user: the name has more than {MAX_USER} characters")


def check_baseline(records: RecordStore, conf: RunConf, user: str) -> None:
    """Refuse a baseline that could never be compared with, before anything is trained."""
    baseline = conf.schedule.baseline if conf.schedule else None
    if baseline is None:
        return
    try:
        found = records.find_submission(baseline)
    except RecordUnreadable as error:
        raise ConfigurationError(f"baseline: {baseline!r} cannot be read: {error}") from error
    if found is not None and not may_schedule(found, user):
        found = None
    if found is not None and found.replay_of:
        raise ConfigurationError(
            f"baseline: {baseline!r} is a replay; name what it replays, {found.replay_of}"
        )
    if found is None or found.status is not SubmissionStatus.SUCCESS:
        state = "there is none" if found is None else f"it is {found.status}"
        raise ConfigurationError(f"baseline: {baseline!r} is no successful submission: {state}")


def check_placeable(
    records: RecordStore,
    conf: RunConf,
    user: str,
    find_rental: Callable[[RunConf], Resource | None] = find_rental,
    *,
    data: PinnedData | None = None,
) -> None:
    """
    Refuse a task that no known machine could ever run; it would wait for days in silence.

    :param find_rental: Asks RunPod, which takes a second and counts against its limits: only
        when no server will do.
    :param data: What it is trained on; ``None`` for the built-in data set.
    """
    from touchstone.core.eligibility import find_impossible
    from touchstone.core.placement_inputs import build_resource, build_schedule_needs
    from touchstone.core.tasks import find_held

    if conf.schedule is None:
        return
    entries = records.list_servers()
    known = [entry.name for entry in entries]
    unknown = set(conf.schedule.allowed_hosts).difference(known, {RUNPOD_POOL})
    if unknown and entries:
        raise ConfigurationError(
            f"allowed_hosts: there is no server {sorted(unknown)[0]!r}; "
            f"there are {', '.join(sorted(known))}"
        )
    found = records.find_submission(conf.submission_id) if conf.submission_id else None
    of_found = found.system if found is not None else None
    needs = build_schedule_needs(
        conf.schedule,
        system=str(conf.source.system if conf.source else of_found),
        submitted_by=found.submitted_by if found is not None else user,
        data=find_held(data),
    )
    now, no_matter = datetime.now(UTC), timedelta(days=36500)
    resources = []
    for server in (entry.server for entry in entries):
        # A server without a heartbeat, or with an unreadable record, may have anything.
        if server is not None and (server.inventory or server.declared):
            resources.append(
                build_resource(
                    server,
                    slots=1,
                    free=0,
                    validation_slots=1,
                    validation_free=0,
                    now=now,
                    silence=no_matter,
                )
            )
    if resources and find_impossible(needs, resources) is None:
        return
    rental = find_rental(conf)
    if rental is not None:
        resources.append(rental)
    reason = find_impossible(needs, resources) if resources else None
    if reason is not None:
        raise ConfigurationError(f"{_name_need(needs)}: {reason}")


_LIKELIEST = (
    *("gpu_models", "max_price", "min_vram_gib"),
    *(name for name in Placement.model_fields if name not in {"platform", "prefer_cuda", "cloud"}),
)
"""Fields by which a schedule is made impossible, the likeliest first."""


def _name_need(needs: Needs) -> str:
    """Return the field of the form that most likely makes a schedule impossible."""
    asked = needs.placement.model_dump(exclude_defaults=True)
    return next((name for name in _LIKELIEST if name in asked), "platform")


def check_source(settings: Settings, source: Source, objects: ObjectStore) -> None:
    """
    Refuse a source that could not be fetched, before anything is; no repository is asked.

    :raises ConfigurationError: If it is of a host that is not read from, or was never uploaded.
    """
    from touchstone.hooks.git import GitSource

    sha256 = source.upload_sha256
    if sha256 is None:
        git = GitSource(
            hosts=settings.git_hosts,
            allow_local=settings.allow_local_sources,
            max_bytes=settings.content_bytes,
        )
        git.check(source.url, "source")
    elif source.ref is not None:
        raise ConfigurationError("ref: an uploaded archive has no refs")
    elif not objects.has(settings.content_bucket, build_content_key(sha256)):
        raise ConfigurationError(f"source: nothing was uploaded as {source.url}")


def check_branch(settings: Settings, schedule: Schedule | None, user: str) -> None:
    """
    Refuse a branch of el-nigma to whom no admin has allowed to choose what trains.

    :param user: Who has triggered the run.
    :raises ConfigurationError: If the schedule names one, and he may not.
    """
    if schedule is None or schedule.branch is None:
        return
    allowed = settings.branch_users
    if user not in settings.admins and user not in allowed and "*" not in allowed:
        raise ConfigurationError(
            f"branch: {user} may not name a branch of el-nigma; leave it empty for the image's own "
            "trainer, or ask an admin to name you in TOUCHSTONE_BRANCH_USERS"
        )


def fetch_branch(settings: Settings, schedule: Schedule) -> Content | None:
    """
    Return what the schedule's el-nigma branch stands at, packed; ``None`` if it names none.

    It is fetched here and handed over, because where it runs there is no credential for a
    repository.

    :raises ConfigurationError: If this installation knows no el-nigma repository, or that one has
        no such branch, tag or commit.
    """
    if schedule.branch is None:
        return None
    if settings.elnigma_git is None:
        raise ConfigurationError(
            "branch: this installation has no el-nigma repository (setting TOUCHSTONE_ELNIGMA_GIT)"
        )
    from touchstone.core.remotes import parse_remote
    from touchstone.hooks.git import GitSource, find_credentials

    try:
        remote = parse_remote(settings.elnigma_git)
    except ValueError as error:
        raise ConfigurationError(
            f"branch: the setting TOUCHSTONE_ELNIGMA_GIT cannot be used, tell an admin: {error} "
            "(setting TOUCHSTONE_ELNIGMA_CONN_ID)"
        ) from error
    git = GitSource(
        # An admin has named it.
        hosts=[remote.address],
        allow_local=True,
        max_bytes=settings.content_bytes,
        credentials=find_credentials(settings.elnigma_conn_id),
    )
    return git.fetch_all(settings.elnigma_git, schedule.branch, field="branch")
