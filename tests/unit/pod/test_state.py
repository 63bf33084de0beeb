"""What a pod tells of its attempt, and of a trainer that means it no good."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys

import pytest
from tests.unit.pod.conftest import NOW, REF

from touchstone_agent.pod import state as states
from touchstone_agent.pod.home import PodHome, write_json
from touchstone_agent.pod.state import build_state, encode, find_progress
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.facts import ProgressLine
from touchstone_agent.protocol.pods import POD_PROTOCOL_VERSION, PodPhase, PodState


def read(home: PodHome, **wishes: int) -> PodState:
    return PodState.model_validate_json(encode(build_state(home, **wishes)))


def test_the_words_are_those_of_the_protocol() -> None:
    words = (states.IDLE, states.PREPARING, states.RUNNING, states.EXITED)
    assert list(words) == [phase.value for phase in PodPhase]
    assert states.VERSION == POD_PROTOCOL_VERSION
    assert set(states._RECORDED) <= set(PodState.model_fields)


def test_before_the_first_process_is_ready_it_says_so(tmp_path) -> None:
    with pytest.raises(TransientError, match="still starting"):
        build_state(PodHome(tmp_path))


def test_a_pod_without_an_order_is_idle(home: PodHome) -> None:
    state = read(home)
    assert (state.boot_id, state.phase, state.ref) == ("b1", PodPhase.IDLE, None)
    assert state.disk_free_bytes > 0
    assert state.lease_seconds_left > 0


def test_an_order_whose_runner_has_not_begun_is_being_prepared(busy_home: PodHome) -> None:
    busy_home.record_file.unlink()
    state = read(busy_home)
    assert (state.phase, state.ref) == (PodPhase.PREPARING, REF)


def test_a_pod_that_ends_has_no_lease(busy_home: PodHome) -> None:
    write_json(busy_home.ending_file, {"reason": "over"})
    assert read(busy_home).lease_seconds_left == 0


def test_a_running_attempt_tells_its_progress_and_console(busy_home: PodHome) -> None:
    (busy_home.out / "console.log").write_text("one\ntwo\n")
    (busy_home.out / "progress.jsonl").write_text('{"percent": 1}\n{"percent": 2}\n')
    state = read(busy_home, console_offset=4, console_bytes=3)
    assert (state.phase, state.running_at) == (PodPhase.RUNNING, NOW)
    assert state.console_size == 8
    assert base64.b64decode(state.console) == b"two"
    assert state.progress == ProgressLine(percent=2)


def test_a_console_behind_its_end_is_empty(busy_home: PodHome) -> None:
    (busy_home.out / "console.log").write_text("one\n")
    assert read(busy_home, console_offset=400, console_bytes=3).console == ""


@pytest.mark.parametrize("name", ["console.log", "progress.jsonl"])
@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "none"])
def test_a_trainer_cannot_make_it_read_anything_else(
    busy_home: PodHome, name: str, kind: str, tmp_path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"secret": 1}\n')
    path = busy_home.out / name
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    state = read(busy_home, console_bytes=1000)
    assert (state.console, state.console_size, state.progress) == ("", 0, None)


@pytest.mark.parametrize(
    "line",
    [
        "no json",
        "[1]",
        '{"percent": NaN}',
        '{"percent": 1e999}',
        '{"a": ' + "[" * 40 + "]" * 40 + "}",
        '{"phase": "\\ud800"}',
        '{"percent": 1' + "0" * 50 + "}",
        "[" * 60_000,
        '{"half',
    ],
)
def test_the_last_line_that_is_one_counts(busy_home: PodHome, line: str) -> None:
    text = f'{{"percent": 1}}\n{line}'
    (busy_home.out / "progress.jsonl").write_text(f"{text}\n")
    assert find_progress(busy_home) == {"percent": 1}


def test_a_line_that_is_being_written_does_not_count(busy_home: PodHome) -> None:
    (busy_home.out / "progress.jsonl").write_text('{"percent": 1}\n{"percent": 2}')
    assert find_progress(busy_home) == {"percent": 1}


def test_progress_of_any_length_is_read_from_its_end(busy_home: PodHome) -> None:
    line = json.dumps({"percent": 1, "phase": "x" * 1000})
    (busy_home.out / "progress.jsonl").write_text(f"{line}\n" * 500 + '{"percent": 2}\n')
    assert find_progress(busy_home) == {"percent": 2}


def test_half_a_character_does_not_spoil_the_answer(busy_home: PodHome) -> None:
    """JSON may name one, which the reader on the other side refuses together with all the rest."""
    (busy_home.out / "progress.jsonl").write_text('{"phase": "\\ud800"}\n')
    assert read(busy_home).progress is None


def test_a_poll_imports_nothing_heavy() -> None:
    """It runs every few seconds beside a training."""
    heavy = ("pydantic", "urllib3", "logging", "subprocess", "ctypes", "dataclasses")
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        "import touchstone_agent.pod.__main__, touchstone_agent.pod.poll; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    # Without site, which may import whatever this environment has put there.
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
