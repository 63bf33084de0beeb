"""Submitted modules: found by folder or by dotted name, and imported with errors explained."""

from __future__ import annotations

import codecs
import errno
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

from elnigma.errors import Aborted, ConfigError, ElnigmaError, StorageError, SubmissionError
from elnigma.guard import NOT_ALLOWED, GuardError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
_MAX_LOOK_DEPTH = 4
_MAX_LOOK_ENTRIES = 1000
_MAX_LOOK_BYTES = 1024**2
_ALIKE = 0.75
"""How much two names of files are alike where one is misspelt, as ``features.py.txt`` is."""
_BROKEN_POOLS = frozenset({"BrokenProcessPool", "TerminatedWorkerError"})
_FAULTS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE}
)
_ZONELESS = ("tz-naive", "offset-naive", "datetime64[us, UTC] and", "datetime64[ns, UTC] and")
_IMPORT = re.compile(r"\s*(?:from|import)\s+([\w.]+)")

Advise = Callable[[BaseException], str | None]

_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, kw_only=True)
class System:
    """
    A kind of module that can be submitted.

    :param name: As on the command line.
    :param file_name: The file looked for in a submitted folder.
    :param entry_point: The function it must define.
    :param signature: The same with its parameters, for messages.
    """

    name: str
    file_name: str
    entry_point: str
    signature: str


FEATURE_SET = System(
    name="feature_set",
    file_name="features.py",
    entry_point="build_features",
    signature="build_features(data)",
)
MODEL_STRUCTURE = System(
    name="model_structure",
    file_name="model.py",
    entry_point="build_model",
    signature="build_model(n_features, params)",
)
SYSTEMS = {system.name: system for system in (FEATURE_SET, MODEL_STRUCTURE)}


def load_entry_point(system: System, reference: str) -> Callable[..., Any]:
    """
    Import a module and return its entry point.

    :param system: What kind of module it is.
    :param reference: A folder holding the system's file, that file, or a dotted module name.
    :raises ConfigError: If ``reference`` is neither.
    :raises SubmissionError: If the module cannot be imported or lacks the entry point.
    """
    return get_entry_point(system, load_module(system, reference))


def load_module(system: System, reference: str) -> ModuleType:
    """
    Import a module.

    :param system: What kind of module it is.
    :param reference: A folder holding the system's file, that file, or a dotted module name.
    :raises ConfigError: If ``reference`` is neither.
    :raises SubmissionError: If the module cannot be imported.
    """
    path = Path(reference)
    if path.exists():
        # A relative import path would lead elsewhere once the working directory changes.
        return _import_file(system, path.resolve())
    if _DOTTED_NAME.fullmatch(reference):
        return _import_name(reference)
    raise ConfigError(f"{reference!r} is neither a folder nor a dotted module name")


def get_entry_point(system: System, module: ModuleType) -> Callable[..., Any]:
    """
    Return the entry point of a module that was imported.

    :param system: What kind of module it is.
    :param module: The module.
    :raises SubmissionError: If the module lacks it.
    """
    entry_point = getattr(module, system.entry_point, None)
    if not callable(entry_point):
        what = "no function" if entry_point is None else f"a {type(entry_point).__name__}"
        raise SubmissionError(
            f"missing entry point: {system.entry_point} is {what} in {system.file_name}; "
            f"define {system.signature} there"
        )
    return entry_point  # type: ignore[no-any-return]


def _import_file(system: System, path: Path) -> ModuleType:
    file = path / system.file_name if path.is_dir() else path
    if not file.is_file():
        raise SubmissionError(_explain_missing(system, path))
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
        raise SubmissionError(
            f"missing module: there is no module named {name!r}; give a folder, or a module of the "
            "trainer's"
        )
    with explained(None):
        return importlib.import_module(name)


@contextmanager
def explained(folder: Path | None, advise: Advise = lambda _: None) -> Iterator[None]:
    """
    Turn whatever submitted code raises into a :class:`SubmissionError` of one line.

    :param folder: Folder of the submission; the line named is the innermost one below it.
        ``None`` names the innermost line of all.
    :param advise: Says what can be done about an exception, where the caller knows more.
    :raises SubmissionError: With the exception's type, place and message.
    :raises StorageError: If this machine has a fault, and no line of the submission was at work.
    """
    try:
        yield
    except (Aborted, ElnigmaError, MemoryError):
        raise
    except (SystemExit, KeyboardInterrupt) as error:
        place = _find_place(error, folder)
        raise SubmissionError(
            f"the module ended the process itself{place}: {error!r:.80}; raise an exception instead"
        ) from error
    except BaseException as error:  # whatever a stranger's code raises
        if _is_of_machine(error, folder):
            raise StorageError(
                f"temporary: this machine has a fault: {describe_error(error)}; nothing is wrong "
                "with the submission, it is tried elsewhere"
            ) from error
        said = describe_error(error, _find_place(error, folder))
        advice = advise(error) or _advise(error, folder)
        raise SubmissionError(f"{said}; {advice}") from error


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


