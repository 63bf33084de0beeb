"""
Charts as figures of a drawing: places of curves, bands and ticks, for a template to write as SVG.

Drawn on the server, so that a page shows them without scripts, in its own colours, and under a
policy that runs nothing from elsewhere. Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

WIDTH: Final = 440
HEIGHT: Final = 240
"""Of a drawing, in its own units: about the pixels of half a page, or of a phone."""
LEFT: Final = 48
RIGHT: Final = 10
TOP: Final = 10
BOTTOM: Final = 24
_MOST_TICKS: Final = 6
_MONTHS: Final = (1, 2, 3, 6, 12, 24, 60, 120)
_STEPS: Final = (1.0, 2.0, 2.5, 5.0, 10.0)
_LEAST_SPAN: Final = 1e-9

Value = float | None


@dataclass(frozen=True, kw_only=True)
class Line:
    """
    A curve.

    :param name: What the legend calls it.
    :param x: Its places, in order; times as seconds since 1970.
    :param y: Its values; ``None`` where it has none.
    :param style: Number of its colour, or a word of the style sheet.
    :param spread: Lower and upper end at each place, drawn as a whisker; empty for none.
    """

    name: str
    x: Sequence[float]
    y: Sequence[Value]
    style: str
    spread: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True, kw_only=True)
class Band:
    """
    An area between two curves.

    :param name: What the legend calls it.
    :param x: Its places, in order.
    :param low: Lower end at each.
    :param high: Upper end at each.
    """

    name: str
    x: Sequence[float]
    low: Sequence[Value]
    high: Sequence[Value]


@dataclass(frozen=True, kw_only=True)
class Tick:
    """
    A mark of an axis.

    :param at: Its place, in units of the drawing.
    :param label: What it says.
    """

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class DrawnLine:
    """
    A curve as a template writes it.

    :param path: SVG path.
    :param whiskers: SVG path of its intervals; empty for none.
    """

    name: str
    style: str
    path: str
    whiskers: str = ""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """
    A chart as a template writes it.

    :param title: Its heading.
    :param unit: What its values are.
    :param summary: What it shows, in a sentence, for who does not see it.
    :param lines: Its curves.
    :param bands: Name and SVG path of each area.
    :param rules: SVG path of the lines that values are read against.
    :param across: Marks of the axis below.
    :param up: Marks of the axis at the left.
    :param points: JSON of the places and values, for the script that reads them out.
    :param note: What is missing, and why; empty for nothing.
    """

    title: str
    unit: str
    summary: str
    lines: Sequence[DrawnLine] = ()
    bands: Sequence[tuple[str, str]] = ()
    rules: str = ""
    across: Sequence[Tick] = ()
    up: Sequence[Tick] = ()
    points: str = "[]"
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """The scales of a drawing."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def place_x(self, x: float) -> float:
        share = (x - self.x_low) / max(self.x_high - self.x_low, _LEAST_SPAN)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def place_y(self, y: float) -> float:
        share = (y - self.y_low) / max(self.y_high - self.y_low, _LEAST_SPAN)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def draw(
    *,
    title: str,
    unit: str,
    lines: Sequence[Line],
    bands: Sequence[Band] = (),
    rules: Sequence[float] = (),
    is_time: bool = True,
    diagonal: bool = False,
    note: str = "",
) -> Plot:
    """
    Return a chart, its axes wide enough for all that it shows.

    :param title: Its heading.
    :param unit: What its values are.
    :param lines: Its curves; those without a value are left out.
    :param bands: Areas behind them.
    :param rules: Values that curves are read against.
    :param is_time: Whether places are times.
    :param diagonal: Whether a value equal to its place is what curves are read against.
    :param note: What is missing, and why.
    """
    shown = [line for line in lines if any(y is not None for y in line.y)]
    if not shown:
        return Plot(title=title, unit=unit, summary=f"{title}: nothing to show", note=note)
    frame = _find_frame(shown, bands, rules, diagonal=diagonal)
    drawn = [
        DrawnLine(
            name=line.name,
            style=line.style,
            path=_draw_path(frame, line.x, line.y),
            whiskers=_draw_whiskers(frame, line),
        )
        for line in shown
    ]
    ruled = "".join(f"M{LEFT} {frame.place_y(y)}H{WIDTH - RIGHT}" for y in rules)
    if diagonal:
        low, high = max(frame.x_low, frame.y_low), min(frame.x_high, frame.y_high)
        ends = [f"{frame.place_x(each)} {frame.place_y(each)}" for each in (low, high)]
        ruled += f"M{ends[0]}L{ends[1]}"
    return Plot(
        title=title,
        unit=unit,
        summary=_summarise(title, unit, shown),
        lines=drawn,
        bands=[(band.name, _draw_band(frame, band)) for band in bands if band.x],
        rules=ruled,
        across=_mark_times(frame) if is_time else _mark_across(frame),
        up=_mark_up(frame),
        points=json.dumps(
            [
                {
                    "name": line.name,
                    "x": [frame.place_x(x) for x in line.x],
                    "at": [_name_place(x, is_time=is_time) for x in line.x],
                    "y": [None if y is None else format_value(y) for y in line.y],
                }
                for line in shown
            ]
        ),
        note=note,
    )


