"""What the command line prints, and how a run that is waited for looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from touchstone.client.answers import (
    Cost,
    ListedSubmission,
    Results,
    ShownBranch,
    ShownModel,
    ShownPod,
    ShownSubmission,
    ShownTask,
    Waiting,
)
from touchstone.client.beside import describe_beside
from touchstone.client.folds import describe_folds, name_result
from touchstone.client.forward import describe_forward
from touchstone.client.seeds import describe_seeds
from touchstone.client.waivers import describe_waivers
from touchstone.client.watch import Snapshot
from touchstone.core.answers.gpus import GpuCatalogue
from touchstone.core.gpus import describe_device
from touchstone.core.pod_attempts import describe_hardware

_STYLES = {
    "success": "green",
    "accepted": "green",
    "running": "cyan",
    "error": "red",
    "rejected": "red",
    "lost": "red",
    "cancelled": "yellow",
    "retracted": "yellow",
}
_LINE_EVERY_SECONDS = 10.0
_CENT: Final = Decimal("0.01")
_BAR_CELLS = 20


def build_list(submissions: Sequence[ListedSubmission]) -> Table:
    """Return submissions as a table."""
    table = _table("Submission", "Status", "By", "Score", "Verdict", "Starts (UTC)")
    # Takes what the others leave, instead of squeezing them.
    table.add_column("Notes", overflow="ellipsis", no_wrap=True, ratio=1)
    table.expand = True
    for item in submissions:
        table.add_row(
            item.submission_id,
            format_status(item.status),
            item.submitted_by or "",
            format_number(item.score),
            "" if item.replay_of else format_line(item.verdict),
            format_waiting(item.waiting),
            format_line(item.reason or _get_wait(item) or _format_replay(item) or item.notes),
        )
    return table


def _format_replay(item: ListedSubmission) -> str:
    """Return what a submission replays, and what that has shown; nothing for others."""
    if not item.replay_of:
        return ""
    verdict = f": {item.verdict}" if item.verdict else ""
    return f"replay of {item.replay_of}{verdict}"


def build_tasks(tasks: Sequence[ShownTask]) -> RenderableType:
    """Return tasks as a table, with remarks on each below it."""
    table = _table("Task", "Status", "Progress", "Doing", "Left", "Server", "Starts (UTC)")
    for task in tasks:
        table.add_row(
            task.task_id,
            format_status(task.status),
            _format_bar(task),
            format_line(task.progress_phase or task.phase),
            format_seconds(task.eta_seconds),
            _format_deployment(task),
            format_waiting(task.waiting),
        )
    reasons = {task.task_id: format_line(_get_wait(task) or task.reason) for task in tasks}
    pods = {task.task_id: _format_pod(task) for task in tasks}
    devices = {task.task_id: _format_device(task) for task in tasks}
    gpus = {task.task_id: format_line(task.gpu and task.gpu.note) for task in tasks}
    code = {
        task.task_id: _format_code(task.published.models if task.published else ())
        for task in tasks
    }
    remarks = (reasons, pods, devices, gpus, code)
    return Group(table, *(line for each in remarks for line in _build_remarks(each)))


def _format_deployment(task: ShownTask) -> str:
    """Return where a task runs: the server, or the pod that is rented for it."""
    return f"runpod {_name_hardware(task.pod)}" if task.pod else task.server or ""


def _name_hardware(pod: ShownPod) -> str:
    return describe_hardware(gpu=pod.gpu, cpu=pod.cpu, vcpus=pod.vcpus)


def _format_pod(task: ShownTask) -> str:
    pod = task.pod
    if pod is None:
        return ""
    where = ", ".join(place for place in (pod.cloud, pod.data_center) if place)
    words = [f"pod {pod.id or 'ordered'} ({_name_hardware(pod)}, {where})"]
    words.append(f"${pod.price_per_hour}/h")
    words.append(_format_cost(task.cost))
    return ", ".join(word for word in words if word)


def _format_device(task: ShownTask) -> str:
    """Return on what a task computed, if it says so, and in which image."""
    words = [describe_device(task.published.device if task.published else {})]
    if image := task.image:
        digest = task.image_digest
        words.append(f"image {image} ({digest})" if digest else f"image {image}")
    return format_line(", ".join(word for word in words if word))


def _format_code(models: Sequence[ShownModel]) -> str:
    """Return which models may carry code, and why; empty for none."""
    found = [f"{model.label}: {model.code_reason}" for model in models if model.may_carry_code]
    if not found:
        return ""
    return format_line(
        f"models may carry code ({', '.join(found)}): load them nowhere with safe_mode=False"
    )


def _get_wait(item: ListedSubmission | ShownTask) -> str | None:
    return item.waiting.reason if item.waiting else None


def format_waiting(waiting: Waiting | None) -> str:
    """Return a place in the queue and about when it is over: ``3 of 12, 14:20-14:55`` UTC."""
    if waiting is None:
        return ""
    place = f"{waiting.position} of {waiting.of}"
    p50, p90 = _format_clock(waiting.p50), _format_clock(waiting.p90)
    return f"{place}, {p50}-{p90}" if p50 and p90 else place


def _format_clock(when: str | None) -> str:
    return f"{datetime.fromisoformat(when):%H:%M}" if when else ""


def build_facts(submission: ShownSubmission) -> Table:
    """Return a submission's own facts as a table of two columns."""
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    facts: dict[str, str | Text | None] = {
        "submission": submission.submission_id,
        "status": format_status(submission.status),
        "reason": submission.reason,
        "kind": submission.system,
        "by": submission.submitted_by,
        "created": format_time(submission.created_at),
        "ended": format_time(submission.ended_at),
        "replay of": submission.replay_of,
        "source": submission.source_url,
        "ref": submission.source_ref,
        "folder": submission.source_path,
        **describe_waivers(submission.waived_columns),
        "commit": submission.commit,
        "el-nigma": _format_elnigma(submission.elnigma),
        "data": submission.data.label if submission.data else None,
        "seeds": describe_seeds(submission.schedule),
        "folds": describe_folds(submission.schedule),
        "left out": "; ".join(submission.remarks),
        "content": submission.content_sha256,
        "notes": submission.notes,
        "score": _format_score(submission),
        "verdict": _format_verdict(submission),
        **describe_beside(submission.beside),
        **describe_forward(submission.forward, submission.forward_note),
        "cost": _format_cost(submission.cost),
    }
    for name, value in facts.items():
        if isinstance(value, Text):
            table.add_row(name, value)
        elif value:
            table.add_row(name, clean(value))
    return table


