"""Plans of schedules: the checks of a real one, and what would become of it; nothing changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from touchstone.core.answers.plans import SchedulePlan
from touchstone.core.authority import Run
from touchstone.core.conf import RunConf, parse_conf
from touchstone.core.data_sets import PinnedData
from touchstone.core.eligibility import Needs, Resource
from touchstone.core.names import build_run_id
from touchstone.core.outlook import Outlook
from touchstone.core.placement_inputs import build_schedule_needs
from touchstone.core.pools import RUNPOD_POOL
from touchstone.core.records.submissions import Submission
from touchstone.core.schedule import Platform, Schedule
from touchstone.core.schedule_plan import PlannedSubmission, plan_schedule
from touchstone.core.tasks import find_held
from touchstone.services.checks import (
    check_baseline,
    check_branch,
    check_placeable,
    check_source,
    check_user,
    find_rental,
)
from touchstone.services.events import EventKeeper
from touchstone.services.ownership import check_schedulable
from touchstone.settings import Settings
from touchstone.stores.objects import ObjectStore
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.errors import ConfigurationError, TransientError

MAX_PLANNED = 20
"""Submissions that are planned at once."""
MAX_AT_ONCE = 2
"""Plans that one process makes at a time: with a long queue each takes a second of a core."""

_TURNS = threading.BoundedSemaphore(MAX_AT_ONCE)


class PlansBusy(TransientError):
    """As many plans are being made as are made at a time."""


@dataclass(frozen=True, kw_only=True)
class Planner:
    """
    Says what would become of a schedule.

    :param records: The records.
    :param settings: Limits and images of the installation.
    :param keeper: Keeps events, which may refuse a schedule.
    :param read_outlook: Returns what a dispatcher has published last; ``None`` for nothing.
    :param clock: The time, UTC.
    """

    records: RecordStore
    settings: Settings
    keeper: EventKeeper
    read_outlook: Callable[[], Outlook | None]
    clock: Callable[[], datetime]

    def plan(
        self, submission_ids: Sequence[str], fields: Mapping[str, object], *, user: str
    ) -> SchedulePlan:
        """
        Return the plan of a schedule, for some accepted submissions.

        :param submission_ids: The submissions; the caller has checked that the user may see them.
        :param fields: The schedule, flat, as a run's conf has it.
        :param user: Who would schedule.
        :raises ConfigurationError: What a real scheduling would refuse, with the field's name.
        :raises PlansBusy: If enough plans are being made.
        """
        if not _TURNS.acquire(blocking=False):
            raise PlansBusy(
                f"submissions: {MAX_AT_ONCE} plans are being made, which is all that are made at "
                "a time; try again in a moment",
                retry_after=1,
            )
        try:
            return self._plan(submission_ids, fields, user=user)
        finally:
            _TURNS.release()

    def _plan(
        self, submission_ids: Sequence[str], fields: Mapping[str, object], *, user: str
    ) -> SchedulePlan:
        wanted = list(dict.fromkeys(submission_ids))
        if not 1 <= len(wanted) <= MAX_PLANNED:
            raise ConfigurationError(
                f"submissions: give 1 to {MAX_PLANNED} submissions, not {len(wanted)}"
            )
        outlook = self.read_outlook()
        resources = outlook.build_resources() if outlook else []
        rented = next((each for each in resources if each.name == RUNPOD_POOL), None)

        def find_known_rental(conf: RunConf) -> Resource | None:
            # What a dispatcher has read of RunPod spares a question that counts against limits.
            is_wanted = conf.schedule and conf.schedule.platform is not Platform.ON_PREM
            return rented if rented is not None and is_wanted else find_rental(conf)

        planned = []
        schedule: Schedule | None = None
        for submission_id in wanted:
            conf = parse_conf({**fields, "submission_id": submission_id})
            schedule = conf.schedule
            assert schedule is not None  # noqa: S101 - parse_conf refuses it without intervals
            found = self.check(conf, schedule, user=user)
            data = self.keeper.find_data(schedule.event)
            check_placeable(self.records, conf, user, find_known_rental, data=data)
            planned.append(
                PlannedSubmission(
                    submission_id=submission_id,
                    submitter=found.submitted_by,
                    needs=self._build_needs(found, schedule, data),
                    system=str(found.system),
                    data=data.label if data else None,
                )
            )
        assert schedule is not None  # noqa: S101 - there is at least one submission
        return plan_schedule(
            planned,
            schedule,
            outlook,
            wall_seconds=self.settings.training_wall_seconds,
            now=self.clock(),
        )

    def check(self, conf: RunConf, schedule: Schedule, *, user: str) -> Submission:
        """
        Refuse what a real scheduling would refuse, but for where it may run.

        :return: The submission that would be scheduled.
        """
        check_user(user)
        check_branch(self.settings, schedule, user)
        found = self.records.get_submission(str(conf.submission_id))
        number = len(found.run_ids) + 1
        run = Run(
            run_id=build_run_id(found.submission_id, number),
            submission_id=found.submission_id,
            user=user,
        )
        check_schedulable(found, run)
        check_baseline(self.records, conf, user)
        self.keeper.check_entry(schedule, user=found.submitted_by, waived=found.waived_columns)
        return found

    def check_new(self, conf: RunConf, objects: ObjectStore, *, user: str) -> None:
        """
        Refuse what ``register`` would refuse of a new submission, but for what its source holds.

        :param objects: Where uploaded archives are.
        :param user: Who submits.
        :raises ConfigurationError: With the field's name.
        """
        assert conf.source is not None  # noqa: S101 - the caller asks for a new one
        check_user(user)
        check_source(self.settings, conf.source, objects)
        if conf.schedule is None:
            return
        check_branch(self.settings, conf.schedule, user)
        check_baseline(self.records, conf, user)
        self.keeper.check_entry(conf.schedule, user=user, waived=conf.source.waived_columns)
        data = self.keeper.find_data(conf.schedule.event)
        check_placeable(self.records, conf, user, data=data)

    def _build_needs(self, found: Submission, schedule: Schedule, data: PinnedData | None) -> Needs:
        needs = build_schedule_needs(
            schedule,
            system=str(found.system),
            submitted_by=found.submitted_by,
            data=find_held(data),
        )
        image_cuda = self.settings.trainer_image_cuda
        return replace(
            needs,
            image=_find_pinned(found, self.settings.trainer_image),
            image_cuda=_find_pinned(found, image_cuda) if image_cuda else None,
        )


def _find_pinned(found: Submission, image: str) -> str:
    known = found.images.get(image)
    return image if known is None else known.pinned or image
