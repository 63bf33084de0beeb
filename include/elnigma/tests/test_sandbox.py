"""What native code in a submission reaches: nothing that the kernel can refuse."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from eurusd import write_data_set
from test_separate import FAST, start

from conftest import Run
from elnigma import sandbox
from elnigma.errors import StorageError

ATTACK = (Path(__file__).parent / "native_attack.py").read_text(encoding="utf-8")
FEATURES = """
import numpy as np

BLOCK_MONTHS = 12


def build_features(data):
    find_what_works(OUT, DATA)
    return np.log(data[["close"]]).diff().fillna(0)
"""
MODEL = """
import keras


def build_model(n_features, params):
    find_what_works(OUT, DATA)
    x = keras.Input((n_features,))
    return keras.Model(x, keras.layers.Dense(1, activation="sigmoid")(x))
"""
COUNT = 29
# Of processes that may begin others: what compiles for a GPU does.
FORKS = {"a process for later"}


def write_attack(folder: Path, name: str, text: str, *, out: Path, data: str = "") -> str:
    folder.mkdir()
    (folder / name).write_text(f"{ATTACK}\n\nOUT, DATA = {str(out)!r}, {data!r}\n{text}")
    return str(folder)


def read_attacks(run: Run) -> list[list[str]]:
    """Return what worked, of each process whose console is kept."""
    lines = (run.out / "console.log").read_text().splitlines()
    told = [json.loads(line.removeprefix("ATTACK")) for line in lines if line.startswith("ATTACK")]
    assert all(each["tried"] == COUNT for each in told)
    return [each["got"] for each in told]


@pytest.fixture(autouse=True)
def walls() -> None:
    if sandbox.describe_lack() is not None:
        pytest.skip(f"NO WALLS: this kernel lacks {sandbox.describe_lack()}")


def test_without_walls_the_attacks_work(tmp_path: Path) -> None:
    """Else the other tests would show nothing."""
    (tmp_path / "out").mkdir()
    for name in ("console.log", "progress.jsonl"):
        (tmp_path / "out" / name).write_text("x")
    folder = write_attack(
        tmp_path / "content", "attack.py", "find_what_works(OUT)", out=tmp_path / "out"
    )
    told = subprocess.run(
        [sys.executable, f"{folder}/attack.py"],
        env={"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path / "own")},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    found = json.loads(told.removeprefix("ATTACK"))
    assert found["tried"] == COUNT
    # There is no data set, and what a kernel or an engine has closed already may be some.
    assert len(found["got"]) >= 22, found["got"]


@pytest.mark.parametrize("command", ["train", "validate"])
def test_no_attack_of_a_feature_set_works(tmp_path: Path, command: str) -> None:
    out = tmp_path / "out"
    folder = write_attack(tmp_path / "content", "features.py", FEATURES, out=out)
    if command == "train":
        run = start(out, *FAST, "--feature-set", folder)
    else:
        run = start(out, "validate", "--system", "feature_set", "--module", folder)
    assert run.exit_code == 0, run.verdict["reason"]
    attacks = read_attacks(run)
    assert len(attacks) > 10
    assert {name for found in attacks for name in found} == set()


def test_no_attack_of_either_works_on_a_data_set_of_ones_own(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    write_data_set(data)
    assert len(list(data.iterdir())) == 2
    features = write_attack(tmp_path / "features", "features.py", FEATURES, out=out, data=str(data))
    model = write_attack(tmp_path / "model", "model.py", MODEL, out=out, data=str(data))
    run = start(
        out, *FAST, "--data", str(data), "--feature-set", features, "--model-structure", model,
        CUDA="none",
    )  # fmt: skip
    assert run.exit_code == 0, run.verdict["reason"]
    attacks = read_attacks(run)
    # Those of the two models are the last.
    assert len(attacks) > 12
    assert {name for found in attacks for name in found} == set()


def test_no_attack_of_a_model_structure_works_in_a_validation(tmp_path: Path) -> None:
    out = tmp_path / "out"
    folder = write_attack(tmp_path / "content", "model.py", MODEL, out=out)
    run = start(out, "validate", "--system", "model_structure", "--module", folder)
    assert run.exit_code == 0, run.verdict["reason"]
    attacks = read_attacks(run)
    assert len(attacks) >= 2
    assert {name for found in attacks for name in found} <= FORKS


def test_it_may_write_its_folder_and_read_itself(tmp_path: Path) -> None:
    """And begin threads, load libraries, and be confined twice."""
    script = f"""
