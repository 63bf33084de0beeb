"""Submitted modules: found by folder or by dotted name, and imported with errors explained."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from elnigma.errors import ConfigError, ElnigmaError, SubmissionError

_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, kw_only=True)
class System:
    """
    A kind of module that can be submitted.

    :param name: As on the command line.
    :param file_name: The file looked for in a submitted folder.
    :param entry_point: The function it must define.
    """

    name: str
    file_name: str
    entry_point: str


FEATURE_SET = System(name="feature_set", file_name="features.py", entry_point="build_features")
MODEL_STRUCTURE = System(name="model_structure", file_name="model.py", entry_point="build_model")
SYSTEMS = {system.name: system for system in (FEATURE_SET, MODEL_STRUCTURE)}


def load_entry_point(system: System, reference: str) -> Callable[..., Any]:
    """
    Import a module and return its entry point.

    :param system: What kind of module it is.
    :param reference: A folder holding the system's file, that file, or a dotted module name.
    :raises ConfigError: If ``reference`` is neither.
    :raises SubmissionError: If the module cannot be imported or lacks the entry point.
    """
    path = Path(reference)
    if path.exists():
        module = _import_file(system, path)
    elif _DOTTED_NAME.fullmatch(reference):
        module = _import_name(reference)
    else:
        raise ConfigError(f"{reference!r} is neither a folder nor a dotted module name")
    entry_point = getattr(module, system.entry_point, None)
    if not callable(entry_point):
        raise SubmissionError(
            f"missing entry point: {system.file_name} must define {system.entry_point}()"
        )
    return entry_point  # type: ignore[no-any-return]


def _import_file(system: System, path: Path) -> ModuleType:
    file = path / system.file_name if path.is_dir() else path
    if not file.is_file():
        raise SubmissionError(f"missing file: {system.file_name} is not in the submitted folder")
    # Appended, so that a helper file of the submission never shadows a library.
    folder = str(file.parent.resolve())
    if folder not in sys.path:
        sys.path.append(folder)
    name = f"submitted_{system.name}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise SubmissionError(f"{file.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with explained(file.parent):
        spec.loader.exec_module(module)
    return module


def _import_name(name: str) -> ModuleType:
    try:
        found = importlib.util.find_spec(name) is not None
    except ImportError:
        found = False
    if not found:
        raise SubmissionError(f"missing module: there is no module named {name!r}")
    with explained(None):
        return importlib.import_module(name)


@contextmanager
def explained(folder: Path | None) -> Iterator[None]:
    """
    Turn whatever submitted code raises into a :class:`SubmissionError` of one line.

    :param folder: Folder of the submission; the line named is the innermost one below it.
        ``None`` names the innermost line of all.
    :raises SubmissionError: With the exception's type, place and message.
    """
    try:
        yield
    except (ElnigmaError, MemoryError):
        raise
    except SystemExit as error:
        place = _find_place(error, folder)
        raise SubmissionError(
            f"the module ended the process itself{place}: SystemExit({error.code})"
        ) from error
    except Exception as error:  # whatever a stranger's code raises
        raise SubmissionError(describe_error(error, _find_place(error, folder))) from error


@contextmanager
def hidden_modules(*names: str) -> Iterator[None]:
    """
    Let imports of optional libraries fail inside the block, as if they were not installed.

    :param names: Top-level names; those that are loaded already stay visible.
    """
    hidden = [name for name in names if name not in sys.modules]
    # Python's own convention: None refuses the import.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _find_place(error: BaseException, folder: Path | None) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f" in {Path(error.filename).name} line {error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if folder is None or folder.resolve() in file.resolve().parents:
            return f" in {file.name} line {frame.lineno}"
    return ""


def describe_error(error: BaseException, where: str = "") -> str:
    """
    Put an exception in one line.

    :param error: The exception.
    :param where: What to say between its type and its message.
    """
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    first_line = message.strip().splitlines()[0] if message.strip() else ""
    return f"{type(error).__name__}{where}" + (f": {first_line}" if first_line else "")