def _format_verdict(item: ShownSubmission | Results) -> str:
    verdict, reason = item.verdict, format_line(item.verdict_reason)
    if verdict and reason.lower().startswith(verdict):
        # The judge's own sentence begins with the verdict.
        return reason
    return f"{verdict} ({reason})" if verdict and reason else verdict or ""


def _format_elnigma(elnigma: ShownBranch | None) -> str:
    return f"{elnigma.branch} at {elnigma.commit}" if elnigma else ""


def _format_cost(cost: Cost | None) -> str:
    if cost is None:
        return ""
    return f"${cost.usd}" + (" so far" if cost.is_open else "")


def build_gpus(found: GpuCatalogue) -> RenderableType:
    """Return GPU models as a table, cheapest first, with when RunPod was asked."""
    table = _table("GPU", "Memory", "Secure $/h", "Stock", "Community $/h", "Stock")
    for row in found.gpus:
        table.add_row(
            Text(row.name, style="" if row.is_available else "dim"),
            f"{row.memory_gb} GB",
            row.secure_price or "-",
            row.secure_stock.lower(),
            row.community_price or "-",
            row.community_stock.lower(),
        )
    return Group(table, Text(f" asked at {format_time(found.checked_at)} UTC"))


def build_results(results: Results) -> RenderableType:
    """
    Return what a submission came to: a row per interval, links and the verdict below.

    Below the row of an interval that was trained in folds stand those of its folds.
    """
    table = _table("Interval", "Net Sharpe", "Hit - base", "Max DD", "AUC long/short")
    remarks: dict[str, str] = {}
    for item in results.results:
        name = name_result(item)
        metrics = item.metrics
        reported = _format_sharpe(item.reported)
        auc = [format_number(metrics.get(f"auc_{side}")) for side in ("long", "short")]
        table.add_row(
            name if item.fold is None else f"  {name}, {format_line(item.rows)}",
            _format_sharpe(metrics)
            or (f"reported {reported}" if reported else format_status(item.status)),
            format_number(metrics.get("hit_rate_minus_base")),
            format_number(metrics.get("max_drawdown")),
            "/".join(text or "-" for text in auc) if any(auc) else "",
        )
        remarks[name] = format_line(item.reason) or item.mlflow_url or ""
        if item.judged == "not judged":
            remarks[f"{name} figures"] = f"not judged: {format_line(item.judged_reason)}"
        remarks[f"{name} models"] = _format_code(item.models)
    if score := _format_score(results):
        remarks["score"] = score
    if results.replay_of:
        remarks["replay of"] = results.replay_of
    if verdict := _format_verdict(results):
        remarks["verdict"] = verdict
    beside = describe_beside(results.beside)
    beside |= describe_forward(results.forward, results.forward_note)
    remarks |= {name: format_line(told) for name, told in beside.items()}
    # Left to the terminal to wrap: a link that is cut in two leads nowhere.
    lines = _build_remarks(remarks, Text(no_wrap=True, overflow="ignore"))
    return Group(table, *lines)