def _explain_missing(system: System, folder: Path) -> str:
    """Say where a file is, if it is somewhere near."""
    wanted = system.file_name
    missing = f"missing file: {wanted} is not in the submitted folder"
    names = [entry.name for entry in _list(folder)]
    for name in names:
        if name.lower() == wanted:
            return f"{missing}, {name} is; rename it to {wanted}"
    for other in SYSTEMS.values():
        if other.file_name in names:
            return f"{missing}, {other.file_name} is; submit it with --system {other.name}"
    if (folder / Path(wanted).stem / "__init__.py").is_file():
        package = f"{Path(wanted).stem}/__init__.py"
        return f"{missing}, {package} is; put its code into {wanted}"
    alike = get_close_matches(wanted, names, n=1, cutoff=_ALIKE)
    if alike and alike[0].endswith(".ipynb"):
        return f"{missing}, {alike[0]} is; save the notebook as a program, {wanted}"
    if alike:
        return f"{missing}, {alike[0]} is; rename it to {wanted}"
    for depth in range(1, _MAX_LOOK_DEPTH + 1):
        found = sorted(folder.glob("/".join(["*"] * depth + [wanted])))
        if found:
            below = found[0].parent.relative_to(folder).as_posix()
            return f"{missing}, it is in {below}/; submit that folder, or give --path {below}"
    return f"{missing}, which holds {', '.join(sorted(names)[:5]) or 'nothing'}; add {wanted}"


def _list(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(islice(entries, _MAX_LOOK_ENTRIES))


def _advise(error: BaseException, folder: Path | None) -> str:
    """Say what the author of a module can do about an exception."""
    said = _say(error)
    if isinstance(error, GuardError) or NOT_ALLOWED in said:
        return "compute from what the function is given"
    if type(error).__name__ in _BROKEN_POOLS:
        return "compute in one process, for example with n_jobs=1"
    for system in SYSTEMS.values():
        if isinstance(error, TypeError) and said.startswith(f"{system.entry_point}() "):
            return f"define {system.signature}"
    if isinstance(error, TypeError) and any(word in said for word in _ZONELESS):
        return "give each time of your own its zone, as pandas.Timestamp('2005-01-03', tz='UTC')"
    if folder is not None:
        if isinstance(error, SyntaxError):
            return _advise_on_syntax(error, folder)
        if isinstance(error, ImportError | AttributeError):
            return _advise_on_name(error, folder) or "see the traceback in the log"
        if isinstance(error, FileNotFoundError) and isinstance(error.filename, str):
            name = Path(error.filename).name
            here = "put it into the folder, and " if not (folder / name).is_file() else ""
            return f"{here}name it by pathlib.Path(__file__).parent / {name[:80]!r}"
    return "see the traceback in the log"


def _advise_on_name(error: ImportError | AttributeError, folder: Path) -> str | None:
    """Say what to do about a module that is not there, or is another one than was meant."""
    if isinstance(error, ImportError) and "relative import" in str(error):
        return "import the file beside it by its plain name: import helpers"
    module = error.name if isinstance(error, ImportError) else getattr(error.obj, "__name__", None)
    if not isinstance(module, str):
        return None
    file = Path(*module.split(".")).with_suffix(".py")
    if not isinstance(error, ModuleNotFoundError):
        is_another = isinstance(error, ImportError) or isinstance(error.obj, ModuleType)
        if is_another and len(file.parts) == 1 and (folder / file).is_file():
            return f"rename {file}: Python has a module of that name, which goes first"
        return None
    # As of a package that the folder is at home.
    for name in (file.name, _find_imported(error)):
        if name is not None and (folder / name).is_file():
            return f"import the file beside it by its plain name: import {Path(name).stem}"
    if (folder / "requirements.txt").is_file():
        return "use what the trainer has: requirements.txt is not installed, bring the code itself"
    return "use what the trainer has, or put the module's file into the folder"


def _find_imported(error: BaseException) -> str | None:
    """Return the file of the last name that a line with a failed import asks for."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        match = _IMPORT.match(frame.line or "")
        if match:
            return f"{match[1].rpartition('.')[2]}.py"
    return None


def _advise_on_syntax(error: SyntaxError, folder: Path) -> str:
    for file in _find_sources(error, folder):
        head = _read_head(file)
        if head.startswith(LFS_POINTER):
            return "the file is a pointer of Git LFS: run git lfs pull, and submit the folder"
        if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "the file is in UTF-16: save it in UTF-8"
        if b"\0" in head:
            at = head.index(b"\0")
            return f"the first is at {at}: save it as text in UTF-8"
    if "(unicode error)" in str(error.msg):
        return "save it in UTF-8, or name its encoding in the first line"
    if (error.text or "").lstrip().startswith(("%", "!")):
        return "leave out what only a notebook can run, as lines with % and !"
    return "mend the line"


def _find_sources(error: SyntaxError, folder: Path) -> list[Path]:
    if error.filename and Path(error.filename).is_file():
        return [Path(error.filename)]
    return sorted(folder.glob("**/*.py"))[:_MAX_LOOK_ENTRIES]


def _read_head(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(_MAX_LOOK_BYTES)
    except OSError:
        return b""


def _is_of_machine(error: BaseException, folder: Path | None) -> bool:
    """Tell whether a file of the trainer's own or of its libraries could not be had."""
    if not isinstance(error, OSError) or error.errno not in _FAULTS:
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return folder is None or not any(
        folder.resolve() in Path(frame.filename).resolve().parents for frame in frames
    )


def _find_place(error: BaseException, folder: Path | None) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f" in {Path(error.filename).name} line {error.lineno}"
    if isinstance(error, SyntaxError) and folder is not None:
        # Python does not say which file has null bytes.
        names = (file.name for file in _find_sources(error, folder) if b"\0" in _read_head(file))
        return f" in {next(names, 'a file')}"
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
    message = error.msg if isinstance(error, SyntaxError) else _say(error)
    # What drives a terminal says nothing; after a carriage return the line is written anew.
    plain = _TERMINAL.sub("", message).strip()
    first_line = plain.split("\n")[0].rpartition("\r")[2].strip()
    first_line = "".join(letter if letter.isprintable() else " " for letter in first_line)
    return f"{type(error).__name__}{where}" + (f": {first_line}" if first_line else "")


def _say(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a stranger's __str__
        return "its message cannot be read"
