"""What people see of a schedule's fields: the form's JSON schema, and a table for the docs."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import JsonValue

from touchstone.core.schedule import FORMS, Form, Schedule, Training

_KEYWORDS = (
    *("type", "enum", "items", "format", "minLength", "maxLength", "pattern", "maxItems"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
)


_Properties = Mapping[str, Mapping[str, JsonValue]]
"""The schema of each of several fields, or definitions, by name."""


def build_params() -> dict[str, dict[str, JsonValue]]:
    """
    Return each field of a schedule as Airflow's ``Param`` takes it: its default and JSON schema.

    A field that may be left out allows null, which is what the form sends for an emptied one.
    """
    schema = Schedule.model_json_schema()
    return {name: _build_param(schema, name, form) for name, form in FORMS.items()}


def find_kinds() -> dict[str, str]:
    """Return what each field is, but for the intervals: a JSON type, or ``day``."""
    schema = Schedule.model_json_schema()
    fields = {
        name: _flatten(schema["properties"][name], schema["$defs"])
        for name in Training.model_fields
    }
    return {
        name: "day" if each.get("format") == "date" else str(each["type"])
        for name, each in fields.items()
    }


def list_types(schema: Mapping[str, JsonValue]) -> list[str]:
    """Return the JSON types that a field's schema allows."""
    types = schema["type"]
    return [str(each) for each in types] if isinstance(types, list) else [str(types)]


def build_table() -> str:
    """Return the table of a schedule's fields, in Markdown."""
    rows = ["| field in conf and form | option | becomes |", "|---|---|---|"]
    rows += [
        f"| `{name}` | {_name_option(name, form)} | {form.effect} |" for name, form in FORMS.items()
    ]
    return "\n".join(rows) + "\n"


def _name_option(name: str, form: Form) -> str:
    if form.option is None:
        return form.example
    if not form.option:
        return f"`--needs {name}={form.example}`"
    is_many = Schedule.model_json_schema()["properties"][name].get("type") == "array"
    repeatable = ", repeatable" if is_many and name != "intervals" else ""
    return f"`{form.option} {form.example}`{repeatable}"


def _build_param(schema: Mapping[str, _Properties], name: str, form: Form) -> dict[str, JsonValue]:
    default = Schedule.model_fields[name].get_default(call_default_factory=True)
    is_needed = Schedule.model_fields[name].is_required()
    found = _flatten(schema["properties"][name], schema["$defs"])
    is_nullable = is_needed or default is None or default == ()
    if is_nullable and isinstance(found["type"], str):
        found["type"] = ["null", found["type"]]
    # Strict bounds of whole numbers: a form offers the last one that is allowed.
    bound = found.get("exclusiveMaximum")
    if found["type"] == "integer" and isinstance(bound, int):
        found["maximum"] = bound - 1
        del found["exclusiveMaximum"]
    found = dict(form.schema) if "type" in form.schema else found | dict(form.schema)
    if form.labels:
        found["values_display"] = {str(value): label for value, label in form.labels.items()}
    text = f"{form.help} One per line." if "array" in list_types(found) else form.help
    return {
        "default": None if is_nullable else getattr(default, "value", default),
        **found,
        "title": form.title,
        "section": form.section.value,
        "description_md" if "`" in text else "description": text,
    }


def _flatten(found: Mapping[str, JsonValue], definitions: _Properties) -> dict[str, JsonValue]:
    """Return a field's schema without references, and without its alternative null."""
    either = found.get("anyOf")
    choices = (
        [item for item in either if isinstance(item, dict)] if isinstance(either, list) else []
    )
    plain: Mapping[str, JsonValue] = next(
        (item for item in choices if item.get("type") != "null"), found
    )
    reference = plain.get("$ref")
    if isinstance(reference, str):
        plain = definitions[reference.rpartition("/")[2]]
    return {key: plain[key] for key in _KEYWORDS if key in plain}


if __name__ == "__main__":
    print(build_table(), end="")
