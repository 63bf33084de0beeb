"""Two processes validate a model structure at once: what is refused in one ends both."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Run
from elnigma.isolation import Child, Reply
from elnigma.validation.model_structure import _let_work

MODULE = """
import os
import time


def build_model(n_features, params):
    while os.getcwd() == "/":
        time.sleep(60)
    raise ValueError("not here")
"""


def wait_for_ever() -> Reply:
    while True:
        signal.pause()


def test_what_the_first_process_refuses_ends_the_other_one(
    run_attempt: Callable[..., Run], tmp_path: Path
) -> None:
    folder = tmp_path / "module"
    folder.mkdir()
    (folder / "model.py").write_text(MODULE)

    run = run_attempt("validate", "--system", "model_structure", "--module", str(folder))

    assert run.verdict["reason"] == (
        "ValueError in model.py line 9: not here; see the traceback in the log"
    )
    assert "left behind" not in run.console


@pytest.mark.parametrize(("memory_bytes", "is_ended"), [(1, True), (2**60, False), (None, False)])
def test_the_other_one_is_put_off_where_memory_is_short(
    memory_bytes: int | None, is_ended: bool
) -> None:
    reader, writer = os.pipe()

    def wait_and_reply() -> Reply:
        return Reply(facts={"read": os.read(reader, 1).decode()})

    with Child.fork(wait_and_reply) as child, Child.fork(wait_for_ever) as beside:
        if not is_ended:
            os.write(writer, b"x")
        _let_work(child, beside, memory_bytes)

        assert beside.is_over == is_ended
        if is_ended:
            os.write(writer, b"x")
        assert child.result().facts == {"read": "x"}
    assert beside.is_over
    assert beside.resident_bytes() == 0
    os.close(reader)
    os.close(writer)
