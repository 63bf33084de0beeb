"""A console as a terminal shows it at the end: colours, and no progress bar twice. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from rich.ansi import AnsiDecoder
from rich.color import ColorSystem
from rich.style import Style
from rich.text import Text

from touchstone.client.tables import clean

MAX_LINE: Final = 2_000
"""Characters of a line that are shown: a longer one is in the download."""
MAX_LINES: Final = 20_000
"""Lines of a piece that are shown, as many as a browser scrolls; a piece may be all newlines."""
MAX_HITS: Final = 20
"""Lines that contain what is searched for and are linked to."""
_MAX_RAW: Final = 4 * MAX_LINE
"""Characters of a line that are looked at, colours included."""

_ESCAPE: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # colours, and moves of the cursor
    r"|\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles and links
    r"|[@-Z\\-_])"
)
_COLOUR: Final = re.compile(r"\x1b\[[\d;]*m")
_ERROR: Final = re.compile(
    r"^(?:Traceback \(most recent call last\)|[\w.]*(?:Error|Exception)\b|.*\b(?:ERROR|FATAL)\b)"
)
_PLAIN: Final = Style.null()


class Run(NamedTuple):
    """
    A part of a line that looks alike.

    :param text: What is left on the screen.
    :param look: Classes of the style sheet: ``a1`` to ``a7`` for terminals' colours, ``strong``.
    """

    text: str
    look: str


class Line(NamedTuple):
    """
    A line of a console.

    :param number: Its place in the piece, from 1 on.
    :param runs: Its parts.
    :param is_error: Whether it tells of an error, as far as its words show.
    :param is_cut: Whether more of it follows.
    :param is_hit: Whether it contains what is searched for.
    """

    number: int
    runs: tuple[Run, ...]
    is_error: bool
    is_cut: bool
    is_hit: bool

    @property
    def text(self) -> str:
        """Return what is shown of it."""
        return "".join(run.text for run in self.runs)


class Piece(NamedTuple):
    """
    A piece of a console.

    :param lines: Its lines that are shown.
    :param left_out: Lines that are not, since there are too many: behind the others, or before
        them where the piece is the console's end.
    :param hits: The numbers of the first lines that contain what is searched for.
    :param hit_count: How many contain it.
    :param first_error: The number of the first line that tells of an error; ``None`` for none.
    """

    lines: tuple[Line, ...]
    left_out: int
    hits: tuple[int, ...]
    hit_count: int
    first_error: int | None


def fold_piece(text: str, *, find: str = "", is_tail: bool = False) -> Piece:
    """
    Return the lines of a console.

    A carriage return begins a line anew, so a progress bar leaves its last state. What else would
    move a cursor is left out or replaced.

    :param text: A piece of a console, which submitted code has written.
    :param find: What lines are searched for, in any case; empty for nothing.
    :param is_tail: Whether the last lines are the ones to show if there are too many.
    """
    raw = text.replace("\r\n", "\n").split("\n")
    if not raw[-1]:
        raw.pop()
    left_out = max(0, len(raw) - MAX_LINES)
    first = left_out if is_tail else 0
    shown = tuple(_fold_lines(raw[first : first + MAX_LINES], find.casefold(), first + 1))
    hits = [line.number for line in shown if line.is_hit]
    return Piece(
        lines=shown,
        left_out=left_out,
        hits=tuple(hits[:MAX_HITS]),
        hit_count=len(hits),
        first_error=next((line.number for line in shown if line.is_error), None),
    )


def _fold_lines(raw: Sequence[str], find: str, first: int) -> Iterator[Line]:
    decoder = AnsiDecoder()
    for number, line in enumerate(raw, start=first):
        # The end of a bar is often a return with nothing behind it.
        states = [state for state in line.split("\r") if _ESCAPE.sub("", state)]
        whole = states[-1] if states else ""
        looked_at = whole[:_MAX_RAW]
        if "\x1b" in looked_at or decoder.style:
            decoded = decoder.decode_line(_ESCAPE.sub(_keep_colour, looked_at))
            shown, runs = decoded.plain, _split(decoded)
        else:
            shown, runs = looked_at, (Run(clean(looked_at[:MAX_LINE]), ""),)
        told = clean(shown)
        yield Line(
            number=number,
            runs=runs,
            is_error=bool(_ERROR.match(told)),
            is_cut=len(shown) > MAX_LINE or len(whole) > _MAX_RAW,
            is_hit=bool(find) and find in told.casefold(),
        )


def _keep_colour(escape: re.Match[str]) -> str:
    return escape[0] if _COLOUR.fullmatch(escape[0]) else ""


def _split(line: Text) -> tuple[Run, ...]:
    runs, at = [], 0
    plain = clean(line.plain)[:MAX_LINE]
    for span in line.spans:
        # The decoder's spans follow one another and never overlap.
        if span.start > at:
            runs.append(Run(plain[at : span.start], ""))
        style = span.style if isinstance(span.style, Style) else _PLAIN
        runs.append(Run(plain[span.start : span.end], _find_look(style)))
        at = span.end
    runs.append(Run(plain[at:], ""))
    return tuple(run for run in runs if run.text)


def _find_look(style: Style) -> str:
    looks = ["strong"] if style.bold else []
    if style.color is not None and not style.color.is_default:
        number = style.color.downgrade(ColorSystem.STANDARD).number
        # Bright colours are the others in a style sheet that knows light and dark.
        if number is not None and number % 8:
            looks.append(f"a{number % 8}")
    return " ".join(looks)
