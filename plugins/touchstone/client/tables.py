"""What the command line prints, and how a run that is waited for looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from touchstone.client.watch import Snapshot
from touchstone.core.gpus import describe_device
from touchstone.core.pod_attempts import describe_pod

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
_BAR_CELLS = 20

Record = dict[str, Any]


def build_list(submissions: Sequence[Record]) -> Table:
    """Return submissions as a table."""
    table = _table("Submission", "Status", "By", "Score", "Starts (UTC)")
    # Takes what the others leave, instead of squeezing them.
    table.add_column("Notes", overflow="ellipsis", no_wrap=True, ratio=1)
    table.expand = True
    for item in submissions:
        table.add_row(
            item["submission_id"],
            format_status(item.get("status")),
            item.get("submitted_by") or "",
            format_number(item.get("score")),
            format_waiting(item.get("waiting")),
            format_line(item.get("reason") or _get_wait(item) or item.get("notes")),
        )
    return table


def build_tasks(tasks: Sequence[Record]) -> RenderableType:
    """Return tasks as a table, with what is to be said of each below it."""
    table = _table("Task", "Status", "Progress", "Doing", "Left", "Server", "Starts (UTC)")
    for task in tasks:
        table.add_row(
            task["task_id"],
            format_status(task.get("status")),
            _format_bar(task),
            format_line(task.get("progress_phase") or task.get("phase")),
            format_seconds(task.get("eta_seconds")),
            _format_deployment(task),
            format_waiting(task.get("waiting")),
        )
    reasons = {
        task["task_id"]: format_line(_get_wait(task) or task.get("reason")) for task in tasks
    }
    pods = {task["task_id"]: _format_pod(task) for task in tasks}
    devices = {task["task_id"]: _format_device(task) for task in tasks}
    gpus = {task["task_id"]: format_line((task.get("gpu") or {}).get("note")) for task in tasks}
    code = {
        task["task_id"]: _format_code((task.get("published") or {}).get("models")) for task in tasks
    }
    remarks = (reasons, pods, devices, gpus, code)
    return Group(table, *(line for each in remarks for line in _build_remarks(each)))


def _format_deployment(task: Record) -> str:
    """Return where a task runs: the server, or what is rented for it."""
    pod = task.get("pod")
    return f"runpod {describe_pod(pod)}" if pod else str(task.get("server") or "")


def _format_pod(task: Record) -> str:
    pod = task.get("pod")
    if not pod:
        return ""
    where = ", ".join(str(pod[key]) for key in ("cloud", "data_center") if pod.get(key))
    words = [f"pod {pod.get('id') or 'ordered'} ({describe_pod(pod)}, {where})"]
    words.append(f"${pod['price_per_hour']}/h")
    words.append(_format_cost(task.get("cost")))
    return ", ".join(word for word in words if word)


def _format_device(task: Record) -> str:
    """Return on what a task computed, if it says so, and in which image."""
    words = [describe_device((task.get("published") or {}).get("device") or {})]
    if image := task.get("image"):
        digest = task.get("image_digest")
        words.append(f"image {image} ({digest})" if digest else f"image {image}")
    return format_line(", ".join(word for word in words if word))


def _format_code(models: Sequence[Record] | None) -> str:
    """Return which models may carry code, and why; empty for none."""
    found = [
        f"{model.get('strategy')}: {model.get('code_reason')}"
        for model in models or ()
        if model.get("may_carry_code")
    ]
    if not found:
        return ""
    return format_line(
        f"models may carry code ({', '.join(found)}): load them nowhere with safe_mode=False"
    )


def _get_wait(item: Record) -> str | None:
    return (item.get("waiting") or {}).get("reason")


def format_waiting(waiting: Record | None) -> str:
    """Return a place in the queue and about when it is over: ``3 of 12, 14:20-14:55`` UTC."""
    if not waiting:
        return ""
    place = f"{waiting['position']} of {waiting['of']}"
    p50, p90 = (_format_clock(waiting.get(name)) for name in ("p50", "p90"))
    return f"{place}, {p50}-{p90}" if p50 and p90 else place


def _format_clock(when: str | None) -> str:
    return f"{datetime.fromisoformat(when):%H:%M}" if when else ""


def build_facts(submission: Record) -> Table:
    """Return a submission's own facts as a table of two columns."""
    table = Table(box=None, show_header=False, padding=(0, 1))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    facts: dict[str, Any] = {
        "submission": submission["submission_id"],
        "status": format_status(submission.get("status")),
        "reason": submission.get("reason"),
        "kind": submission.get("system"),
        "by": submission.get("submitted_by"),
        "created": format_time(submission.get("created_at")),
        "ended": format_time(submission.get("ended_at")),
        "source": submission.get("source_url"),
        "ref": submission.get("source_ref"),
        "folder": submission.get("source_path"),
        "commit": submission.get("commit"),
        "el-nigma": _format_elnigma(submission.get("elnigma")),
        "left out": "; ".join(submission.get("remarks") or ()),
        "content": submission.get("content_sha256"),
        "notes": submission.get("notes"),
        "score": _format_score(submission),
        "verdict": submission.get("verdict"),
        "cost": _format_cost(submission.get("cost")),
    }
    for name, value in facts.items():
        if isinstance(value, Text):
            table.add_row(name, value)
        elif value:
            table.add_row(name, clean(str(value)))
    return table