class LiveView:
    """
    Shows a run on a terminal, redrawn in place.

    :param console: The terminal.
    """

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._latest: RenderableType = ""

    def __enter__(self) -> LiveView:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the terminal as it was."""
        self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Show what is known now."""
        parts: list[RenderableType] = [describe(snapshot)]
        if snapshot.tasks:
            parts.append(build_tasks(snapshot.tasks))
        self._latest = Group(*parts)
        self._live.update(self._latest, refresh=True)

    def show_silence(self, seconds: float) -> None:
        """Show that the api-server has not answered for so long."""
        notice = Text(f"the api-server has not answered for {seconds:.0f} s; trying on", "yellow")
        self._live.update(Group(self._latest, notice), refresh=True)


class LineView:
    """
    Shows a run as lines, for logs: one per change, and progress now and then.

    :param console: Where lines go.
    :param clock: Seconds that only go up.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._said: dict[str, str] = {}
        self._said_at: dict[str, float] = {}
        self._is_silent = False

    def __enter__(self) -> LineView:
        """Return the view."""
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing: lines stay."""

    def show(self, snapshot: Snapshot) -> None:
        """Print what has changed."""
        if self._is_silent:
            self._console.print("the api-server answers again")
            self._is_silent = False
        self._say("", describe(snapshot).plain, "")
        for task in snapshot.tasks:
            self._say(task.task_id, _describe_task(task), _describe_progress(task))

    def show_silence(self, seconds: float) -> None:  # noqa: ARG002 (a line tells no seconds)
        """Print once that the api-server does not answer."""
        if not self._is_silent:
            self._console.print("the api-server does not answer; trying on")
            self._is_silent = True

    def _say(self, name: str, state: str, progress: str) -> None:
        now = self._clock()
        line = f"{state} {progress}".strip()
        is_news = self._said.get(name) != state
        is_due = now - self._said_at.get(name, now) >= _LINE_EVERY_SECONDS
        if is_news or (is_due and self._said.get(f"{name} line") != line):
            self._console.print(f"{name}: {line}" if name else line, soft_wrap=True)
            self._said |= {name: state, f"{name} line": line}
            self._said_at[name] = now


