"""The figures of a training's charts, as the judge has drawn them, read to be drawn again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Final, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    model_validator,
)

MAX_POINTS: Final = 400
"""Of a curve, as the judge draws it."""
MAX_BINS: Final = 20
ODD: Final = "what is stored of it makes no sense"


class _Figure(BaseModel):
    # A judge that is newer may say more.
    model_config = ConfigDict(frozen=True, extra="ignore")


def _place(when: datetime) -> datetime:
    return when if when.tzinfo else when.replace(tzinfo=UTC)


MAX_VALUE: Final = 1e12
"""More than any figure is, and little enough to reckon with."""

Finite = Annotated[float, Field(ge=-MAX_VALUE, le=MAX_VALUE)]
Times = Annotated[
    tuple[Annotated[datetime, AfterValidator(_place)], ...], Field(max_length=MAX_POINTS)
]
Values = Annotated[tuple[Finite | None, ...], Field(max_length=MAX_POINTS)]
Note = Annotated[str, Field(max_length=400)]


class Curve(_Figure):
    """
    Values by time; all lists are of one length.

    :param time: When, in order.
    :param value: The training's own; ``None`` where it is undefined.
    :param low: Lower end of the band; ``None`` for none.
    :param high: Upper end.
    :param baseline: The baseline's values; ``None`` if it is not known.
    :param noise: What 19 of 20 of no skill stay within, on either side of 0; ``None`` for no such.
    :param note: What is missing, and why; empty for nothing.
    """

    time: Times
    value: Values
    low: Values | None = None
    high: Values | None = None
    baseline: Values | None = None
    noise: Finite | None = None
    note: Note = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        lists = [
            each for each in (self.value, self.low, self.high, self.baseline) if each is not None
        ]
        if any(len(each) != len(self.time) for each in lists) or list(self.time) != sorted(
            self.time
        ):
            raise ValueError("a curve's lists are not of one length, or not in order")
        return self


class Bin(_Figure):
    """
    Rows of which about the same was said.

    :param said: How likely it was taken to be, their mean.
    :param share: How many of them moved so, as a share.
    :param low: Lower end of the 95 % interval of that.
    :param high: Upper end.
    :param rows: How many there are.
    """

    said: Finite
    share: Finite
    low: Finite
    high: Finite
    rows: Annotated[int, Field(ge=0)]


class Calibration(_Figure):
    """
    How often what was said to be likely came about.

    :param long: Of rises.
    :param short: Of falls.
    :param note: What is missing, and why; empty for nothing.
    """

    long: Annotated[tuple[Bin, ...], Field(max_length=MAX_BINS)] = ()
    short: Annotated[tuple[Bin, ...], Field(max_length=MAX_BINS)] = ()
    note: Note = ""


class ChartFigures(_Figure):
    """
    What the charts of a training show.

    :param equity: What one unit became.
    :param drawdown: How far that was below its highest.
    :param calibration: How often what was said came about.
    :param rank_correlation: Correlation of score and outcome over the rows before.
    :param baseline: Name of the baseline whose equity is beside; ``None`` for none.
    :param notes: Why a chart is not there, by its name.
    """

    equity: Curve | None = None
    drawdown: Curve | None = None
    calibration: Calibration | None = None
    rank_correlation: Curve | None = None
    baseline: str | None = None
    notes: Mapping[str, str] = Field(default_factory=dict)


Figure = TypeVar("Figure", Curve, Calibration)


def build_document(
    figures: Mapping[str, JsonValue], notes: Mapping[str, str], baseline: str | None
) -> dict[str, JsonValue]:
    """
    Return what is stored of a training's charts; :func:`read_figures` reads it.

    :param figures: What each chart shows, by its name, as the judge says.
    :param notes: Why one is not there.
    :param baseline: Name of the baseline whose equity is beside.
    """
    return {"figures": dict(figures), "notes": dict(notes), "baseline": baseline}


def read_figures(document: Mapping[str, JsonValue]) -> ChartFigures:
    """Return what the charts of a training show; one that makes no sense is told, and not shown."""
    stored = document.get("figures")
    known: Mapping[str, JsonValue] = stored if isinstance(stored, dict) else {}
    told = document.get("notes")
    notes = {name: str(text) for name, text in told.items()} if isinstance(told, dict) else {}
    baseline = document.get("baseline")

    def read(name: str, kind: type[Figure]) -> Figure | None:
        if name not in known:
            return None
        try:
            return kind.model_validate(known[name])
        except ValidationError:
            notes[name] = ODD
            return None

    return ChartFigures(
        equity=read("equity", Curve),
        drawdown=read("drawdown", Curve),
        calibration=read("calibration", Calibration),
        rank_correlation=read("rank_correlation", Curve),
        baseline=baseline if isinstance(baseline, str) else None,
        notes=notes,
    )