import os, signal, threading
from pathlib import Path
from elnigma.sandbox import confine
own = Path({str(tmp_path)!r}, "own")
for _ in range(2):
    confine(folders=[str(own)])
(own / "a").mkdir()
(own / "a" / "x").write_text("x")
(own / "a" / "x").rename(own / "y")
(own / "y").unlink()
for name in ("maps", "status", "stat", "cmdline", "environ"):
    Path("/proc/self", name).read_bytes()
Path("/proc/cpuinfo").read_text()
Path("/dev/null").write_text("x")
os.kill(os.getpid(), 0)
done = []
thread = threading.Thread(target=lambda: done.append(1))
thread.start()
thread.join()
import numpy, pandas, arch
print(done)
"""
    (tmp_path / "own").mkdir()
    source = Path(__file__).resolve().parents[1] / "src"
    found = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(source)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert found.stdout == "[1]\n"


@pytest.mark.parametrize("name", ["_X86", "_ARM"])
def test_the_filter_jumps_nowhere_but_ahead_and_ends(name: str) -> None:
    """The other architecture's as well: it runs on no machine of these tests."""
    calls = getattr(sandbox, name)
    for may_fork in (True, False):
        steps = sandbox._build_filter(calls, own=7, may_fork=may_fork)
        assert evaluate(steps, calls, "getpid", 0) == "allow"
        assert evaluate(steps, calls, "kill", 7) == "allow"
        assert evaluate(steps, calls, "kill", 8) == "refuse"
        assert evaluate(steps, calls, "kill", 0) == "refuse"
        assert evaluate(steps, calls, "socket", 1) == "allow"
        assert evaluate(steps, calls, "socket", 2) == "refuse"
        assert evaluate(steps, calls, "clone", 0x10000) == "allow"
        assert evaluate(steps, calls, "clone", 17) == ("allow" if may_fork else "refuse")
        assert evaluate(steps, calls, "clone3", 0) == ("allow" if may_fork else "refuse")
        assert evaluate(steps, {**calls, "arch": 1}, "getpid", 0) == "refuse"
        for each in set(calls) - set(sandbox._SPECIAL):
            assert evaluate(steps, calls, each, 7) == "refuse", each


def evaluate(
    steps: list[tuple[int, int, int, int]], calls: dict[str, int], name: str, argument: int
) -> str:
    """Return what the kernel would, by the meaning of each step."""
    memory = {0: calls.get(name, 9999), 4: calls["arch"], 16: argument}
    held = at = 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        if code == 0x20:
            held = memory[value]
        elif code == 0x06:
            return "allow" if value == 0x7FFF0000 else "refuse"
        else:
            holds = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[code]
            at += if_true if holds else if_false


def test_a_machine_without_walls_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_find_version", lambda: 0)
    monkeypatch.setattr(sandbox, "_SYSTEM_CALLS", None)
    told = sandbox.describe_lack()
    assert told is not None
    assert "Landlock" in told
    assert "system calls" in told


def test_a_process_that_begins_meanwhile_is_as_closed_as_those_before() -> None:
    """What is open is listed while other processes of the training begin."""
    above = {"/", "/proc"}
    rules = set(sandbox._list_open("/proc", set(), above))
    assert "/proc/cpuinfo" in rules
    assert not any(path.removeprefix("/proc/").isdigit() for path in rules)
    # Links lead to one's own: they are followed when a rule is made.
    assert not rules & {"/proc/self", "/proc/thread-self", "/proc/mounts", "/proc/net"}


@pytest.mark.parametrize("name", ["_restrict_paths", "_filter_calls"])
def test_what_is_not_confined_is_not_imported_and_the_machine_is_to_blame(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    for each in ("_restrict_paths", "_filter_calls"):
        monkeypatch.setattr(sandbox, each, refuse if each == name else lambda *_, **__: None)
    # This process itself must give up nothing.
    libc = SimpleNamespace(prctl=lambda *_: 0)
    monkeypatch.setattr(sandbox.ctypes, "CDLL", lambda *_, **__: libc)
    monkeypatch.setattr(sandbox, "_find_version", lambda: 1)
    monkeypatch.setattr(sandbox, "_has_filter", lambda: True)
    monkeypatch.setattr(sandbox, "_is_confined", False)
    with pytest.raises(StorageError, match="kernel does not confine submitted code: Cannot alloc"):
        sandbox.confine(folders=[])
