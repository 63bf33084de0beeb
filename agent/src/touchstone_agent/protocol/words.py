"""
What others may say at most: the types of strings, numbers and times in messages.

Whatever an agent, a pod or a trainer says is made of these. So it has a bound, fits in a record,
and leads nowhere as a path. A text for people is cut and cleaned instead of refused: a reason with
one word too many is still a reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, ValidationError

from touchstone_agent.protocol.errors import PermanentError

MAX_PATH_BYTES = 512
MAX_LINE = 500
MAX_NAME = 200
MAX_FILES = 500
MAX_PATHS_BYTES = 32 * 1024
"""All paths of an attempt together: they stand in one record, beside much else."""

MAX_FILE_BYTES = 5 * 1024**3
"""The store takes no more in one request."""

MAX_METRICS = 100
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_LATEST = datetime(2200, 1, 1, tzinfo=UTC)


class UnsafePath(PermanentError, ValueError):
    """A path could lead out of its folder, or means different things to different readers."""


def check_path(path: str) -> str:
    """
    Return a relative path if it means the same file to everybody.

    :param path: Parts with ``/`` between them, as a message or a verdict carries it.
    :raises UnsafePath: If it is absolute, has an empty part, ``.``, ``..``, a backslash or an
        unprintable character, or is too long.
    """
    shown = build_line(path, 80)
    if not path.isprintable() or "\\" in path:
        raise UnsafePath(f"path {shown!r} has a backslash or an unprintable character")
    if len(path.encode()) > MAX_PATH_BYTES:
        raise UnsafePath(f"path {shown!r} has more than {MAX_PATH_BYTES} bytes")
    if any(part in {"", ".", ".."} for part in path.split("/")):
        raise UnsafePath(f"path {shown!r} leads out of its folder, or has a part without a name")
    return path


def build_line(text: str, limit: int = MAX_LINE) -> str:
    """Return a text as one printable line of a bounded length."""
    # Cut twice: cleaning takes time, and may lengthen nothing.
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def is_storable(number: float) -> bool:
    """Tell whether a number fits in a record: finite, and within DynamoDB's range."""
    return bool(number == 0 or 1e-128 < abs(number) < 1e125)


def find_number(value: object) -> float | None:
    """Return a number that fits in a record; ``None`` for everything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and is_storable(number) else None


def find_figures(value: object) -> dict[str, float | None]:
    """
    Return the first hundred figures of an object by name; whatever else it holds is left out.

    A null stays one: the figure is undefined.
    """
    items = list(value.items())[:MAX_METRICS] if isinstance(value, Mapping) else ()
    found = {build_line(str(name), 100): (figure, find_number(figure)) for name, figure in items}
    return {
        name: number
        for name, (figure, number) in found.items()
        if number is not None or figure is None
    }


def describe_refusal(error: ValidationError) -> str:
    """Return what is wrong with a document in one line: the first field, and why."""
    # Without the input itself, which may be large, or a secret.
    item = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(map(str, item["loc"]))
    said = item["msg"].removeprefix("Value error, ")
    return build_line(f"{build_line(where, 100)}: {said}" if where else said, 300)


def _clean(limit: int) -> BeforeValidator:
    return BeforeValidator(lambda v: build_line(v, limit) if isinstance(v, str) else v)


def _check_moment(moment: datetime) -> datetime:
    try:
        utc = moment.astimezone(UTC)
    except OverflowError:
        utc = _LATEST
    if not _EARLIEST <= utc < _LATEST:
        raise ValueError("is no time of this age")
    return utc


def _check_figure(number: float) -> float:
    if not is_storable(number):
        raise ValueError("is not finite, or beyond all range")
    return number


def _bound_percent(value: object) -> float:
    return min(100.0, max(0.0, find_number(value) or 0.0))


SafePath = Annotated[str, AfterValidator(check_path)]
"""A relative path that leads nowhere else."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(max_length=MAX_NAME)]
"""An identifier of somebody else's: a message's, a server's, a digest."""

ImageName = Annotated[str, Field(max_length=700)]
"""A container image: by name, by content, or both."""

Identifier = Annotated[str, Field(min_length=1, max_length=100)]
"""The key of a record of ours; one that is none is unknown."""

Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$", max_length=40)]
Line = Annotated[str, _clean(MAX_LINE), Field(max_length=MAX_LINE)]
"""A text for people: made one line, and cut."""

Phrase = Annotated[str, _clean(200), Field(max_length=200)]
Moment = Annotated[AwareDatetime, AfterValidator(_check_moment)]
"""A time that names its zone, as UTC."""

Count = Annotated[int, Field(ge=0, le=2**60)]
Serial = Annotated[int, Field(ge=1, le=10**9)]
"""A number that counts up: an attempt's, a fence."""

ExitCode = Annotated[int, Field(ge=0, le=255)]
Figure = Annotated[float, AfterValidator(_check_figure)]

AnyPhrase = Annotated[str, BeforeValidator(lambda v: build_line(str(v), 200))]
"""What a trainer says it is doing, whatever it wrote there."""

Percent = Annotated[float, BeforeValidator(_bound_percent)]
AnyNumber = Annotated[float | None, BeforeValidator(find_number)]
"""A number that fits in a record, or nothing."""

Figures = Annotated[dict[str, float | None], BeforeValidator(find_figures)]
"""Figures by name, as far as they fit in a record; null where one is undefined."""
