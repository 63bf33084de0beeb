"""
Untrusted JSON: read within bounds, or refused.

Standard library only: what a pod calls every few seconds imports this too.
"""

from __future__ import annotations

import json
import math
from itertools import accumulate
from typing import Any

MAX_DEPTH = 32
"""As deep as a record can be."""

MAX_INTEGER = 2**63 - 1
_BRACKETS = b"[]{}"
_ALL_ELSE = bytes(set(range(256)) - set(_BRACKETS))


class DocumentRefused(ValueError):
    """A text is no JSON, or larger, deeper or wilder than its reader takes; says which."""


def parse_json(text: bytes | str, *, max_bytes: int, max_depth: int = MAX_DEPTH) -> Any:
    """
    Read JSON that somebody else wrote.

    Size and depth are looked at before anything is read, so that no text takes more memory or
    stack than a good one.

    :param text: The document, UTF-8.
    :param max_bytes: Most bytes of it.
    :param max_depth: Most lists and objects inside of each other.
    :return: What it says; every number is finite, every integer fits in 64 bits, every string in
        UTF-8.
    :raises DocumentRefused: If it is no JSON, or beyond a bound.
    """
    try:
        data = text.encode() if isinstance(text, str) else text
        if len(data) > max_bytes:
            raise DocumentRefused(f"has more than {max_bytes} bytes")
        if measure_depth(data) > max_depth:
            raise DocumentRefused(f"is nested more than {max_depth} deep")
        found = json.loads(
            data.decode(),
            parse_constant=_refuse_constant,
            parse_int=_parse_integer,
            parse_float=_parse_float,
        )
        if b"\\u" in data:
            # Half a surrogate pair is a string for Python, and for nobody else.
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise DocumentRefused("is not UTF-8 throughout") from error
    except json.JSONDecodeError as error:
        raise DocumentRefused(f"is not JSON: {error}") from error
    except RecursionError as error:
        raise DocumentRefused("is nested too deep") from error
    return found


def measure_depth(data: bytes) -> int:
    """Return how deep lists and objects of a JSON text are inside of each other."""
    # Without escapes every second piece between quotes is a string's inside.
    outside = data.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    brackets = b"".join(outside).translate(None, _ALL_ELSE)
    return max(accumulate(1 if sign in b"[{" else -1 for sign in brackets), default=0)


def _refuse_constant(name: str) -> Any:
    raise DocumentRefused(f"holds {name}, which is not JSON")


def _parse_integer(text: str) -> int:
    # Before it is converted: the time that takes grows with the square of its length.
    if len(text) > 20 or abs(number := int(text)) > MAX_INTEGER:
        raise DocumentRefused(f"holds an integer of {len(text)} characters, beyond 64 bits")
    return number


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise DocumentRefused(f"holds {text[:40]}, which is beyond all range")
    return number