def describe(snapshot: Snapshot) -> Text:
    """Return a run's state as one line."""
    submission = snapshot.submission
    if submission is None:
        text = Text(f"run {snapshot.run_state}")
    else:
        text = Text(f"{submission.submission_id}: ")
        text.append_text(format_status(submission.status))
    if snapshot.hint:
        text.append(f" ({snapshot.hint})")
    return text


def format_status(status: object) -> Text:
    """Return a status in its colour."""
    return Text(str(status or ""), style=_STYLES.get(str(status), ""))


def format_number(value: object) -> str:
    """Return a figure with four significant digits; empty for none."""
    return f"{value:.4g}" if isinstance(value, (int, float)) else ""


def format_seconds(value: object) -> str:
    """Return a duration for people; empty for none."""
    if not isinstance(value, (int, float)) or value < 0:
        return ""
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def format_money(usd: object) -> str:
    """Return US dollars to the cent, half a cent up; ``n/a`` for what is no amount."""
    try:
        cents = Decimal(str(usd)).quantize(_CENT, rounding=ROUND_HALF_UP)
    except ArithmeticError:
        return "n/a"
    return f"{'-' if cents < 0 else ''}${abs(cents):,}" if cents.is_finite() else "n/a"


def format_time(value: object) -> str:
    """Return a record's time to the second, UTC."""
    return str(value or "")[:19].replace("T", " ")


def format_line(value: object) -> str:
    """Return the first line of a text that others wrote, without what controls terminals."""
    lines = str(value or "").splitlines()
    return clean(lines[0]) if lines else ""


def clean(text: str) -> str:
    """Return a text without the control characters that move cursors or rename windows."""
    return "".join(
        character if character in "\n\t" or character.isprintable() else "\ufffd"
        for character in text.replace("\r\n", "\n").replace("\r", "\n")
    )


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for column in columns:
        # Wrapped ids and figures can neither be copied nor compared.
        table.add_column(column, no_wrap=True)
    return table


def _build_remarks(remarks: dict[str, str], style: Text | None = None) -> list[Text]:
    """Return lines that are too long for a column."""
    base = style or Text(overflow="fold")
    lines = (f" {name}: {remark}" for name, remark in remarks.items() if remark)
    return [base.copy().append(line) for line in lines]


def _format_bar(task: ShownTask) -> str:
    if task.percent is None or task.status == "queued":
        return ""
    done = round(_BAR_CELLS * min(max(task.percent, 0), 100) / 100)
    return f"{'#' * done}{'.' * (_BAR_CELLS - done)} {task.percent:3.0f} %"


def _format_interval(figure: float | None, lower: float | None, upper: float | None) -> str:
    """Return a figure with its confidence interval, if it has one."""
    value, low, high = format_number(figure), format_number(lower), format_number(upper)
    return f"{value} [{low}, {high}]" if value and low and high else value


def _format_sharpe(metrics: Mapping[str, float | None]) -> str:
    names = ("net_sharpe", "net_sharpe_low", "net_sharpe_high")
    return _format_interval(*(metrics.get(name) for name in names))


def _format_score(item: ListedSubmission | Results) -> str:
    return _format_interval(item.score, item.score_low, item.score_high)


def _describe_task(task: ShownTask) -> str:
    words = [task.status or ""]
    if task.server:
        words.append(f"on {task.server}")
    if reason := format_line(task.reason):
        words.append(f"({reason})")
    return " ".join(words)


def _describe_progress(task: ShownTask) -> str:
    is_under_way = task.status in {"preparing", "running"} and task.progress_phase
    if not is_under_way or task.percent is None:
        return ""
    words = [f"{task.percent:.0f} %", format_line(task.progress_phase)]
    if left := format_seconds(task.eta_seconds):
        words.append(f"{left} left")
    return ", ".join(word for word in words if word)
