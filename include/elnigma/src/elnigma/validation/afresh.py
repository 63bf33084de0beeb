"""The outcome of a module in another process, where all that it must not depend on is otherwise."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, NoReturn

from elnigma.errors import SubmissionError
from elnigma.isolation import Child, Reply, reply_and_end
from elnigma.loading import FEATURE_SET
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
    request = {"system": system, "surroundings": asdict(surroundings), "arguments": arguments}
    command = [sys.executable, "-P", "-m", __name__, json.dumps(request)]
    return Child.start(command, surroundings.build_environment()).result()


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
            what, when, advice = DEPENDS_ON[name]
            raise SubmissionError(f"depends on {what}: {when}, {alone}; {advice}")
    raise SubmissionError(f"{_NO_REASON}: {found}; {_NO_ADVICE}")


def _find_difference(compute: Compute, compare: Compare, surroundings: Surroundings) -> str | None:
    try:
        reply = compute(surroundings)
    except SubmissionError as error:
        return str(error)
    return compare(reply)


def main() -> NoReturn:
    """Compute what the first argument asks for; reply through the descriptor of the second."""
    request = json.loads(sys.argv[1])
    surroundings = Surroundings(**request["surroundings"])

    def work() -> Reply:
        surroundings.enter()
        if request["system"] == FEATURE_SET.name:
            from elnigma.validation.feature_set import compute_before

            return compute_before(**request["arguments"])
        from elnigma.validation.model_structure import compute_model

        return compute_model(**request["arguments"])

    reply_and_end(work, int(sys.argv[2]))


if __name__ == "__main__":
    main()
