"""What the command line prints of the fleet and of manifests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from touchstone.client.answers import FleetStatus, RunPodRow, ServerRow, ShownCapability
from touchstone.client.tables import clean, format_line, format_seconds, format_time
from touchstone.core.answers.fleet import FleetReport, ServerWork

_REPORT = (
    ("created", "pool created", "pool to create"),
    ("declared", "server's record brought up to date", "server's record to bring up to date"),
    ("differences", "differs", "differs"),
    ("refused", "refused", "refused"),
    ("not_enrolled", "not enrolled, so it gets nothing yet", "not enrolled, so it gets nothing"),
    ("not_in_file", "enrolled, but not in the file", "enrolled, but not in the file"),
    ("elsewhere", "of another environment", "of another environment"),
)


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """
    A manifest's job, and what has become of it.

    :param job: The job.
    :param submission_id: Its submission.
    :param state: The submission's status, or why there is none.
    """

    job: str
    submission_id: str
    state: str


def build_fleet(status: FleetStatus) -> RenderableType:
    """Return the fleet as a table, with remarks below."""
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for column in ("Server", "State", "Trainings", "Validations", "Priority", "Has"):
        table.add_column(column, no_wrap=True)
    table.add_column("Description", overflow="ellipsis", no_wrap=True, ratio=1)
    table.expand = True
    for row in status.servers:
        table.add_row(
            clean(row.server),
            _describe_state(row),
            format_slots(row.in_use, row.slots),
            format_slots(row.validation_in_use, row.validation_slots),
            (row.declared.priority if row.declared else None) or "",
            describe_capability(row.capability),
            format_line(row.description),
        )
    runpod = status.runpod
    if runpod.slots is not None:
        slots = format_slots(runpod.in_use, runpod.slots)
        table.add_row("runpod", _describe_account(runpod), slots)
    lines = (Text(f" {line}", overflow="fold") for line in list_remarks(status))
    return Group(table, *lines)


def list_remarks(status: FleetStatus) -> list[str]:
    """Return what an admin has to know of the fleet beside its table, line by line."""
    remarks = [line for row in status.servers for line in (*row.differences, *row.warnings)]
    lines = [
        *_describe_placements(status),
        *_describe_holds(status),
        *_describe_work(status),
        *_describe_gpus(status),
        *_describe_pods(status.runpod),
        *remarks,
        *status.differences,
        *status.warnings,
    ]
    return [clean(line) for line in lines]


def list_report(report: FleetReport) -> list[str]:
    """Return what came of a fleet file, line by line."""
    found: dict[str, tuple[str, ...]] = {
        "created": report.created,
        "declared": report.declared,
        "differences": report.differences,
        "refused": report.refused,
        "not_enrolled": report.not_enrolled,
        "not_in_file": report.not_in_file,
        "elsewhere": report.elsewhere,
    }
    done = 1 if report.is_applied else 2
    lines = [clean(f"{words[done]}: {item}") for words in _REPORT for item in found[words[0]]]
    notes = [clean(line) for line in report.warnings]
    return [*(lines or ["all is as the file says"]), *notes]


def build_jobs(jobs: Sequence[JobRow]) -> Table:
    """Return a manifest's jobs as a table."""
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for column in ("Job", "Submission", "State"):
        table.add_column(column, no_wrap=True)
    for job in jobs:
        table.add_row(clean(job.job), job.submission_id, clean(job.state))
    return table


def _describe_state(row: ServerRow) -> Text:
    word = describe_state(row)
    style = "green" if word == "alive" else "yellow" if row.drained else "red"
    return Text(word, style)


def describe_state(row: ServerRow) -> str:
    """Return whether a server is at work, in a word or two: ``alive``, ``silent 4:10``."""
    if row.drained:
        return "drained"
    age = row.heartbeat_age_seconds
    if age is None:
        return "never heard of"
    if not row.is_alive:
        return f"silent {_ago(age)}"
    # The reports of one submitter's trainings keep no other submitter's away.
    is_held = any(not hold.label for hold in row.holds)
    return "refuses" if is_held else "alive"


def _describe_account(runpod: RunPodRow) -> Text:
    if not runpod.is_connected:
        style = "dim"
    elif runpod.block:
        style = "red"
    else:
        style = "yellow" if runpod.is_low else "green"
    return Text(describe_account(runpod), style)


def describe_account(runpod: RunPodRow) -> str:
    """Return whether pods can be rented, and the balance."""
    if not runpod.is_connected:
        return "no connection"
    if runpod.block:
        return "takes nothing"
    money = _format_money(runpod)
    return f"low:{money}" if runpod.is_low else f"open{money}"


def _format_money(runpod: RunPodRow) -> str:
    return "" if runpod.balance_usd is None else f" ${float(runpod.balance_usd):.2f}"


def _describe_pods(runpod: RunPodRow) -> Iterator[str]:
    if runpod.block:
        yield f"runpod: {runpod.block}"
    elif runpod.is_low:
        yield f"runpod: the balance is low:{_format_money(runpod)}; add funds"
    proof = runpod.proof
    if proof is None:
        return
    if proof.has_failed:
        yield f"runpod: the list of {format_time(proof.at)} was none; nothing was decided"
        return
    dry = ", dry run" if proof.is_dry_run else ""
    yield (
        f"runpod: at {format_time(proof.at)} {proof.seen} pods, {proof.ours} ours, "
        f"{proof.unknown} unknown, {len(proof.terminated)} ended{dry}"
    )


def _ago(seconds: float) -> str:
    return format_seconds(seconds) or "0:00"


