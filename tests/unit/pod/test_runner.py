"""An attempt in a pod from its inputs to its record, with a trainer in place of a process."""

from __future__ import annotations

import errno
import gzip
import json
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.unit.pod.conftest import NOW, REF, make_input, make_start

from touchstone_agent.adapters.archives import UnsafeArchive
from touchstone_agent.adapters.transfer import TransferCancelled
from touchstone_agent.pod import home as homes
from touchstone_agent.pod import runner as runners
from touchstone_agent.pod.home import PodHome, read_json, write_json
from touchstone_agent.pod.runner import PodRunner, run
from touchstone_agent.pod.state import build_state, encode
from touchstone_agent.protocol.errors import ConfigurationError, PermanentError
from touchstone_agent.protocol.messages import Limits, Preparation
from touchstone_agent.protocol.pods import PodPhase, PodState

Deed = Callable[[Path], None]
VERDICT = {"contract": 1, "exit_code": 0, "outcome": "succeeded", "files": []}


class FakeTrainer:
    """Does a deed in the output folder, and ends with a code."""

    def __init__(self, home: PodHome, deed: Deed, exit_code: int | None, is_late: bool) -> None:
        self._home = home
        self._deed = deed
        self._is_late = is_late
        self.exit_code = exit_code
        self.was_short_of_memory = False
        self.phase_at_start: PodPhase | None = None
        self.pid = None
        self.now = 0.0
        self.commands: list[list[str]] = []

    def __call__(
        self,
        command: list[str],
        environment: Mapping[str, str],
        *,
        folder: Path,
        output: Path,
        is_apart: bool,
    ) -> Any:
        self.command, self.environment, self.folder = command, environment, folder
        self.commands.append(command)
        return self

    def start(self) -> None:
        self.phase_at_start = read_state(self._home).phase
        self._deed(self._home.out)

    def wait(
        self, *, find_excess: Callable[[], str | None], is_stopping: Callable[[], bool]
    ) -> str | None:
        if not self._is_late:
            return find_excess()
        self.now += 1e9
        return find_excess()


class FakeTransfer:
    """Has every input."""

    def __init__(self, data: bytes = b"abc") -> None:
        self.data = data

    def fetch(self, grant: Any, target: Path, **_: Any) -> None:
        target.write_bytes(self.data)


def plan(argv: tuple[str, ...] = ("prepare",)) -> Preparation:
    return Preparation(argv=argv, inputs=("elnigma",))


def read_state(home: PodHome) -> PodState:
    return PodState.model_validate_json(encode(build_state(home, console_bytes=10_000)))


def succeed(out: Path, **changes: Any) -> None:
    (out / "console.log").write_text("done\n")
    (out / "verdict.json").write_text(json.dumps({**VERDICT, **changes}))


@pytest.fixture
def go(home: PodHome) -> Any:
    """Run an attempt to its end; return its state and the trainer."""

    def go(
        deed: Deed = succeed,
        *,
        exit_code: int | None = 0,
        is_late: bool = False,
        transfer: Any = None,
        stopping: threading.Event | None = None,
        **changes: Any,
    ) -> tuple[PodState, FakeTrainer]:
        start = make_start(**changes)
        write_json(home.order_file, {"boot_id": "b1", "start": start.model_dump(mode="json")})
        trainer = FakeTrainer(home, deed, exit_code, is_late)
        PodRunner(
            home,
            start,
            transfer=transfer or FakeTransfer(),
            stopping=stopping or threading.Event(),
            now=lambda: NOW,
            monotonic=lambda: trainer.now,
            make_trainer=trainer,
        ).run()
        return read_state(home), trainer

    return go


def test_an_attempt_ends_with_its_verdict_on_record(go, home: PodHome) -> None:
    files = [{"path": "console.log", "sha256": "0" * 64, "size": 5}]
    state, trainer = go(lambda out: succeed(out, files=files), inputs=(make_input("big"),))
    assert (state.phase, state.ref, state.exit_code) == (PodPhase.EXITED, REF, 0)
    assert (state.prepared_at, state.running_at, state.exited_at) == (NOW, NOW, NOW)
    assert state.verdict is not None
    assert [file.path for file in state.files] == ["console.log"]
    assert (state.problem, state.is_submissions_fault) == (None, False)
    assert trainer.phase_at_start is PodPhase.RUNNING
    assert trainer.folder == home.tmp


def test_inputs_are_there_when_the_trainer_begins(go, home: PodHome) -> None:
    seen: list[bytes] = []

    def look(out: Path) -> None:
        seen.append((home.attempt / "in/folder/big").read_bytes())
        succeed(out)

    go(look, inputs=(make_input("folder/big"),))
    assert seen == [b"abc"]
    assert not (home.attempt / "in").exists()
    assert not home.tmp.exists()


