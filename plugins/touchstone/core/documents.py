"""TOML documents that people write: read with limits, and refused in words that name the field."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import AfterValidator, StringConstraints, ValidationError

from touchstone_agent.protocol.errors import ConfigurationError

MAX_CHARACTERS = 256 * 1024
"""Longer than any document a person keeps by hand."""

MAX_LINE = 1200
"""A key stands on one line, and reading one of a thousand parts takes a thousand times longer
than it should: a hostile document of a megabyte kept the parser busy for more than ten minutes."""

_INPUT_CHARACTERS = 60
_NAME_CHARACTERS = 80
_TWICE = re.compile(r"Cannot declare \((?P<names>.*)\) twice \((?P<place>.*)\)")
_OVERWRITE = re.compile(r"Cannot overwrite a value \((?P<place>.*)\)")
_FITS_A_PATH = re.compile(r"[\w-]+")

_MESSAGES = {
    "missing": "is missing",
    "int_type": "{input} is not a whole number",
    "int_from_float": "{input} is not a whole number",
    "float_type": "{input} is not a number",
    "finite_number": "{input} is not a finite number",
    "bool_type": "{input} is neither true nor false",
    "string_type": "{input} is not a text in quotes",
    "dict_type": "{input} is not a table",
    "model_type": "{input} is not a table",
    "tuple_type": "{input} is not a list",
    "list_type": "{input} is not a list",
    "greater_than": "{input} is not above {gt:g}",
    "greater_than_equal": "{input} is below {ge:g}",
    "less_than": "{input} is not below {lt:g}",
    "less_than_equal": "{input} is above {le:g}",
    "string_too_long": "is longer than {max_length} characters",
    "string_too_short": "is empty",
    "too_long": "has more than {max_length} entries",
    "too_short": "is empty",
    "enum": "{input} is none of {expected}",
    "literal_error": "{input} is none of {expected}",
    "string_pattern_mismatch": "{input} is not of the form {pattern}",
}
"""What Pydantic finds, in the words of somebody who edits a file."""


def _check_line(value: str) -> str:
    # A control character would move the cursor of a terminal, and PostgreSQL keeps no NUL.
    if not value.isprintable():
        raise ValueError(f"{value!r} has characters that cannot be printed")
    return value


def _check_pattern(value: str) -> str:
    if not value.strip() or value != value.strip():
        raise ValueError(f"{value!r} is not a pattern: it is blank, or has blanks around it")
    return value


Line = Annotated[str, StringConstraints(strict=True, max_length=200), AfterValidator(_check_line)]
"""One printable line."""

Pattern = Annotated[
    str,
    StringConstraints(strict=True, max_length=100),
    AfterValidator(_check_line),
    AfterValidator(_check_pattern),
]
"""A pattern for names, as a shell's: ``*`` and ``?``."""


def read_toml(text: str, *, what: str, version: int) -> dict[str, object]:
    """
    Read a TOML document and check its ``schema_version``.

    :param text: The document.
    :param what: What it is, for messages: ``fleet file``.
    :param version: The version that is understood.
    :raises ConfigurationError: If it is not TOML, too large, or of another version.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigurationError(
            f"{what}: {len(text)} characters; at most {MAX_CHARACTERS} are read"
        )
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > MAX_LINE:
            raise ConfigurationError(
                f"{what}: line {number} has {len(line)} characters; break it up, at most "
                f"{MAX_LINE} are read"
            )
    try:
        text.encode()
        # TOML has no byte order mark, and some editors write one all the same.
        document = tomllib.loads(text.removeprefix("\ufeff"))
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{what}: not UTF-8 text") from error
    except RecursionError as error:
        raise ConfigurationError(f"{what}: lists or tables are nested too deeply") from error
    except ValueError as error:
        raise ConfigurationError(_explain_syntax(what, str(error))) from error
    found = document.get("schema_version")
    if found is None:
        raise ConfigurationError(
            f"schema_version: is missing; write `schema_version = {version}` as the first line"
        )
    if type(found) is not int or found != version:
        raise ConfigurationError(
            f"schema_version: {shorten(found)} is not understood; "
            f"this Touchstone reads version {version}"
        )
    return document


def explain(
    error: ValidationError, *, known: Iterable[str], location: Sequence[str | int] | None = None
) -> str:
    """
    Say the first error of a document: the field, what is wrong and the way out.

    :param error: What Pydantic found.
    :param known: All names that the document may use, to suggest one for a misspelt key.
    :param location: Where, if the caller has a better name for it than Pydantic.
    """
    item = error.errors()[0]
    place = [part for part in (location or item["loc"]) if part != "[key]"]
    field = name_field(place)
    if item["type"] == "extra_forbidden":
        return f"{field}: unknown key{suggest(str(place[-1]), known)}"
    template = _MESSAGES.get(item["type"])
    if template is None:
        message = item["msg"].removeprefix("Value error, ")
    else:
        message = template.format(input=shorten(item["input"]), **item.get("ctx", {}))
    return f"{field}: {message}" if field else message


def name_field(place: Iterable[str | int]) -> str:
    """Return the dotted name of a field; what would be misread in it is quoted."""
    parts = (str(part) for part in place)
    return ".".join(
        part
        if _FITS_A_PATH.fullmatch(part) and len(part) <= _NAME_CHARACTERS
        else ascii(part)[:_NAME_CHARACTERS]
        for part in parts
    )


def suggest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the names that are most like a misspelt one, or all if they are few."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name[:100], names, n=2, cutoff=0.6)
    # Somebody who forgets the section means the key that ends so.
    close += [key for key in names if key.rpartition(".")[2] == name and key not in close]
    if close:
        return f"; did you mean {' or '.join(close)}?"
    return f"; known are {', '.join(names)}" if names else ""


def shorten(value: object) -> str:
    """Return a value as it can be quoted in a message, however long or odd it is."""
    if type(value) is int and value.bit_length() > 200:
        # Python refuses to print numbers of thousands of digits.
        return "a number of many digits"
    try:
        text = ascii(value)
    except (RecursionError, ValueError):
        return f"a {type(value).__name__}"
    return text if len(text) <= _INPUT_CHARACTERS else f"{text[:_INPUT_CHARACTERS]}..."


def _explain_syntax(what: str, message: str) -> str:
    if match := _TWICE.search(message):
        names = [part.strip().strip("'\"") for part in match["names"].split(",") if part.strip()]
        return (
            f"{name_field(names)}: declared twice ({match['place']}); "
            "keep one, with everything that belongs to it"
        )
    if match := _OVERWRITE.search(message):
        return f"{what}: the same key twice ({match['place']}); keep one of the two"
    return f"{what}: not TOML: {message}"
