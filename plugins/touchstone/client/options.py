"""The command line's options of a schedule, made from its fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, get_type_hints

import typer

from touchstone.core.forms import build_params, list_types
from touchstone.core.schedule import FORMS, NEEDS

_TYPES: dict[str, type] = {"number": float, "integer": int, "array": list[str]}


def takes_schedule(command: Callable[..., None]) -> Callable[..., None]:
    """
    Give a command an option for each field of a schedule that has one.

    :param command: Has a parameter ``given``, a dictionary: it gets what was said, by field.
    :return: The command as Typer takes it, with these options in that parameter's place.
    """
    hints = get_type_hints(command, include_extras=True)
    own = inspect.signature(command).parameters
    options = _build_options()
    parameters: list[inspect.Parameter] = []
    for name, parameter in own.items():
        if name == "given":
            parameters += options
        else:
            parameters.append(parameter.replace(annotation=hints[name]))

    def run(**said: object) -> None:
        given = {option.name: said.pop(option.name) for option in options}
        command(given=given, **said)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    # By these two Typer knows a command's parameters.
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def _build_options() -> list[inspect.Parameter]:
    options = []
    params = build_params()
    for name, form in FORMS.items():
        if not form.option:
            continue
        kind = next(each for each in list_types(params[name]) if each != "null")
        enum = params[name].get("enum")
        values = [str(each) for each in enum] if isinstance(enum, list) else None
        text = _write_help(form.help, values=values, is_many=kind == "array")
        option = typer.Option(form.option, help=text)
        hint: object = Annotated[_TYPES.get(kind, str), option]
        options.append(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
        )
    return options


def _write_help(text: str, *, values: Sequence[str] | None, is_many: bool) -> str:
    what, _, default = text.replace("`", "").partition(" Empty: ")
    if values:
        what = f"{what.rstrip('.')}: {', '.join(values)}."
    if is_many:
        what += " May be repeated."
    return f"{what} [default: {default.rstrip('.')}]" if default else what


Needs = Annotated[
    list[str] | None,
    typer.Option("--needs", help=f"What it needs of a server, KEY=VALUE: {', '.join(NEEDS)}."),
]

Waived = Annotated[
    list[str] | None,
    typer.Option(
        "--waive-column",
        help="Column of a feature set that may know later rows; shown with every verdict. May be "
        "repeated.",
    ),
]
