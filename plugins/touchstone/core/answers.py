"""
What the API answers, where that is not a record as it is stored. Pure.

The routes return these models and the command line reads them: each has one definition. An older
server leaves fields out, and a newer one adds some.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, JsonValue

from touchstone.core.queue import Trouble


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Problem(_Answer):
    """
    Why a request was not done, as RFC 9457 has it.

    :param type: Always ``about:blank``: the status says what kind of problem it is.
    :param title: The status in words.
    :param status: The HTTP status.
    :param detail: What is wrong and the way out, in one line.
    :param field: The field that it is about; ``None`` for none.
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    field: str | None = None


class Health(_Answer):
    """
    That the API answers, and what it takes the caller for.

    :param status: Always ``ok``.
    :param env: The installation's environment.
    :param user: Who asks.
    :param is_admin: Whether they may edit pools.
    :param may_submit: Whether they may start runs of the DAG, or have the permission to submit.
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


class ListedRef(_Answer):
    """
    A branch or a tag of a repository.

    :param name: As it is given as a submission's ``ref``.
    :param kind: ``branch`` or ``tag``.
    :param commit: The commit that it stands at.
    """

    name: str
    kind: str
    commit: str


class ListedFile(_Answer):
    """
    A file of an archive.

    :param name: Its path; of a long one the end.
    :param size: Its bytes.
    """

    name: str
    size: int


class ListedArchive(_Answer):
    """
    What is in an archive.

    :param sha256: Its digest.
    :param content_sha256: Digest of the submission's content: of the folder alone, packed anew.
    :param files: The first files.
    :param count: How many files there are.
    :param size: Bytes of all of them, unpacked.
    """

    sha256: str
    content_sha256: str
    files: tuple[ListedFile, ...]
    count: int
    size: int


class EqualSubmission(_Answer):
    """
    A submission of the same source.

    :param submission_id: Its id.
    :param submitted_by: Whose it is.
    :param status: Where it is.
    :param created_at: When it was sent, ISO 8601.
    :param by: What is the same: ``commit`` or ``content``.
    """

    submission_id: str
    submitted_by: str
    status: str
    created_at: str
    by: str


class EventQuota(_Answer):
    """
    What an event still takes of the caller.

    :param event: The event.
    :param limit: How many schedules it takes; ``None`` for as many as one likes.
    :param hours: In so many hours; ``None`` without a limit.
    :param left: How many more it takes now; ``None`` without a limit.
    :param objection: Why it takes none now, and from when on it does; ``None`` if it takes one.
    """

    event: str
    limit: int | None = None
    hours: float | None = None
    left: int | None = None
    objection: str | None = None


class SourceReport(_Answer):
    """
    What is known of a source before it is sent; nothing was changed.

    :param source: The source that was looked at.
    :param refs: Branches and tags of a repository, its default branch first.
    :param refs_left_out: How many more there are.
    :param commit: The commit that the ref stands at, or the default branch without one; ``None``
        for an archive, and for what may be the beginning of a commit's id.
    :param ref_note: What else is to be said of the ref; ``None`` for nothing.
    :param archive: What is in an uploaded archive; ``None`` for a repository.
    :param equal: Submissions of the same source that the caller may see, the newest first.
    :param compared: With so many of the newest submissions it was compared.
    :param quotas: What each event still takes of the caller.
    """

    source: str
    refs: tuple[ListedRef, ...] = ()
    refs_left_out: int = 0
    commit: str | None = None
    ref_note: str | None = None
    archive: ListedArchive | None = None
    equal: tuple[EqualSubmission, ...] = ()
    compared: int = 0
    quotas: tuple[EventQuota, ...] = ()


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
    :param line_offset: Where the last line begins if it may go on; else ``next_offset``.
    :param text: The text; whole characters only.
    :param complete: Whether nothing follows, ever.
    :param state: What the attempt is doing, in a few words.
    """

    attempt: str | None
    offset: int
    next_offset: int
    line_offset: int | None = None
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


class Sent(_Answer):
    """
    A run that was asked for.

    :param submission_id: The submission that it is of.
    :param run_id: The run; of a new submission, the submission's id.
    :param is_new: Whether this request has started it; ``False`` if an earlier one had.
    """

    submission_id: str
    run_id: str
    is_new: bool


