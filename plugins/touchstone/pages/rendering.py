"""How values become HTML: templates that escape everything, and words for figures and times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import urlencode, urlsplit

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from touchstone.client import (
    audit_tables,
    beside,
    cost_tables,
    fleet_tables,
    folds,
    plan_tables,
    seeds,
    tables,
    waivers,
)
from touchstone.client.answers import ShownRow, ShownTask
from touchstone.core.answers.fleet import DispatcherState
from touchstone.ui.dependencies import Caller, find_airflow_path

LOGIN: Final = "/api/v2/auth/login"
"""Below Airflow's own path: leads to the login of whichever auth manager it has, and back again."""

TEMPLATES: Final = Path(__file__).with_name("templates")

_TITLES: Final = {
    400: "That cannot be asked for",
    401: "Log in first",
    403: "For admins only",
    404: "Not found",
    422: "That cannot be asked for",
    503: "Not available for a moment",
}
_WAYS_OUT: Final = {
    401: "There is no session, or it has ended. Log in to Airflow and come back.",
    403: "Ask an admin to do it, or to give you the right.",
    404: "It does not exist, or it is another user's. The list has all submissions of yours.",
}

_KINDS: Final = {
    "success": "good",
    "accepted": "good",
    "better": "good",
    "alive": "good",
    "judged": "good",
    "open": "good",
    "running": "busy",
    "preparing": "busy",
    "uploading": "busy",
    "validating": "busy",
    "error": "bad",
    "rejected": "bad",
    "lost": "bad",
    "worse": "bad",
    "silent": "bad",
    "never": "bad",
    "refuses": "bad",
    "takes": "bad",
    "low": "warn",
    "cancelled": "off",
    "retracted": "off",
    "drained": "off",
    "duplicate": "off",
}
_CODE: Final = re.compile(r"`([^`]+)`")
_FIRST_WORD: Final = re.compile(r"\w*")
_STEPS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))


@dataclass(frozen=True, kw_only=True)
class Frame:
    """
    What stands around every page.

    :param caller: Who looks.
    :param now: The time, UTC.
    :param dispatcher: Whether a dispatcher is at work; ``None`` where a page does not say.
    :param area: Which entry of the navigation the page belongs to.
    """

    caller: Caller
    now: datetime
    area: str
    dispatcher: DispatcherState | None = None


def render(
    request: Request, template: str, frame: Frame, values: Mapping[str, object]
) -> HTMLResponse:
    """
    Return a page.

    :param template: Its file's name.
    :param frame: What stands around it.
    :param values: What the template shows; it escapes all of it.
    """
    return HTMLResponse(
        _environment()
        .get_template(template)
        .render(root=_find_root(request), frame=frame, **values)
    )


def _describe_row(row: ShownRow) -> dict[str, str]:
    """Return what stands beside a verdict, waived columns and the seeds of both sides first."""
    return (
        waivers.describe_waivers(row.waived_columns)
        | seeds.describe_compared_seeds(row)
        | folds.describe_compared_folds(row)
        | beside.describe_beside(row.beside)
    )


def render_error(request: Request, status: int, detail: str) -> HTMLResponse:
    """
    Return a page in place of one that cannot be shown.

    :param status: HTTP status.
    :param detail: Why, in one line.
    """
    text = (
        _environment()
        .get_template("error.html")
        .render(
            root=_find_root(request),
            login=_build_login(request),
            frame=None,
            title=_TITLES.get(status, "This went wrong"),
            status=status,
            detail="" if status == 401 else detail,
            way_out=_WAYS_OUT.get(status),
        )
    )
    return HTMLResponse(text, status_code=status)


def _build_login(request: Request) -> str:
    """Return the address of Airflow's login, which comes back to what was asked for."""
    login = f"{find_airflow_path(request)}{LOGIN}"
    if request.method != "GET":
        return login
    query = f"?{request.url.query}" if request.url.query else ""
    # The path as it was asked for: the mounted application's own, below Airflow's.
    return f"{login}?{urlencode({'next': f'{request.url.path}{query}'})}"


def lead(request: Request, path: str) -> RedirectResponse:
    """Lead to another page; a form's answer is so shown once, however often it is reloaded."""
    return RedirectResponse(f"{_find_root(request)}{path}", status_code=303)


def _find_root(request: Request) -> str:
    """Return the path that all pages are below, without a slash at its end."""
    return str(request.scope.get("root_path", "")).rstrip("/")


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "kind": find_kind,
        "moment": parse_moment,
        "ago": tell_ago,
        "number": tables.format_number,
        "duration": tables.format_seconds,
        "line": tables.format_line,
        "message": mark_code,
        "took": tell_duration,
        "clean": tables.clean,
        "waiting": tables.format_waiting,
        "money": tables.format_money,
        "subject": audit_tables.describe_subject,
        "bill": cost_tables.describe_bill,
        "left": cost_tables.describe_left,
        "budget": cost_tables.describe_budget,
        "web": keep_web_address,
        "state": fleet_tables.describe_state,
        "account": fleet_tables.describe_account,
        "slots": fleet_tables.format_slots,
        "cells": beside.build_cells,
        "beside": _describe_row,
        "waivers": waivers.describe_waivers,
        "seeds": lambda each: seeds.format_seeds(each.seed, each.seed_count),
        "folds": folds.describe_folds,
        "training": folds.name_training,
        "charts_query": folds.find_query,
        "capability": fleet_tables.describe_capability,
        "place": plan_tables.format_place,
        "price": plan_tables.format_price,
        "prices": plan_tables.list_prices,
    }
    environment.globals["waived_mark"] = waivers.MARK
    return environment


def find_kind(status: object) -> str:
    """Return the class of a chip that shows a status or a verdict: its first word decides."""
    return _KINDS.get(_FIRST_WORD.findall(str(status))[0], "idle")


def parse_moment(value: object) -> datetime | None:
    """Return the time that a record has as text; ``None`` if it is none."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def tell_ago(moment: datetime, now: datetime) -> str:
    """Return how long ago something was, or how soon it will be: ``3 min ago``, ``in 2 h``."""
    seconds = (now - moment).total_seconds()
    size = abs(seconds)
    told = f"{size:.0f} s"
    for length, unit in _STEPS:
        if size >= length:
            told = f"{size // length:.0f} {unit}"
            break
    return f"in {told}" if seconds < 0 else f"{told} ago"


def tell_duration(task: ShownTask) -> str:
    """Return how long the newest attempt of an ended task ran; empty where it did not."""
    began, ended = parse_moment(task.running_at), parse_moment(task.ended_at)
    if began is None or ended is None:
        return ""
    return tables.format_seconds(max(0.0, (ended - began).total_seconds()))


def mark_code(text: object) -> Markup:
    """
    Return the first line of a message as HTML, with what it says to type set as code.

    :param text: What stands between two backticks is code. It is escaped like all the rest.
    """
    code = Markup("<code>{}</code>")
    pieces = _CODE.split(tables.format_line(text))
    # The pattern has one group, so every second piece is what it matched.
    return Markup("").join(
        code.format(piece) if number % 2 else piece for number, piece in enumerate(pieces)
    )


def keep_web_address(address: object) -> str | None:
    """Return an address if a browser may be led there: HTTP alone, never a script."""
    text = str(address or "")
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    return text if parts.scheme in {"http", "https"} and parts.netloc else None