def test_the_images_variables_reach_the_trainer(go, home: PodHome) -> None:
    write_json(home.environment_file, {"image": {"XLA_FLAGS": "--x"}, "own": {"HTTP_PROXY": "p"}})
    _, trainer = go()
    assert trainer.environment["XLA_FLAGS"] == "--x"
    assert "HTTP_PROXY" not in trainer.environment


def plant(kind: str, name: str, secret: Path) -> Deed:
    """Return a deed that leaves something else than a file under a name."""

    def deed(out: Path) -> None:
        succeed(out)
        path = out / name
        path.unlink(missing_ok=True)
        if kind == "link":
            path.symlink_to(secret)
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()

    return deed


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_verdict_that_is_no_file_is_none(go, kind: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(json.dumps(VERDICT))
    state, _ = go(plant(kind, "verdict.json", secret))
    assert state.verdict is None
    assert "verdict.json" in str(state.problem)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_console_that_is_no_file_is_neither_read_nor_written(
    go, kind: str, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    state, _ = go(plant(kind, "console.log", secret), exit_code=5)
    assert (state.console, state.console_size) == ("", 0)
    assert secret.read_text() == "secret"
    assert state.phase is PodPhase.EXITED


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"exit_code": 1}, "verdict.json says 1, the container ended with 0"),
        ({"files": [{"path": "../x", "sha256": "0", "size": 1}]}, "leads out of its folder"),
        ({"usage": {"gpu": 1e400}}, "not usable"),
        ({"reason": [[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]}, "reason: "),
        ({"x": 10**50 + 1}, "beyond 64 bits"),
        ({"reason": "\ud800"}, "UTF-8"),
        ({"usage": {"cpu_seconds": 1e-200}}, "usage.cpu_seconds: "),
    ],
)
def test_a_verdict_that_cannot_be_right_is_told(go, content: Any, problem: str) -> None:
    text = json.dumps({**VERDICT, **content}).replace("Infinity", "1e999")
    state, _ = go(lambda out: (out / "verdict.json").write_text(text))
    assert state.verdict is None
    assert problem in str(state.problem)
    assert not state.is_submissions_fault


def test_without_a_console_the_runners_own_words_are_kept(go, home: PodHome) -> None:
    (home.state / "output.log").write_text("no such module\n")
    state, _ = go(lambda out: None, exit_code=1)
    assert (home.out / "console.log").read_text() == "no such module\n"
    assert state.console_size == 15


def test_a_runner_beyond_its_time_has_gone_beyond_the_limit(go) -> None:
    """Nothing of what it says itself is believed: it should have ended what it runs."""
    state, _ = go(exit_code=0, is_late=True)
    assert (state.exit_code, state.problem, state.files) == (3, None, ())
    assert state.verdict is not None
    assert state.verdict.failure_class == "limit"
    assert state.verdict.reason == "time limit: stopped after 100 s"


def test_what_fills_the_disk_has_gone_beyond_the_limit_and_gives_it_back(go, home: PodHome) -> None:
    def fill(out: Path) -> None:
        succeed(out)
        (out / "big").write_bytes(bytes(20 * 2**20))
        (out / "folder").mkdir()

    limits = Limits(output_bytes=4096, console_bytes=4096)
    state, _ = go(fill, limits=limits)
    assert (state.exit_code, state.files) == (3, ())
    assert state.verdict is not None
    assert state.verdict.reason == "output limit: stopped after more than 0.00390625 MiB"
    assert [path.name for path in home.out.iterdir()] == ["console.log"]
    assert state.console_size == len("done\n")


def test_what_is_required_is_prepared_before_the_content_is_there(go, home: PodHome) -> None:
    """Submitted code was beside whatever had the network."""
    seen: list[list[str]] = []

    def look(out: Path) -> None:
        seen.append(sorted(path.name for path in home.inputs.iterdir()))
        assert not list(out.iterdir())
        succeed(out)

    inputs = (make_input("content"), make_input("elnigma"))
    state, trainer = go(look, inputs=inputs, prepare=plan())
    assert seen == [["elnigma"], ["content", "elnigma"]]
    assert trainer.commands[0] == ["elnigma-run", "prepare"]
    assert trainer.commands[1][:2] == ["elnigma-run", "train"]
    assert trainer.environment["TOUCHSTONE_CACHE"] == str(home.cache)
    assert (state.exit_code, state.problem) == (0, None)


def test_what_cannot_be_prepared_is_the_end_of_the_attempt(go, home: PodHome) -> None:
    def fail(out: Path) -> None:
        verdict = {"exit_code": 75, "outcome": "failed", "class": "temporary", "reason": "later"}
        (out / "console.log").write_text("no index\n")
        (out / "verdict.json").write_text(json.dumps({**VERDICT, **verdict}))

    state, trainer = go(fail, exit_code=75, inputs=(make_input("elnigma"),), prepare=plan())
    assert (state.phase, state.exit_code, state.running_at) == (PodPhase.EXITED, 75, None)
    assert state.verdict is not None
    assert state.verdict.failure_class == "temporary"
    assert len(trainer.commands) == 1
    assert state.console_size == len("no index\n")


