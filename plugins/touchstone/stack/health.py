"""Whether each part of a stack does its work, and not merely runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import httpx

from touchstone.stack.crashes import CrashSummary
from touchstone.stack.programs import Part
from touchstone.stack.supervisor import ProcessInfo

_TIMEOUT_SECONDS = 3.0
_HEARTBEAT_LIMIT = timedelta(seconds=45)
_AIRFLOW_COMPONENTS = {
    "airflow-scheduler": "scheduler",
    "airflow-triggerer": "triggerer",
    "airflow-dag-processor": "dag_processor",
}


@dataclass(frozen=True, kw_only=True)
class PartStatus:
    """
    One part as ``touchstone status`` shows it.

    :param name: The part.
    :param state: ``healthy``, ``unhealthy`` (runs, but does not do its work), ``starting``,
        ``failing`` (ends again and again), ``failed`` (given up) or ``stopped``.
    :param detail: What is wrong, in one line; empty if nothing is.
    :param pid: Its process, or ``None``.
    :param uptime_seconds: How long it has been running.
    :param restarts: How often it ended unasked since the stack was started.
    :param last_crash: When and how it last did, or ``None``.
    :param url: What people open, or ``None``.
    """

    name: str
    state: str
    detail: str = ""
    pid: int | None = None
    uptime_seconds: int = 0
    restarts: int = 0
    last_crash: str | None = None
    url: str | None = None

    @property
    def is_healthy(self) -> bool:
        """Return whether the part does its work."""
        return self.state == "healthy"


@dataclass(frozen=True, kw_only=True)
class Answers:
    """
    What the parts' health addresses answered.

    :param problems: By part with an address of its own: what is wrong, empty if nothing.
    :param airflow: Airflow's health report; empty if it gave none.
    :param asked_at: When they were asked, UTC.
    :param heartbeats: By server: when the dispatcher took in its agent's last heartbeat.
    """

    problems: Mapping[str, str]
    airflow: Mapping[str, object]
    asked_at: datetime
    heartbeats: Mapping[str, datetime] = field(default_factory=dict)


def ask(
    parts: Sequence[Part],
    client: httpx.Client,
    read_heartbeats: Callable[[], Mapping[str, datetime]],
) -> Answers:
    """
    Ask every part that has a health address, and the records for the agents' heartbeats.

    :param parts: The parts that run.
    :param client: An HTTP client; timeouts are set here.
    :param read_heartbeats: Reads when each server was last heard of.
    """
    problems: dict[str, str] = {}
    airflow: Mapping[str, object] = {}
    for part in parts:
        if part.health_url is None:
            continue
        try:
            answer = client.get(part.health_url, timeout=_TIMEOUT_SECONDS)
            problems[part.name] = "" if answer.is_success else f"answers {answer.status_code}"
            if part.name == "airflow-api" and answer.is_success:
                airflow = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            problems[part.name] = f"no answer from {part.health_url} ({type(error).__name__})"
    heartbeats: Mapping[str, datetime] = {}
    if any(part.server for part in parts) and problems.get("ministack") == "":
        heartbeats = read_heartbeats()
    return Answers(
        problems=problems, airflow=airflow, asked_at=datetime.now(UTC), heartbeats=heartbeats
    )


def judge(
    part: Part, process: ProcessInfo | None, answers: Answers, crashes: CrashSummary | None
) -> PartStatus:
    """
    Combine what the supervisor and the part itself say. Pure.

    :param process: What the supervisor knows, or ``None`` if there is no supervisor.
    :param crashes: The part's unasked ends, or ``None``.
    """
    state, detail = _judge_state(part, process, answers)
    return PartStatus(
        name=part.name,
        state=state,
        detail=detail,
        pid=process.pid or None if process else None,
        uptime_seconds=process.uptime_seconds if process else 0,
        restarts=crashes.count if crashes else 0,
        last_crash=f"{crashes.last.at:%Y-%m-%d %H:%M:%S}Z {crashes.last.status}"
        if crashes
        else None,
        url=part.url,
    )


def _judge_state(part: Part, process: ProcessInfo | None, answers: Answers) -> tuple[str, str]:
    if process is None or process.state in ("STOPPED", "STOPPING"):
        return "stopped", ""
    if process.state == "FATAL":
        return "failed", process.error or "given up after too many failures"
    if process.state in ("BACKOFF", "EXITED"):
        return "failing", process.error
    if process.state != "RUNNING":
        return "starting", ""
    problem = _find_problem(part, process, answers)
    return ("unhealthy", problem) if problem else ("healthy", "")


def _find_problem(part: Part, process: ProcessInfo, answers: Answers) -> str:
    if part.name in answers.problems:
        return answers.problems[part.name]
    if part.server is not None:
        return _find_agent_problem(part.server, process, answers)
    component = _AIRFLOW_COMPONENTS.get(part.name)
    if component is not None:
        return _find_component_problem(component, process, answers)
    return ""


def _find_agent_problem(server: str, process: ProcessInfo, answers: Answers) -> str:
    seen = answers.heartbeats.get(server)
    if seen is None or seen < datetime.fromtimestamp(process.started_at, tz=UTC):
        return "the dispatcher has had no heartbeat since it was started"
    age = answers.asked_at - seen
    if age > _HEARTBEAT_LIMIT:
        return f"the dispatcher has had no heartbeat for {age.total_seconds():.0f} s"
    return ""


def _find_component_problem(component: str, process: ProcessInfo, answers: Answers) -> str:
    report = answers.airflow.get(component)
    if not isinstance(report, Mapping) or not report:
        return "Airflow reports nothing about it"
    if report.get("status") != "healthy":
        return f"Airflow reports it {report.get('status') or 'not yet started'}"
    beat = datetime.fromisoformat(report[f"latest_{component}_heartbeat"])
    started = datetime.fromtimestamp(process.started_at, tz=UTC)
    # Right after a restart the report still tells of the process before.
    if beat < started - timedelta(seconds=1):
        return "no heartbeat since it was started"
    return ""
