"""A schedule as a form: each field of :class:`~touchstone.core.schedule.Schedule` once. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Final

from pydantic import JsonValue

from touchstone.core.forms import build_params, list_types
from touchstone.core.schedule import FORMS, Schedule, Section, Training
from touchstone.pages.posted import Posted

PREFIX: Final = "schedule."
"""What the names of a schedule's fields begin with in a form, beside which others stand."""
_ROWS: Final = 3


@dataclass(frozen=True, kw_only=True)
class Input:
    """
    A field as a page shows it.

    :param name: Its name in the form.
    :param title: Its label.
    :param help: What it means; words in backticks are code.
    :param kind: ``text``, ``number``, ``check``, ``choice``, ``day`` or ``lines``.
    :param value: What it holds, as text; ``on`` for a check that is set.
    :param choices: The values of a choice, each with its label.
    :param attributes: Bounds, as attributes of the input.
    :param error: What is wrong with it, or ``None``.
    """

    name: str
    title: str
    help: str
    kind: str
    value: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Fieldset:
    """
    Fields that stand together.

    :param title: What is common to them.
    :param inputs: The fields.
    :param is_open: Whether they are shown at once: what most people need, has a value of its own,
        or is wrong.
    """

    title: str
    inputs: tuple[Input, ...]
    is_open: bool


def build_fieldsets(
    values: Mapping[str, str], errors: Mapping[str, str], *, is_needed: bool
) -> list[Fieldset]:
    """
    Return a schedule's fields with what they hold.

    :param values: What they hold, as text, by field; the default where one is not in it.
    :param errors: What is wrong, by field.
    :param is_needed: Whether there must be a schedule.
    """
    params, plain = build_params(), write_values({})
    found = []
    for section in Section:
        names = [name for name, form in FORMS.items() if form.section is section]
        inputs = tuple(
            _build_input(
                name,
                params[name],
                values.get(name, plain[name]),
                errors.get(name),
                is_needed=is_needed,
            )
            for name in names
        )
        is_open = section is Section.SCHEDULE or any(
            each.error or values.get(name, plain[name]) != plain[name]
            for name, each in zip(names, inputs, strict=True)
        )
        # The sections are numbered for Airflow's form, which has others in front.
        title = section.value.partition(". ")[2]
        found.append(Fieldset(title=title, inputs=inputs, is_open=is_open))
    return found


def _build_input(
    name: str, param: Mapping[str, JsonValue], value: str, error: str | None, *, is_needed: bool
) -> Input:
    kind = _find_kind(param)
    text = str(param.get("description_md") or param.get("description") or "")
    attributes = {
        attribute: str(param[keyword])
        for keyword, attribute in (
            ("minimum", "min"),
            ("maximum", "max"),
            ("maxLength", "maxlength"),
            ("pattern", "pattern"),
        )
        if keyword in param and not (kind == "lines" or (kind == "day" and keyword == "maxLength"))
    }
    if kind == "number":
        attributes["step"] = "1" if "integer" in list_types(param) else "any"
    if name == "intervals":
        if is_needed:
            attributes["required"] = "required"
            text = text.partition(" Empty:")[0]
    elif kind == "lines":
        attributes["rows"] = str(_ROWS)
    if FORMS[name].example and kind in {"text", "number"}:
        attributes["placeholder"] = f"for example {FORMS[name].example}".replace('"', "")
    labels = param.get("values_display")
    return Input(
        name=PREFIX + name,
        title=str(param["title"]),
        help=text,
        kind=kind,
        value=value,
        choices=tuple((str(key), str(label)) for key, label in labels.items())
        if isinstance(labels, dict)
        else (),
        attributes=attributes,
        error=error,
    )


def _find_kind(param: Mapping[str, JsonValue]) -> str:
    if "values_display" in param:
        return "choice"
    if param.get("format") == "date":
        return "day"
    kind = next(each for each in list_types(param) if each != "null")
    return {
        "array": "lines",
        "boolean": "check",
        "integer": "number",
        "number": "number",
    }.get(kind, "text")


def read_schedule(posted: Posted) -> dict[str, JsonValue]:
    """
    Return a schedule as a run's conf has it: flat, each value of the type that its field has.

    What is empty, or as it is by default, is left out. What cannot be of its type stays a text, for
    the check of the conf to refuse it by its name.

    :param posted: A form with the fields of :func:`build_fieldsets`.
    """
    params, plain = build_params(), write_values({})
    found: dict[str, JsonValue] = {}
    for name in FORMS:
        text = "\n".join(posted.get(PREFIX + name).splitlines())
        if not text or text == plain[name]:
            continue
        found[name] = _read(_find_kind(params[name]), list_types(params[name]), text)
    return found


def _read(kind: str, types: Sequence[str], text: str) -> JsonValue:
    if kind == "lines":
        return [line.strip() for line in text.splitlines() if line.strip()]
    if kind == "check":
        return text == "on"
    if kind != "number":
        return text
    try:
        number = int(text) if "integer" in types else float(text)
    except ValueError:
        return text
    # JSON has no such number.
    return number if math.isfinite(number) else text


def list_values(posted: Posted) -> dict[str, str]:
    """Return what a form holds of a schedule, by field, to show it again."""
    return {
        name: "\n".join(posted.get(PREFIX + name).splitlines())
        for name in FORMS
        if PREFIX + name in posted.values or isinstance(Schedule.model_fields[name].default, bool)
    }


def write_values(schedule: Mapping[str, object]) -> dict[str, str]:
    """
    Return a schedule's fields as a form holds them.

    :param schedule: Fields of a schedule; the default where one is not in it.
    """
    found: dict[str, str] = {}
    for name in FORMS:
        value = schedule.get(name)
        if name not in schedule and name != "intervals":
            value = Training.model_fields[name].get_default(call_default_factory=True)
        found[name] = _write(value, "," if name == "intervals" else "\n")
    return found


def write_schedule(schedule: Schedule) -> dict[str, str]:
    """Return the fields of a schedule that was given, as a form holds them."""
    return write_values({name: getattr(schedule, name) for name in FORMS})


def _write(value: object, between: str) -> str:
    if value is None or value is False:
        return ""
    if value is True:
        return "on"
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, (list, tuple)):
        return between.join(str(each) for each in value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return f"{value:.12g}" if isinstance(value, float) else str(value)