def test_an_image_that_keeps_two_users_apart_stays_root(
    go, home: PodHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "find_trainer_user", lambda: 65534)
    given: list[bool] = []
    monkeypatch.setattr(runners, "give_folders", lambda _, is_apart: given.append(is_apart))
    write_json(home.environment_file, {"own": {"TOUCHSTONE_RUNNER_USER": "root"}})
    _, trainer = go()
    assert given == [True]
    assert trainer.environment["TOUCHSTONE_TRAINER_USER"] == "65534:65534"
    write_json(home.environment_file, {"own": {}})
    home.record_file.unlink()
    go()
    assert given == [True, False]


def test_a_runner_that_hangs_in_the_kernel_is_told(go) -> None:
    state, _ = go(exit_code=None)
    assert (state.exit_code, state.problem) == (None, "the runner could not be ended")


def test_a_program_that_is_not_in_the_image_is_told(go) -> None:
    def fail(out: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    state, _ = go(fail)
    assert state.problem == "elnigma-run cannot be started: No such file or directory"
    assert state.exit_code is None


class BrokenTransfer:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def fetch(self, *_: Any, **__: Any) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "problem", "is_submissions_fault"),
    [
        (UnsafeArchive("member 'x' is a link"), "is a link", True),
        (PermanentError("fetched bytes have\nanother sha256"), "bytes have another", False),
        (TransferCancelled("now"), "about to end before the training began", False),
        (OSError(errno.ENOSPC, "No space left"), "No space left", False),
        (RuntimeError("a defect"), "runner failed: RuntimeError: a defect", False),
    ],
)
def test_whose_fault_it_is_that_nothing_ran(
    go, error: Exception, problem: str, is_submissions_fault: bool
) -> None:
    state, trainer = go(transfer=BrokenTransfer(error), inputs=(make_input("big"),))
    assert problem in str(state.problem)
    assert (state.phase, state.exit_code) == (PodPhase.EXITED, None)
    assert state.is_submissions_fault is is_submissions_fault
    assert trainer.phase_at_start is None


def test_an_archive_that_is_none_is_the_submissions_fault(go) -> None:
    state, _ = go(transfer=FakeTransfer(b"no archive"), inputs=(make_input(unpack=True),))
    assert state.is_submissions_fault


def test_a_disk_that_is_full_while_unpacking_is_not(go, monkeypatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise UnsafeArchive(f"archive cannot be unpacked: {error}") from error

    monkeypatch.setattr("touchstone_agent.staging.unpack", fail)
    archive = FakeTransfer(gzip.compress(b""))
    state, _ = go(transfer=archive, inputs=(make_input(unpack=True),))
    assert "No space left" in str(state.problem)
    assert not state.is_submissions_fault


def test_what_is_to_end_before_it_began_does_not_begin(go) -> None:
    stopping = threading.Event()
    stopping.set()
    state, trainer = go(stopping=stopping)
    assert trainer.phase_at_start is None
    assert "about to end" in str(state.problem)


def test_a_full_disk_does_not_hide_the_end(go, home: PodHome, monkeypatch) -> None:
    write = homes.write_json

    def write_while_there_is_room(path: Path, data: Any) -> None:
        if data.get("phase") == "exited" and home.reserve_file.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, data)

    monkeypatch.setattr(homes, "write_json", write_while_there_is_room)
    state, _ = go()
    assert (state.phase, state.exit_code) == (PodPhase.EXITED, 0)
    assert not home.reserve_file.exists()


def test_a_runner_without_an_order_refuses(home: PodHome, monkeypatch) -> None:
    monkeypatch.setattr(runners.logs, "configure", lambda: None)
    with pytest.raises(ConfigurationError, match="nothing was ordered"):
        run(home)


def test_grants_that_are_wanted_are_told_while_it_is_prepared(home: PodHome, go) -> None:
    wanted: list[Any] = []

    class Store(FakeTransfer):
        def fetch(self, grant: Any, target: Path, **options: Any) -> None:
            if grant.url.endswith("1"):
                from touchstone_agent.adapters.transfer import GrantExpired

                raise GrantExpired("no")
            super().fetch(grant, target, **options)

    class Answered(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            wanted.append(read_state(home).wants_grants)
            fresh = make_input("big", url="http://store/2").grant.model_dump(mode="json")
            write_json(home.grants_file, {"big": fresh})
            return False

    state, _ = go(transfer=Store(), stopping=Answered(), inputs=(make_input("big"),))
    assert wanted == [("big",)]
    assert (state.wants_grants, state.exit_code) == ((), 0)
    assert read_json(home.record_file) is not None
