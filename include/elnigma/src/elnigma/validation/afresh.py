"""The outcome of a module in another process, where all that it must not depend on is otherwise."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any, NoReturn

from elnigma.errors import StorageError, SubmissionError
from elnigma.isolation import Child, Reply, answer_and_end, reply_and_end
from elnigma.loading import FEATURE_SET
from elnigma.sandbox import confine, list_hidden
from elnigma.shelter import leave_parent
from elnigma.surroundings import DEPENDS_ON, Surroundings, change_one_by_one

Compute = Callable[[Surroundings], Reply]
"""Computes the outcome in other surroundings; raises what the module's failure is there."""
Compare = Callable[[Reply], str | None]
"""Says how an outcome differs from the first one; ``None`` if it does not."""

_NO_REASON = "non-deterministic"
_NO_ADVICE = "seed every random number, and keep nothing from one call to the next"


def compute_afresh(system: str, surroundings: Surroundings, **arguments: Any) -> Reply:
    """
    Compute an outcome in a new process.

    :param system: ``feature_set`` or ``model_structure``.
    :param surroundings: What is otherwise in that process.
    :param arguments: Of the system's own function; plain JSON.
    :raises SubmissionError: If the module fails there.
    """
    command = build_command(system, surroundings, **arguments)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = surroundings.build_environment() | {"TMPDIR": folder}
        return Child.start(command, environment).result()


@contextmanager
def begin_afresh(system: str, surroundings: Surroundings, **arguments: Any) -> Iterator[Child]:
    """
    Compute an outcome in a new process while this one does something else.

    The process has a temporary folder of its own, for a module may be at work in another one as
    well, and what it prints is dropped: the two would tear each other's lines apart.

    :param system: ``feature_set`` or ``model_structure``.
    :param surroundings: What is otherwise in that process.
    :param arguments: Of the system's own function; plain JSON.
    :return: The process, which is ended with the context.
    """
    command = build_command(system, surroundings, **arguments)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = surroundings.build_environment() | {"TMPDIR": folder}
        with Child.start(command, environment, quiet=True) as child:
            yield child


def check_surroundings(compute: Compute, compare: Compare, all_changed: Surroundings) -> None:
    """
    Compute an outcome where everything is otherwise, and find out what makes a difference.

    :param compute: Computes it.
    :param compare: Compares it with the first one.
    :param all_changed: What is otherwise.
    :raises SubmissionError: If the outcome is another one, with what it depends on.
    """
    found = _find_difference(compute, compare, all_changed)
    if found is None:
        return
    for name, surroundings in change_one_by_one(all_changed):
        alone = _find_difference(compute, compare, surroundings)
        if alone is not None:
            same = _find_difference(compute, compare, Surroundings())
            if same is not None:
                # It is another one each time, whatever is changed.
                raise SubmissionError(f"{_NO_REASON}: {same}; {_NO_ADVICE}")
            what, when, advice = DEPENDS_ON[name]
            raise SubmissionError(f"depends on {what}: {when}, {alone}; {advice}")
    raise SubmissionError(f"{_NO_REASON}: {found}; {_NO_ADVICE}")


def build_command(system: str, surroundings: Surroundings, **arguments: Any) -> list[str]:
    """
    Return the command of such a process, without the descriptors that it speaks through.

    :param system: ``feature_set`` or ``model_structure``.
    :param surroundings: What is otherwise in it.
    :param arguments: Of the system's own function; plain JSON.
    """
    request = {
        "system": system,
        "surroundings": asdict(surroundings),
        "arguments": arguments,
        "hidden": [tempfile.gettempdir(), *list_hidden()],
    }
    return [sys.executable, "-P", "-m", __name__, json.dumps(request)]


def _find_difference(compute: Compute, compare: Compare, surroundings: Surroundings) -> str | None:
    try:
        reply = compute(surroundings)
    except SubmissionError as error:
        return str(error)
    return compare(reply)


def main() -> NoReturn:
    """
    Compute what the first argument asks for, and reply through the descriptor of the last.

    Of a feature set, answer what is asked through the one before.
    """
    request = json.loads(sys.argv[1])
    *readers, writer = map(int, sys.argv[2:])
    surroundings = Surroundings(**request["surroundings"])
    leave_parent(os.getppid())
    is_feature_set = request["system"] == FEATURE_SET.name
    try:
        # Before libraries are loaded, which begin threads.
        confine(
            folders=[os.environ["TMPDIR"]],
            readable=[request["arguments"]["reference"]],
            hidden=[*request["hidden"], request["arguments"]["data_folder"]],
            may_fork=not is_feature_set,
        )
    except StorageError as error:
        reply_and_end(partial(_fail, error), writer)
    if is_feature_set:
        from elnigma.validation.feature_child import Answering

        answer_and_end(Answering(**request["arguments"]), readers[0], writer)

    def work() -> Reply:
        surroundings.enter()
        from elnigma.validation.model_structure import compute_model

        return compute_model(**request["arguments"])

    reply_and_end(work, writer)


def _fail(error: StorageError) -> NoReturn:
    raise error


if __name__ == "__main__":
    main()
