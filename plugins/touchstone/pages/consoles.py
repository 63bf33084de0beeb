"""A console as a terminal shows it at the end: no escape sequences, no progress bar twice. Pure."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from touchstone.client.tables import clean

MAX_LINE: Final = 2_000
"""Characters of a line that are shown: a longer one is in the download."""

_ESCAPE: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # colours, and moves of the cursor
    r"|\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles and links
    r"|[@-Z\\-_])"
)
_ERROR: Final = re.compile(
    r"^(?:Traceback \(most recent call last\)|[\w.]*(?:Error|Exception)\b|.*\b(?:ERROR|FATAL)\b)"
)


class Line(NamedTuple):
    """
    A line of a console.

    :param text: What is left on the screen.
    :param is_error: Whether it tells of an error, as far as its words show.
    :param is_cut: Whether more of it follows.
    """

    text: str
    is_error: bool
    is_cut: bool


def fold_lines(text: str) -> list[Line]:
    """
    Return the lines of a console.

    A carriage return begins a line anew, so a progress bar leaves its last state. Colours are left
    out. What else would move a cursor is replaced.

    :param text: A piece of a console, which submitted code has written.
    """
    plain = _ESCAPE.sub("", text.replace("\r\n", "\n"))
    lines = plain.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return [_fold(line) for line in lines]


def _fold(line: str) -> Line:
    # The end of a bar is often a return with nothing behind it.
    states = [state for state in line.split("\r") if state]
    shown = clean(states[-1]) if states else ""
    return Line(shown[:MAX_LINE], bool(_ERROR.match(shown)), len(shown) > MAX_LINE)