class TaskFile(_Answer):
    """
    A file that a training has left.

    :param path: Its path below the output folder.
    :param size: Its size in bytes.
    :param sha256: Its digest.
    :param url: Where it can be read without a login; a secret as long as it is good.
    :param expires_at: Until when the address is good.
    """

    path: str
    size: int
    sha256: str
    url: str
    expires_at: AwareDatetime


class TaskFiles(_Answer):
    """
    The files of a training.

    :param submission_id: The submission.
    :param task_id: The task.
    :param files: By path.
    :param note: Why there are none, or not all of them; ``None`` if there is nothing to say.
    """

    submission_id: str
    task_id: str
    files: tuple[TaskFile, ...] = ()
    note: str | None = None


class ShownRun(_Answer):
    """
    A run of the DAG.

    :param run_id: Its id.
    :param state: Airflow's word for how it is: ``queued``, ``running``, ``success`` or ``failed``.
    :param conf: Its conf, as it was given: anything at all.
    :param logical_date: The date it stands for, which it waits for; ``None`` for none.
    :param run_after: When it may begin.
    :param is_paused: Whether the DAG is paused, so that no run of it begins.
    :param failure: Why it failed, by the log of its first task that did; ``None`` if that says
        nothing, or it has not failed.
    """

    run_id: str
    state: str
    conf: JsonValue = None
    logical_date: AwareDatetime | None = None
    run_after: AwareDatetime | None = None
    is_paused: bool = False
    failure: str | None = None


class Closing(_Answer):
    """
    A run that closes an event.

    :param event: The event.
    :param run_id: The run, of the DAG ``touchstone_close_event``.
    :param state: Airflow's word for how it is.
    """

    event: str
    run_id: str
    state: str


class Reordered(_Answer):
    """
    What became of a change of the queue's order.

    :param submission_id: Of which submission.
    :param task_id: Of which task; ``None`` for all of the submission's.
    :param priority: The priority that it waits by now; ``None`` for its schedule's own.
    :param is_changed: Whether that is another one than before.
    """

    submission_id: str
    task_id: str | None = None
    priority: int | None = None
    is_changed: bool = True


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


class Summary(_Answer):
    """
    What waits and runs, in a few figures.

    :param waiting: Tasks that wait for a slot, of all users.
    :param own_waiting: Those of them that are the caller's.
    :param running: Slots for trainings that are in use on servers.
    :param slots: Slots for trainings that servers have.
    :param servers: Servers that there are.
    :param servers_alive: Those that are heard of.
    :param balance_usd: Money at RunPod, to the cent; ``None`` if unknown, or for admins only.
    :param dispatcher: Whether one is at work.
    """

    waiting: int
    own_waiting: int
    running: int
    slots: int
    servers: int
    servers_alive: int
    balance_usd: str | None
    dispatcher: DispatcherState


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


class ServerTask(_Answer):
    """
    A task at work on a server.

    :param submission_id: The submission; of another DAG's program, its run.
    :param task_id: The task.
    :param submitted_by: Whose it is.
    :param status: Where it is.
    :param percent: How far it is.
    :param running_at: Since when it runs; ``None`` if it does not yet.
    :param ends_at: When it ends by its own word; ``None`` if it does not say.
    """

    submission_id: str
    task_id: str
    submitted_by: str
    status: str
    percent: float = 0.0
    running_at: datetime | None = None
    ends_at: datetime | None = None


class ServerWork(_Answer):
    """
    What a server does, and what draining or attaching it would change.

    :param server: The server.
    :param slots: Trainings at a time; ``None`` if it has no pool.
    :param validation_slots: Validations at a time; ``None`` if it has no pool.
    :param in_use: How many trainings hold a slot.
    :param validation_in_use: How many validations do.
    :param is_drained: Whether it is drained.
    :param drained_by: Who has drained it.
    :param kept_slots: Slots that an attach brings back; ``None`` if it is not drained.
    :param kept_validation_slots: The same for validations.
    :param tasks: What is at work there: a drain lets it go on to its end.
    :param left_out: How many more there are that are not shown.
    :param ends_p50: When its last training ends, as likely earlier as later; ``None`` if nobody can
        say.
    :param ends_p90: By when the last one ends in nine cases of ten.
    """

    server: str
    slots: int | None = None
    validation_slots: int | None = None
    in_use: int = 0
    validation_in_use: int = 0
    is_drained: bool = False
    drained_by: str | None = None
    kept_slots: int | None = None
    kept_validation_slots: int | None = None
    tasks: tuple[ServerTask, ...] = ()
    left_out: int = 0
    ends_p50: datetime | None = None
    ends_p90: datetime | None = None