def _find_frame(
    lines: Sequence[Line],
    bands: Sequence[Band],
    rules: Sequence[float],
    *,
    diagonal: bool,
) -> _Frame:
    places = [x for line in lines for x in line.x] + [x for band in bands for x in band.x]
    values = [y for line in lines for y in line.y if y is not None]
    values += [end for line in lines for ends in line.spread for end in ends]
    values += [y for band in bands for each in (band.low, band.high) for y in each if y is not None]
    values += rules
    if diagonal:
        # Both axes are of one kind, and show the same.
        places, values = places + values, places + values
    low, high = min(values), max(values)
    margin = max((high - low) * 0.04, abs(high) * 1e-3, _LEAST_SPAN)
    return _Frame(
        x_low=min(places),
        x_high=max(places),
        y_low=low - margin,
        y_high=high + margin,
    )


def _draw_path(frame: _Frame, x: Sequence[float], y: Sequence[Value]) -> str:
    parts, is_down = [], False
    for place, value in zip(x, y, strict=True):
        if value is None:
            is_down = False
            continue
        parts.append(f"{'L' if is_down else 'M'}{frame.place_x(place)} {frame.place_y(value)}")
        is_down = True
    return "".join(parts)


def _draw_whiskers(frame: _Frame, line: Line) -> str:
    return "".join(
        f"M{frame.place_x(x)} {frame.place_y(low)}V{frame.place_y(high)}"
        for x, (low, high) in zip(line.x, line.spread, strict=False)
    )


def _draw_band(frame: _Frame, band: Band) -> str:
    known = [
        (x, low, high)
        for x, low, high in zip(band.x, band.low, band.high, strict=True)
        if low is not None and high is not None
    ]
    if not known:
        return ""
    above = "L".join(f"{frame.place_x(x)} {frame.place_y(high)}" for x, _, high in known)
    below = "L".join(f"{frame.place_x(x)} {frame.place_y(low)}" for x, low, _ in reversed(known))
    return f"M{above}L{below}Z"


# --- axes -----------------------------------------------------------------------------------------


def choose_step(span: float, most: int = _MOST_TICKS) -> float:
    """Return a round distance of marks, so that no more than so many are in a span."""
    least = span / most
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in _STEPS if step * power >= least * (1 - 1e-12))


def list_ticks(low: float, high: float) -> list[float]:
    """Return round values between two others, in order."""
    if not high - low > _LEAST_SPAN:
        return [low]
    step = choose_step(high - low)
    first = math.ceil(low / step - 1e-9)
    count = math.floor(high / step + 1e-9) - first + 1
    return [(first + number) * step for number in range(count)]


def _mark_up(frame: _Frame) -> list[Tick]:
    ticks = list_ticks(frame.y_low, frame.y_high)
    return [Tick(at=frame.place_y(y), label=_label(y, ticks)) for y in ticks]


def _mark_across(frame: _Frame) -> list[Tick]:
    ticks = list_ticks(frame.x_low, frame.x_high)
    return [Tick(at=frame.place_x(x), label=_label(x, ticks)) for x in ticks]


def _label(value: float, ticks: Sequence[float]) -> str:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else abs(value) or 1.0
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    # A step of 0.25 needs one digit more than its power of ten.
    if not math.isclose(round(step, digits), step, rel_tol=1e-6):
        digits += 1
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _mark_times(frame: _Frame) -> list[Tick]:
    first, last = (datetime.fromtimestamp(x, UTC) for x in (frame.x_low, frame.x_high))
    months = (last.year - first.year) * 12 + last.month - first.month
    if months < 1:
        ends = {frame.x_low: first, frame.x_high: last}
        return [Tick(at=frame.place_x(x), label=f"{when:%d %b}") for x, when in ends.items()]
    step = next((each for each in _MONTHS if months / each <= _MOST_TICKS), _MONTHS[-1])
    ticks = []
    begun = first.year * 12 + first.month - 1
    for month in range(-(-begun // step) * step, begun + months + 1, step):
        when = datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)
        if first <= when <= last:
            label = f"{when:%Y}" if step >= _MONTHS[4] else f"{when:%b %Y}"
            ticks.append(Tick(at=frame.place_x(when.timestamp()), label=label))
    return ticks


# --- words ----------------------------------------------------------------------------------------


def format_value(value: float) -> str:
    """Return a value as it is read out: four digits that count."""
    return f"{value:.4g}"


def _name_place(x: float, *, is_time: bool) -> str:
    if not is_time:
        return format_value(x)
    when = datetime.fromtimestamp(x, UTC)
    is_day = (when.hour, when.minute) == (0, 0)
    return f"{when:%Y-%m-%d}" if is_day else f"{when:%Y-%m-%d %H:%M}"


def _summarise(title: str, unit: str, lines: Sequence[Line]) -> str:
    ends = []
    for line in lines:
        known = [y for y in line.y if y is not None]
        ends.append(
            f"{line.name} from {format_value(known[0])} to {format_value(known[-1])}, "
            f"lowest {format_value(min(known))}, highest {format_value(max(known))}"
        )
    return f"{title} ({unit}): {'; '.join(ends)}"