def format_slots(in_use: int, slots: int | None) -> str:
    """Return how many slots are in use, and how many there are: ``1/3``."""
    if slots is None:
        return "no pool"
    return f"{in_use}/{'unlimited' if slots == -1 else slots}"


def describe_capability(capability: ShownCapability) -> str:
    """Return what a server has: CUDA, memory, free disk."""
    cuda = f"CUDA {capability.vram_gib:g} GiB, " if capability.cuda else ""
    free = capability.free_disk_gib
    disk = "" if free is None else f", {free:g} GiB free"
    return f"{cuda}{capability.ram_gib:g} GiB RAM{disk}"


def _describe_gpus(status: FleetStatus) -> Iterator[str]:
    """Say what GPUs servers have, as far as their agents tell more than their memory."""
    for row in status.servers:
        shares = row.gpu_shares or 1
        if row.gpu_driver or shares > 1:
            models = Counter(row.gpus).items()
            words = [f"{number} {model}" for model, number in models]
            words += [f"driver {row.gpu_driver}"] if row.gpu_driver else []
            words += [f"each shared by {shares} trainings"] if shares > 1 else []
            yield f"{row.server}: {', '.join(words)}"


def _describe_placements(status: FleetStatus) -> Iterator[str]:
    paused = status.placements
    if paused.paused:
        reason = f": {format_line(paused.reason)}" if paused.reason else ""
        yield (
            f"PAUSED by {paused.by} at {format_time(paused.at)}{reason}; "
            "`touchstone resume` lets tasks start again"
        )
    if status.waiting:
        yield f"{status.waiting} waiting to be placed"
    for row in status.servers:
        if drained := row.drained:
            yield (
                f"{row.server}: drained by {drained.by} at {format_time(drained.at)}; "
                f"had {drained.slots} and {drained.validation_slots} slots"
            )


def _describe_holds(status: FleetStatus) -> Iterator[str]:
    for row in status.servers:
        for hold in row.holds:
            yield f"{row.server}: {hold.told}"
    lingering = status.dispatcher.lingering if status.dispatcher else {}
    for name, slots in sorted(lingering.items()):
        held = "1 slot is" if slots == 1 else f"{slots} slots are"
        yield f"{name}: {held} held by attempts that are being ended"


def _describe_work(status: FleetStatus) -> Iterator[str]:
    """Say what an admin has to look at: what could not be done, and what was set aside."""
    dispatcher = status.dispatcher
    if dispatcher and dispatcher.warning and not status.placements.paused:
        yield dispatcher.warning
    for trouble in dispatcher.troubles if dispatcher else ():
        more = f" (and {trouble.items - 1} more)" if trouble.items > 1 else ""
        what = " ".join(filter(None, (trouble.what, trouble.item)))
        yield (
            f"dispatcher: could not {what}{more}, last at {format_time(trouble.at.isoformat())}: "
            f"{trouble.reason}"
        )
    for queue, letters in sorted(status.dead_letters.items()):
        count = "1 message was" if letters == 1 else f"{letters} messages were"
        yield f"{queue}: {count} set aside; see Dead letters in the runbook"


def list_work(work: ServerWork) -> list[str]:
    """Return what a server does, and what a drain or an attach would change, line by line."""
    lines = [
        f"{clean(work.server)}: {format_slots(work.in_use, work.slots)} trainings, "
        f"{format_slots(work.validation_in_use, work.validation_slots)} validations"
    ]
    for task in work.tasks:
        ends = f", ends about {task.ends_at:%Y-%m-%d %H:%M} UTC" if task.ends_at else ""
        lines.append(
            f"  {clean(task.submission_id)}/{clean(task.task_id)} of {clean(task.submitted_by)}: "
            f"{task.status}, {task.percent:.0f} %{ends}"
        )
    if work.left_out:
        lines.append(f"  and {work.left_out} more")
    return [*lines, tell_drain(work)]


def tell_drain(work: ServerWork) -> str:
    """Return what a drain of a server, or an attach of one that is drained, would do."""
    if work.is_drained:
        return (
            f"drained by {clean(work.drained_by or '')}; attaching gives it {work.kept_slots} "
            f"slots and {work.kept_validation_slots} for validations again"
        )
    # One that was cancelled gives its slot back before its container has ended.
    running = max(work.in_use + work.validation_in_use, len(work.tasks) + work.left_out)
    told = "a drain lets nothing new start here"
    if not running:
        return f"{told}; nothing runs, so it is idle at once"
    ends = (
        f", by about {work.ends_p90:%Y-%m-%d %H:%M} UTC in nine cases of ten"
        if work.ends_p90
        else ""
    )
    return f"{told}; {running} of what runs {'goes' if running == 1 else 'go'} on to the end{ends}"


def tell_pause(status: FleetStatus, waiting: int) -> str:
    """
    Return what a pause of placements would do.

    :param status: The fleet.
    :param waiting: How many tasks wait for a slot.
    """
    running = status.runpod.in_use + sum(
        row.in_use + row.validation_in_use for row in status.servers
    )
    goes_on = (
        "nothing runs"
        if not running
        else f"{running} of what runs {'goes' if running == 1 else 'go'} on to the end"
    )
    waits = (
        "nothing waits"
        if not waiting
        else f"{waiting} of what waits {'waits' if waiting == 1 else 'wait'} until tasks may start"
    )
    return (
        f"a pause lets nothing new start anywhere; {goes_on}; {waits}; "
        "terminations, uploads and metering go on"
    )
