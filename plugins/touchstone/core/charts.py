"""Which files of a training are shown, whose each is, and what the judge is asked to draw. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints

from touchstone.core.judging import JudgeAnswer
from touchstone.core.records.judged import JudgingRules
from touchstone.core.records.kept import StoredPart
from touchstone.core.records.tasks import PublishedChart

CHARTS: Final = "charts"
RETURNS: Final = "returns.csv"
REPORTED: Final = "reported"
"""Folder of what the trainer has drawn and written itself, where the judge's own stands."""
FIGURES: Final = f"{CHARTS}/figures.json"

JUDGE: Final = "judge"
TRAINER: Final = "trainer"

NOT_DRAWN: Final = "the training is not judged"
HELD_BACK: Final = "held back until the event is closed"
NOT_NOW: Final = "the judge could not run; what it found before still holds"

MAX_CHART: Final = 256 * 1024
_MAX_CHARTS: Final = 10
_OPEN: Final = ("models", "effective_config.json")
"""What holds no figure of any row."""

_Name = Annotated[str, StringConstraints(pattern=r"^[a-z_]{1,40}$")]


class DrawnCharts(BaseModel):
    """
    What the judge has drawn.

    :param figures: What each chart shows, by its name.
    :param charts: SVG, by the same names.
    :param notes: Why a chart, or a part of one, is not there.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    figures: dict[_Name, JsonValue] = Field(max_length=_MAX_CHARTS)
    charts: dict[_Name, Annotated[str, Field(max_length=MAX_CHART)]] = Field(max_length=_MAX_CHARTS)
    notes: dict[_Name, Annotated[str, Field(max_length=200)]] = Field(max_length=_MAX_CHARTS)


@dataclass(frozen=True, kw_only=True)
class JudgesFiles:
    """
    The judge's own files of a training.

    :param files: By path.
    :param note: Why there are no charts; ``None`` if there are.
    :param kept: All charts, of a judging before that still holds.
    :param drawn: What the charts show, as it is stored; ``None`` if there are none.
    :param kept_drawn: The same of that judging before.
    """

    files: Mapping[str, bytes] = field(default_factory=dict)
    note: str | None = None
    kept: tuple[PublishedChart, ...] = ()
    drawn: Mapping[str, JsonValue] | None = None
    kept_drawn: StoredPart | None = None


@dataclass(frozen=True, kw_only=True)
class BaselineReturns:
    """
    What a baseline has earned on the rows of a training.

    :param name: The baseline's.
    :param net: Net return a row.
    """

    name: str
    net: tuple[float, ...]


def place_file(path: str) -> str:
    """
    Return where a file of a trainer's stands among what is shown.

    Where the judge puts its own, the trainer's is a claim; no two files come to one place.
    """
    first = path.partition("/")[0]
    return f"{REPORTED}/{path}" if first in {CHARTS, RETURNS, REPORTED} else path


def is_open_file(path: str) -> bool:
    """Tell whether a file of a trainer's may be shown while nothing of its rows may."""
    return path.partition("/")[0] in _OPEN


def build_question(
    answer: JudgeAnswer, rules: JudgingRules, interval: int, baseline: BaselineReturns | None
) -> dict[str, JsonValue]:
    """
    Return what the judge is asked to draw of a training: its own figures, and no others.

    :param answer: What it found of the training.
    :param baseline: ``None`` if there is none on these rows.
    """
    return {
        "kind": "training",
        "interval": interval,
        "time": list(answer.time),
        "net": list(answer.net),
        "long": list(answer.long),
        "short": list(answer.short),
        "target": list(answer.target),
        "threshold": rules.cost_bps / 10_000,
        "baseline": baseline.name if baseline else None,
        "baseline_net": list(baseline.net) if baseline else None,
    }


def write_returns(answer: JudgeAnswer) -> bytes:
    """Return ``returns.csv`` of the judge's own rows: what the position earned, and after cost."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("time", "position", "gross", "net"))
    for time, position, market, net in zip(
        answer.time, answer.position, answer.market, answer.net, strict=True
    ):
        writer.writerow((time, repr(position), repr(position * market), repr(net)))
    return text.getvalue().encode()
