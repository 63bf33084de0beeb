"""
What the API answers, where that is not a record as it is stored. Pure.

The routes return these models and the command line reads them: each has one definition. An older
server leaves fields out, and a newer one adds some.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from touchstone.core.queue import Trouble


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Health(_Answer):
    """
    That the API answers, and what it takes the caller for.

    :param status: Always ``ok``.
    :param env: The installation's environment.
    :param user: Who asks.
    :param is_admin: Whether they may edit pools.
    :param may_submit: Whether they may start runs of the DAG.
    """

    status: str
    env: str
    user: str
    is_admin: bool
    may_submit: bool


class Uploaded(_Answer):
    """
    An archive that was taken.

    :param sha256: Its digest.
    :param size: Its size in bytes.
    :param source: What stands for it as a submission's source.
    """

    sha256: str
    size: int
    source: str


class ListedGpu(_Answer):
    """
    A GPU model that RunPod knows; a price of ``None`` means that the cloud does not offer it.

    :param gpu: RunPod's id of it.
    :param name: Its name.
    :param memory_gb: Its memory.
    :param secure_price: US dollars an hour in the secure cloud, as text.
    :param community_price: The same in the community cloud.
    :param secure_stock: How many there are in the secure cloud, in RunPod's word.
    :param community_stock: The same in the community cloud.
    :param is_available: Whether there is one now, in some cloud.
    """

    gpu: str
    name: str
    memory_gb: int
    secure_price: str | None
    community_price: str | None
    secure_stock: str
    community_stock: str
    is_available: bool


class GpuCatalogue(_Answer):
    """
    The GPU models that can be rented now.

    :param is_connected: Whether the installation has a connection to RunPod.
    :param gpus: The models, cheapest first.
    :param checked_at: When RunPod was asked, ISO 8601.
    """

    is_connected: bool
    gpus: tuple[ListedGpu, ...]
    checked_at: str


class LogPage(_Answer):
    """
    A piece of a console.

    :param attempt: ``<try>-<fence>``; ``None`` if there has been no attempt yet.
    :param offset: Byte at which the text begins.
    :param next_offset: Where to go on.
    :param text: The text; whole characters only.
    :param complete: Whether nothing follows, ever.
    :param state: What the attempt is doing, in a few words.
    """

    attempt: str | None
    offset: int
    next_offset: int
    text: str
    complete: bool
    state: str


class Ended(_Answer):
    """
    What was at work on a submission until it was cancelled.

    :param cancelled_tasks: Ids of its tasks that had not ended.
    :param ended_runs: Its DAG runs that had not ended.
    """

    cancelled_tasks: tuple[str, ...] = ()
    ended_runs: tuple[str, ...] = ()


class Placements(_Answer):
    """
    Whether tasks may start.

    :param paused: Whether nothing new starts anywhere.
    :param by: Who said so.
    :param at: When, ISO 8601.
    :param reason: Why, in one line.
    """

    paused: bool
    by: str | None = None
    at: str | None = None
    reason: str | None = None


class DispatcherState(_Answer):
    """
    Whether a dispatcher is at work.

    :param is_alive: Whether one is.
    :param is_paused: Whether placements are paused.
    :param seen_at: When one published the queue last, ISO 8601.
    :param warning: What to tell people if nothing is placed, one line; ``None`` if all is well.
    """

    is_alive: bool = False
    is_paused: bool = False
    seen_at: str | None = None
    warning: str | None = None


class DispatcherWork(DispatcherState):
    """
    What admins want to know of the dispatcher.

    :param troubles: What it leaves undone.
    :param lingering: By server the slots that are held by attempts which nobody waits for any more.
    """

    troubles: tuple[Trouble, ...] = ()
    lingering: Mapping[str, int] = {}


class FleetReport(_Answer):
    """
    What came, or would come, of applying a fleet file.

    :param is_applied: Whether it was done, and not only looked at.
    :param created: Pools that were missing.
    :param declared: Servers whose records did not say yet what the file says.
    :param differences: Differences from the file, which stay.
    :param warnings: What lies idle by the installation's settings.
    :param refused: What of the file cannot be, each with its field; those servers are left alone.
    :param not_enrolled: Servers of the file that have no record: they get no pools yet.
    :param not_in_file: Enrolled servers that the file does not name.
    :param elsewhere: Servers of the file that belong to another environment.
    """

    is_applied: bool
    created: tuple[str, ...] = ()
    declared: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    not_enrolled: tuple[str, ...] = ()
    not_in_file: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


class PlannedTask(_Answer):
    """
    A training as it would be if its schedule were given now.

    :param submission_id: The submission.
    :param task_id: The id that it will have.
    :param interval: Prediction interval in bars.
    :param seed: Seed of the training.
    :param place: Where it would start at once; ``None`` if it would wait.
    :param position: Its place among the trainings that wait; ``None`` if it would start at once.
    :param reason: Why there, or why it would wait, one line.
    :param start_p50: When it starts, as likely earlier as later; ``None`` if nobody can say.
    :param start_p90: By when it starts in nine cases of ten.
    :param finish_p50: When it ends, as likely earlier as later.
    :param finish_p90: By when it ends in nine cases of ten, or earlier.
    :param usd_low: The least that it should cost, US dollars as text; ``None`` if nobody knows.
    :param usd_high: The most that it should cost.
    :param price_reason: By which prices, or why nobody knows, one line.
    """

    submission_id: str
    task_id: str
    interval: int
    seed: int
    place: str | None = None
    position: int | None = None
    reason: str
    start_p50: datetime | None = None
    start_p90: datetime | None = None
    finish_p50: datetime | None = None
    finish_p90: datetime | None = None
    usd_low: str | None = None
    usd_high: str | None = None
    price_reason: str


class SchedulePlan(_Answer):
    """
    What would become of a schedule if it were given now; nothing was changed.

    :param at: When it was planned.
    :param tasks: Its trainings, by submission and interval.
    :param finish_p50: When the last of them ends; ``None`` if nobody can say of each.
    :param finish_p90: By when the last of them ends in nine cases of ten, or earlier.
    :param usd_low: The least that all should cost, US dollars as text; ``None`` unless each has a
        price.
    :param usd_high: The most that all should cost.
    :param price_reason: Why there is no sum; ``None`` if there is one.
    :param remarks: What else to know, a line each.
    """

    at: datetime
    tasks: tuple[PlannedTask, ...]
    finish_p50: datetime | None = None
    finish_p90: datetime | None = None
    usd_low: str | None = None
    usd_high: str | None = None
    price_reason: str | None = None
    remarks: tuple[str, ...] = ()