class ListedTask(_Answer):
    """
    A task in a list.

    :param submission_id: The submission; of another DAG's program, its run.
    :param task_id: The task.
    :param submitted_by: Whose it is.
    :param interval: Prediction interval; ``None`` for a validation.
    :param status: Where it is.
    :param server: The server of its newest attempt; ``None`` for none, and for a pod.
    :param percent: How far it is.
    :param reason: Why it ended like that.
    :param created_at: When it was put on record.
    :param running_at: When its newest attempt began to run.
    :param ended_at: When that was over.
    """

    submission_id: str
    task_id: str
    submitted_by: str
    interval: int | None = None
    status: str
    server: str | None = None
    percent: float = 0.0
    reason: str | None = None
    created_at: datetime
    running_at: datetime | None = None
    ended_at: datetime | None = None


class TaskList(_Answer):
    """
    Some tasks, newest first.

    :param tasks: The tasks; a page may have few, or none, and others follow.
    :param next: The cursor of the next page; ``None`` on the last one.
    """

    tasks: tuple[ListedTask, ...]
    next: str | None = None


class PlannedTask(_Answer):
    """
    A training as it would be if its schedule were given now.

    :param submission_id: The submission.
    :param task_id: The id that it will have.
    :param interval: Prediction interval in bars.
    :param fold: Number of its fold; ``None`` without folds.
    :param rows: Which rows that is judged on, as people read them.
    :param seed: Seed of the training; the first one of several.
    :param seed_count: How many seeds it has, one after the other.
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
    fold: int | None = None
    rows: str | None = None
    seed: int
    seed_count: int = 1
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


class CostBudget(_Answer):
    """
    How a budget for pods stands, in US dollars as text.

    :param limit_usd: What may be spent; ``None`` for no limit.
    :param reserved_usd: Held for pods that may still cost something, the worst case of each.
    :param spent_usd: Spent on pods that are gone.
    :param left_usd: What may still be reserved; below zero where more was spent; ``None`` for no
        limit.
    """

    limit_usd: str | None
    reserved_usd: str
    spent_usd: str
    left_usd: str | None


class CostRow(_Answer):
    """
    What some pods have cost together, in US dollars as text, exact to the micro-dollar.

    :param name: A submission's id, a user's name, a GPU model, or ``total``.
    :param user: Who has submitted; ``None`` where that is no single user, or the name itself.
    :param pods: How many pods.
    :param seconds: How long they were billed.
    :param usd: What they cost: by RunPod's bill where there is one, else by our own clock.
    :param useful_usd: The part of pods whose attempts came to what they were for.
    :param wasted_usd: The part of pods whose attempts failed, were lost or were cancelled.
    :param open_usd: The part of pods that are not known to be gone, up to now.
    :param billed_pods: How many of them RunPod has billed.
    :param billed_usd: What it has billed for those; ``None`` while there is no bill.
    :param budget: The budget that these pods came out of; ``None`` where there is none such.
    """

    name: str
    user: str | None = None
    pods: int
    seconds: int
    usd: str
    useful_usd: str
    wasted_usd: str
    open_usd: str
    billed_pods: int
    billed_usd: str | None
    budget: CostBudget | None = None


class CostMonth(_Answer):
    """
    A month and its budget.

    :param month: UTC, as ``2026-11``.
    :param budget: How it stands.
    """

    month: str
    budget: CostBudget


class CostReport(_Answer):
    """
    What the pods have cost that were launched in a month.

    :param month: The month, UTC, as ``2026-11``.
    :param by: What a row is for: ``submission``, ``submitter`` or ``gpu``.
    :param user: Whose pods alone are counted; ``None`` for everybody's.
    :param at: Up to when pods are counted that are not gone, ISO 8601.
    :param problem: Why there are no figures, in one line; ``None`` if there are.
    :param total: All pods together, also those in no row; ``None`` with a problem.
    :param rows: The dearest first.
    :param left_out: How many rows more there would be.
    :param months: The newest months, this one first, as their budgets stand; empty with a problem.
    """

    month: str
    by: str
    user: str | None = None
    at: str
    problem: str | None = None
    total: CostRow | None = None
    rows: tuple[CostRow, ...] = ()
    left_out: int = 0
    months: tuple[CostMonth, ...] = ()


class AuditAct(_Answer):
    """
    Something that somebody did.

    :param at: When, ISO 8601.
    :param by: Who.
    :param door: Where it came in: ``page``, ``API``, ``CLI``, ``Airflow`` or ``control plane``;
        ``None`` for an act from before there was an audit.
    :param kind: What it changed: ``submission``, ``server``, ``event`` or ``installation``.
    :param name: Which one; empty for the installation.
    :param action: What was done, in words.
    """

    at: str
    by: str
    door: str | None
    kind: str
    name: str
    action: str


class AuditLog(_Answer):
    """
    Some acts, the newest first.

    :param acts: The acts.
    :param unreadable: How many more there are here whose records make no sense.
    :param next: The cursor of the next page; ``None`` on the last one.
    """

    acts: tuple[AuditAct, ...]
    unreadable: int = 0
    next: str | None = None


class ComparedChart(_Answer):
    """
    Where a chart of a training is.

    :param name: The chart's name.
    :param url: Its address.
    :param by: Whose it is, ``judge`` or ``trainer``; ``None`` in old records.
    """

    name: str
    url: str
    by: str | None = None


class ComparedInterval(_Answer):
    """
    What a submission came to at one prediction interval.

    :param interval: The prediction interval.
    :param figures: The judge's figures by name, each of :data:`touchstone.core.comparing.FIGURES`;
        ``None`` for one that there is not.
    :param note: Why there are no figures, or what the judge says of them; ``None`` for nothing.
    :param charts: Its charts.
    """

    interval: int
    figures: Mapping[str, int | float | None]
    note: str | None = None
    charts: tuple[ComparedChart, ...] = ()


class ComparedVerdict(_Answer):
    """
    What was said last of an entry in an event.

    :param event: The event.
    :param baseline: What the event compares with now; ``None`` for nothing yet.
    :param verdict: The verdict; ``None`` before there is one.
    :param why: The verdict's sentence, or why there is no score.
    :param score: The entry's score.
    :param difference: The score's difference from the baseline's.
    :param low: Lower end of the difference's 95 % interval.
    :param high: Upper end of it.
    :param p: Its p, adjusted for all that were compared.
    :param n: How many were compared.
    """

    event: str
    baseline: str | None = None
    verdict: str | None = None
    why: str | None = None
    score: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: int | None = None


class ComparedSubmission(_Answer):
    """
    One submission of a comparison.

    :param submission_id: Its id.
    :param submitted_by: Whose it is.
    :param status: Where it is; ``None`` for another user's.
    :param is_baseline: Whether an event of this comparison compares with it.
    :param note: Why there are no figures of it; ``None`` if there may be.
    :param score: Its own score.
    :param score_low: Lower end of the score's interval.
    :param score_high: Upper end of it.
    :param waived_columns: Its columns against which no look-ahead is held.
    :param verdicts: What was said of it, an entry each, the newest last.
    :param intervals: What it came to, by prediction interval.
    """

    submission_id: str
    submitted_by: str
    status: str | None = None
    is_baseline: bool = False
    note: str | None = None
    score: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    waived_columns: tuple[str, ...] = ()
    verdicts: tuple[ComparedVerdict, ...] = ()
    intervals: tuple[ComparedInterval, ...] = ()


class ComparedSubmissions(_Answer):
    """
    Some submissions beside each other, by prediction interval.

    :param intervals: All prediction intervals of any of them, ascending.
    :param submissions: In the order asked for; baselines that were not asked for last.
    :param missing: Those that there are not, or that are another user's and in no event.
    """

    intervals: tuple[int, ...]
    submissions: tuple[ComparedSubmission, ...]
    missing: tuple[str, ...] = ()
