"""The ``elnigma`` command: ``describe``, ``validate`` and ``train``, as CONTRACT.md has them."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from elnigma import __version__
from elnigma.errors import (
    Aborted,
    ConfigError,
    ElnigmaError,
    OutOfMemoryError,
    StorageError,
)
from elnigma.loading import SYSTEMS
from elnigma.outputs import write_json
from elnigma.sandbox import describe_lack, hide
from elnigma.shelter import end_descendants, hide_process
from elnigma.surroundings import HASH_SEED
from elnigma.task import INPUTS

MAX_TRACEBACK_CHARACTERS = 20_000
_SPARE_FILES = 2

_spare: list[int] = []
"""Open for nothing, so that why the trainer ends can be told where no more can be opened."""


class _Parser(argparse.ArgumentParser):
    """Reports wrong arguments the way every other failure is reported."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"arguments: {message}")


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = _Parser(prog="elnigma", description=__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    commands.add_parser("describe", help="print what this trainer takes and gives, as JSON")

    validate = commands.add_parser("validate", help="check a module on market data")
    validate.add_argument("--system", required=True, choices=sorted(SYSTEMS))
    validate.add_argument("--module", required=True, help="folder or dotted name")
    validate.add_argument("--out", required=True, type=Path)

    train = commands.add_parser("train", help="train the long and the short model of one interval")
    score = commands.add_parser("score", help="let the models of a training predict other rows")
    score.add_argument("--models", required=True, type=Path, help="folder with its models")
    for command in (train, score):
        command.add_argument(
            "--config", default="default.toml", help="path below the config folder"
        )
        command.add_argument("--feature-set", default=None, help="folder or dotted name")
        command.add_argument("--model-structure", default=None, help="folder or dotted name")
        command.add_argument("--prediction-interval", required=True, type=int, help="bars")
        command.add_argument("--fetched-data-end-to", default=None,
                             help="last day of data, YYYY-MM-DD")  # fmt: skip
        command.add_argument("--out", required=True, type=Path)
        command.add_argument(
            "--config_override", action="append", default=[], metavar="KEY=VALUE",
            help="set one configuration key for this run; may be repeated",
        )  # fmt: skip
    for command in (validate, train, score):
        command.add_argument(
            "--data", default=None, metavar="DIR",
            help="folder of a data set, or canned for the data that are built in",
        )  # fmt: skip
        command.add_argument(
            "--waive-column", action="append", default=[], metavar="NAME",
            help="a column of the feature set that may know later rows; may be repeated",
        )  # fmt: skip
        command.set_defaults(passthrough=[])
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command and explain any failure in ``error.json``.

    :param arguments: Command line without the program's name; ``None`` takes this process's.
    :return: The exit code of the contract.
    """
    argv = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _abort)
    # A submission folder may be read-only, and bytecode beside it helps nobody.
    sys.dont_write_bytecode = True
    while len(_spare) < _SPARE_FILES:
        _spare.append(os.open(os.devnull, os.O_RDONLY))
    try:
        parsed = _parse(argv)
        _run(parsed)
    except Aborted as error:
        return _fail(argv, error, "aborted")
    except ElnigmaError as error:
        return _fail(argv, error, str(error))
    except MemoryError as error:
        return _fail(argv, OutOfMemoryError(str(error)), "out of memory: an allocation failed")
    except OSError as error:
        # What submitted code raises is explained where it is called: this is of the trainer's own.
        name = Path(os.fsdecode(error.filename or "a file")).name
        message = f"temporary: this machine has a fault: {name}: {error.strerror or error}"
        return _fail(argv, StorageError(message), message)
    return 0


def run() -> NoReturn:
    """Run the command of this process and end it."""
    if os.environ.get("PYTHONHASHSEED") != HASH_SEED:
        # Read when the interpreter starts. With another one, sets have another order, and the same
        # training gives other numbers.
        os.environ["PYTHONHASHSEED"] = HASH_SEED
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 # no shell wanted
    hide_process()
    if sys.argv[1:2] in (["validate"], ["train"], ["score"]):
        _hide_places()
        _prepare()
    code = main()
    # Of those the runner would say that they were left behind.
    end_descendants()
    if code == Aborted.exit_code:
        # Interrupted in the middle of a step, the numeric backend crashes when it is torn down.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _hide_places() -> None:
    """Keep from submitted code what would tell it what it is computed for."""
    inputs = Path(os.environ.get("TOUCHSTONE_IN") or INPUTS)
    progress = os.environ.get("TOUCHSTONE_PROGRESS_FILE")
    hide(
        _find_out(sys.argv[1:]),
        Path(progress).parent if progress else None,
        *(inputs / name for name in ("data", "compiled.tar")),
    )
    lack = describe_lack()
    if lack is not None:
        print(f"this kernel lacks {lack}", flush=True)


def _prepare() -> None:
    """Begin what all processes of submitted features come of, before anything is known here."""
    from elnigma.task import read_task
    from elnigma.threads import limit_threads

    # What is wrong with the task is said when it begins.
    with contextlib.suppress(ConfigError):
        limit_threads(read_task().threads)
        from elnigma.validation.feature_child import prepare_pool

        prepare_pool()


def _parse(argv: list[str]) -> argparse.Namespace:
    passthrough: list[str] = []
    if "--" in argv:
        at = argv.index("--")
        argv, passthrough = argv[:at], argv[at + 1 :]
    parsed = build_parser().parse_args(argv)
    parsed.passthrough = passthrough
    return parsed


def _run(parsed: argparse.Namespace) -> None:
    # Imported late: each command loads only what it needs, and the libraries are slow to load.
    if parsed.command == "describe":
        from elnigma.describe import describe

        print(json.dumps(describe(), indent=1))
        return
    parsed.out.mkdir(parents=True, exist_ok=True)
    if parsed.command == "validate":
        from elnigma.validation.run import validate

        validate(parsed.system, parsed.module, parsed.out, parsed.data, parsed.waive_column)
        return
    from elnigma.train import TrainRequest, train

    request = TrainRequest(
        config=parsed.config,
        feature_set=parsed.feature_set,
        model_structure=parsed.model_structure,
        prediction_interval=parsed.prediction_interval,
        data=parsed.data,
        data_until=parsed.fetched_data_end_to,
        out=parsed.out,
        overrides=tuple(parsed.config_override),
        passthrough=tuple(parsed.passthrough),
        waived=tuple(parsed.waive_column),
    )
    if parsed.command == "train":
        train(request)
        return
    from elnigma.score import ScoreRequest, score

    score(ScoreRequest(training=request, models=parsed.models))


def _abort(*_: Any) -> NoReturn:
    # A second SIGTERM must not interrupt the writing of error.json.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Aborted


def _fail(argv: list[str], error: Any, message: str) -> int:
    print(f"elnigma: {error.error_class}: {message}", file=sys.stderr)
    # The child of a validation has printed its own traceback where it happened.
    inner = getattr(error, "inner_traceback", None)
    text = inner or "".join(traceback.format_exception(error))
    if inner is None and error.__cause__ is not None:
        print(text, file=sys.stderr)
    out = _find_out(argv)
    while _spare:
        os.close(_spare.pop())
    if out is not None:
        document = {
            "class": error.error_class,
            "message": " ".join(message.split())[:1000],
            "traceback": text[-MAX_TRACEBACK_CHARACTERS:],
        }
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_json(out / "error.json", document)
        except OSError as problem:
            print(f"elnigma: error.json cannot be written: {problem}", file=sys.stderr)
    return int(error.exit_code)


def _find_out(argv: list[str]) -> Path | None:
    """Find the output folder even in arguments that do not parse."""
    for position, argument in enumerate(argv):
        if argument == "--out" and position + 1 < len(argv):
            return Path(argv[position + 1])
        if argument.startswith("--out="):
            return Path(argument.removeprefix("--out="))
    folder = os.environ.get("TOUCHSTONE_OUT")
    return Path(folder) if folder else None