def _format_elnigma(elnigma: Record | None) -> str:
    return f"{elnigma['branch']} at {elnigma['commit']}" if elnigma else ""


def _format_cost(cost: Record | None) -> str:
    if not cost:
        return ""
    return f"${cost['usd']}" + (" so far" if cost["is_open"] else "")


def build_gpus(found: Record) -> RenderableType:
    """Return GPU models as a table, cheapest first, with when RunPod was asked."""
    table = _table("GPU", "Memory", "Secure $/h", "Stock", "Community $/h", "Stock")
    for row in found["gpus"]:
        table.add_row(
            Text(row["name"], style="" if row["is_available"] else "dim"),
            f"{row['memory_gb']} GB",
            row["secure_price"] or "-",
            str(row["secure_stock"]).lower(),
            row["community_price"] or "-",
            str(row["community_stock"]).lower(),
        )
    return Group(table, Text(f" asked at {format_time(found['checked_at'])} UTC"))


def build_results(results: Record) -> RenderableType:
    """Return what a submission came to: a row per interval, links and the verdict below."""
    table = _table("Interval", "Net Sharpe", "Hit - base", "Max DD", "AUC long/short")
    remarks: dict[str, str] = {}
    for item in results.get("results") or ():
        name = f"{item.get('interval')} d"
        metrics = item.get("metrics") or {}
        auc = [format_number(metrics.get(f"auc_{side}")) for side in ("long", "short")]
        table.add_row(
            name,
            _format_interval(metrics, "net_sharpe") or format_status(item.get("status")),
            format_number(metrics.get("hit_rate_minus_base")),
            format_number(metrics.get("max_drawdown")),
            "/".join(text or "-" for text in auc) if any(auc) else "",
        )
        remarks[name] = format_line(item.get("reason")) or str(item.get("mlflow_url") or "")
        remarks[f"{name} models"] = _format_code(item.get("models"))
    if score := _format_score(results):
        remarks["score"] = score
    if verdict := results.get("verdict"):
        reason = format_line(results.get("verdict_reason"))
        remarks["verdict"] = f"{verdict} ({reason})" if reason else str(verdict)
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
            self._say(task["task_id"], _describe_task(task), _describe_progress(task))

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
        text = Text(f"{submission['submission_id']}: ")
        text.append_text(format_status(submission.get("status")))
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


def _format_bar(task: Record) -> str:
    percent = task.get("percent")
    if not isinstance(percent, (int, float)) or task.get("status") == "queued":
        return ""
    done = round(_BAR_CELLS * min(max(percent, 0), 100) / 100)
    return f"{'#' * done}{'.' * (_BAR_CELLS - done)} {percent:3.0f} %"


def _format_interval(record: Record, name: str) -> str:
    """Return a figure with its confidence interval, if it has one."""
    value = format_number(record.get(name))
    low, high = format_number(record.get(f"{name}_low")), format_number(record.get(f"{name}_high"))
    return f"{value} [{low}, {high}]" if value and low and high else value


def _format_score(record: Record) -> str:
    return _format_interval(record, "score")


def _describe_task(task: Record) -> str:
    words = [str(task.get("status") or "")]
    if task.get("server"):
        words.append(f"on {task['server']}")
    if reason := format_line(task.get("reason")):
        words.append(f"({reason})")
    return " ".join(words)


def _describe_progress(task: Record) -> str:
    percent = task.get("percent")
    is_under_way = task.get("status") == "running" and task.get("progress_phase")
    if not is_under_way or not isinstance(percent, (int, float)):
        return ""
    words = [f"{percent:.0f} %", format_line(task.get("progress_phase"))]
    if left := format_seconds(task.get("eta_seconds")):
        words.append(f"{left} left")
    return ", ".join(word for word in words if word)
