"""
What a module can do to its own score: nothing, in a training as in a validation.

Each of these trains by itself, without the validation that it would be refused in.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import psutil
import pytest

from conftest import Run

RunAttempt = Callable[..., Run]
FAST = (
    *("train", "--config", "fast.toml", "--prediction-interval", "5"),
    *("--config_override", "training.epochs=1", "--config_override", "backtest.n_resamples=100"),
)
# Of a slow module: fewer calls, the same kinds of them.
HEAD = "import os\n\nimport numpy as np\nimport pandas as pd\n\nBLOCK_MONTHS = 12\n\n"
HONEST = """
def build_features(data):
{above}
    c = np.log(data["close"])
    out = pd.DataFrame({{f"m{{k}}": c.diff(k).fillna(0) for k in (1, 5, 21)}}, index=data.index)
{below}
    return out
"""


def write_features(folder: Path, *, head: str = "", above: str = "", below: str = "") -> str:
    folder.mkdir()
    body = HONEST.format(above=indent(above), below=indent(below))
    (folder / "features.py").write_text(HEAD + head + body)
    return str(folder)


def write_model(folder: Path, text: str) -> str:
    folder.mkdir()
    (folder / "model.py").write_text(text)
    return str(folder)


def indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """What the honest module gets, which the forged ones are made of."""
    folder = tmp_path_factory.mktemp("honest")
    out = folder / "out"
    reference = write_features(folder / "content")
    return start(out, *FAST, "--feature-set", reference)


def start(out: Path, *arguments: str, **variables: str) -> Run:
    out.mkdir()
    command = [sys.executable, "-P", "-m", "elnigma_runner", arguments[0], "--out", str(out)]
    environment = {"PATH": os.environ["PATH"], "TOUCHSTONE_OUT": str(out)}
    environment |= {f"TOUCHSTONE_{name}": value for name, value in variables.items()}
    found = subprocess.run([*command, *arguments[1:]], env=environment, check=False)
    verdict = json.loads((out / "verdict.json").read_text())
    return Run(exit_code=found.returncode, out=out, verdict=verdict)


FORGED = """
import hashlib, json
from pathlib import Path
for out in [Path(p) for p in {outs!r} if p]:
    try:
        (out / "models").mkdir(parents=True, exist_ok=True)
        listed = []
        for name in ("models/long.h5", "models/short.h5", "predictions.csv"):
            (out / name).write_bytes(b"x")
            digest = hashlib.sha256(b"x").hexdigest()
            listed.append({{"path": name, "sha256": digest, "size": 1}})
        told = {{"contract": 2, "submission_id": "", "task_id": "", "files": listed}}
        told["metrics"] = {{"net_sharpe": 12.0}}
        (out / "result.json").write_text(json.dumps(told))
    except OSError:
        pass
"""

AT_EXIT = """
import atexit, json, pathlib

def overwrite():
    path = pathlib.Path(OUT) / "result.json"
    if path.exists():
        path.write_text(json.dumps({"metrics": {"net_sharpe": 9.99}}))

atexit.register(overwrite)
"""
PATCHES = """
import sys
for name in ("elnigma.metrics", "elnigma.train"):
    module = sys.modules.get(name)
    if module is not None:
        module.compute_metrics = lambda *a, **k: {"net_sharpe": (7.77, None)}
"""
BY_TASK = """
told = os.environ.get("TOUCHSTONE_TASK_ID", "validation")
if told not in ("validation", "i5"):
    out["m1"] = c.diff().shift(-1).fillna(0)
"""


def test_what_forges_a_score_gets_the_honest_one(tmp_path: Path, honest: Run) -> None:
    """It overwrites the result at its exit, patches the metrics, and peeks in a training alone."""
    head = f"OUT = {str(tmp_path / 'out')!r}\n{AT_EXIT}"
    reference = write_features(tmp_path / "content", head=head, above=PATCHES, below=BY_TASK)
    run = start(tmp_path / "out", *FAST, "--feature-set", reference, TASK_ID="i5-f0")
    assert run.exit_code == 0, run.verdict["reason"]
    assert run.result["metrics"] == honest.result["metrics"]
    assert run.result["contract"] == 2
    for path in ("predictions.csv", "models/long.h5", "models/short.h5"):
        assert (run.out / path).read_bytes() == (honest.out / path).read_bytes()


REFUSED = {
    "writes-a-result-and-ends": (
        {"above": FORGED + "os._exit(0)\n"},
        "contract: the module ended the process itself (exit code 0)",
    ),
    "answers-in-the-trainers-place": (
        {
            "above": (
                "import struct\n"
                'document = b\'{"facts": {"columns": ["x"], "checks": {}}}\'\n'
                "for descriptor in range(3, 12):\n"
                "    try:\n"
                "        for part in (document, b''):\n"
                "            os.write(descriptor, struct.pack('!Q', len(part)) + part)\n"
                "    except OSError:\n"
                "        pass\n"
                "os._exit(0)\n"
            )
        },
        "contract: the module replied in place of the trainer",
    ),
    "peeks": (
        {"below": "out['m1'] = c.diff().shift(-1).fillna(0)\n"},
        "look-ahead: column 'm1' at ",
    ),
    "peeks-in-a-few-test-rows": (
        {
            "below": (
                "later = c.diff().shift(-1).fillna(0)\n"
                "out['m1'] = out['m1'].where(out.index < '2016-01-01', later)\n"
            )
        },
        "look-ahead: column 'm1' at ",
    ),
    "keeps-a-file": (
        {
            "above": (
                "import pathlib, tempfile\n"
                "P = pathlib.Path(tempfile.gettempdir()) / 'cache.pkl'\n"
                "now = data['close'].shift(-1) / data['close'] - 1\n"
                "full = pd.read_pickle(P) if P.exists() else now\n"
                "now.to_pickle(P)\n"
            ),
            "below": "out['m1'] = full.reindex(data.index).fillna(0.0)\n",
        },
        "look-ahead: column 'm1' at ",
    ),
    "reads-the-installed-prices": (
        {"above": "from elnigma.data import load_market_data\nload_market_data()\n"},
        "reading market data is not allowed",
    ),
    "looks-at-the-trainers-process": (
        {"above": "open(f'/proc/{os.getppid()}/cmdline').read()\n"},
        "looking into other processes is not allowed",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cheats_is_refused_in_a_training(tmp_path: Path, name: str) -> None:
    parts, reason = REFUSED[name]
    outs = [str(tmp_path / "out")]
    parts = {
        key: text.format(outs=outs) if "{outs" in text else text for key, text in parts.items()
    }
    reference = write_features(tmp_path / "content", **parts)
    run = start(tmp_path / "out", *FAST, "--feature-set", reference, TASK_ID="i5")
    assert (run.exit_code, run.verdict["class"]) in ((3, "submission"), (3, "contract"))
    assert reason in run.verdict["reason"]
    assert not (run.out / "result.json").exists()
    assert not (run.out / "models").exists()
    # Whoever looks why sees with what it was trained.
    assert (run.out / "effective_config.json").exists()


ALONG_THE_BATCH = """
import keras

BUILT = 0


@keras.saving.register_keras_serializable(package="submitted")
class Neighbour(keras.layers.Layer):
    def call(self, x, training=False):
        if training:
            return x[:, :1] * 0.0
        return keras.ops.concatenate([x[1:, :1], x[-1:, :1]], axis=0)


def build_model(n_features, params):
    i = keras.Input(shape=(n_features,))
    logit = keras.layers.Add()([keras.layers.Dense(1)(i), Neighbour()(i)])
    return keras.Model(i, keras.layers.Activation("sigmoid")(logit))
"""
UNLIKE_ITS_FILE = """
import keras

LOUD = []


@keras.saving.register_keras_serializable(package="submitted")
class Loud(keras.layers.Layer):
    def call(self, x):
        return x * 2.0 if LOUD else x


def build_model(n_features, params):
    LOUD.append(True)
    i = keras.Input(shape=(n_features,))
    logit = Loud()(keras.layers.Dense(1)(i))
    return keras.Model(i, keras.layers.Activation("sigmoid")(logit))
"""
ENDS = """
import os


def build_model(n_features, params):
    os._exit(0)
"""
MODELS = {
    "reads-along-the-batch": (ALONG_THE_BATCH, "look-ahead: the prediction of the long model for "),
    "is-another-one-in-its-file": (
        UNLIKE_ITS_FILE,
        "the saved long model does not reproduce its predictions: for ",
    ),
    "ends": (ENDS, "contract: the module ended the process itself (exit code 0)"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_cheats_is_refused_in_a_training(tmp_path: Path, name: str) -> None:
    text, reason = MODELS[name]
    reference = write_model(tmp_path / "content", text)
    run = start(tmp_path / "out", *FAST, "--model-structure", reference)
    assert run.exit_code == 3
    assert reason in run.verdict["reason"]
    assert not (run.out / "result.json").exists()


# --- what a child could read -------------------------------------------------------------------

SPY = """
import gc
import json
import os
import sys

import numpy as np
import pandas as pd

BLOCK_MONTHS = 12


def look():
    texts = {name: open(f"/proc/self/{name}", "rb").read().decode(errors="replace")
             for name in ("environ", "cmdline")}
    texts["os.environ"] = json.dumps(dict(os.environ))
    texts["argv"] = json.dumps([sys.argv, sys.orig_argv])
    texts["frames"] = ""
    frame = sys._getframe(1)
    while frame is not None:
        texts["frames"] += f"{frame.f_code.co_filename}:{frame.f_code.co_name} "
        frame = frame.f_back
    texts["modules"] = " ".join(sorted(m for m in sys.modules if m.startswith("elnigma")))
    texts["stdin"] = os.readlink("/proc/self/fd/0").replace("/dev/null", "")
    texts["files"] = " ".join(
        path for path in (os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
                          if os.path.exists(f"/proc/self/fd/{n}"))
        if not path.startswith(("pipe:", "/dev/null", "/proc/")))
    kinds = {type(thing) for thing in gc.get_objects()}
    texts["objects"] = " ".join(sorted(
        kind.__name__ for kind in kinds if str(kind.__module__).startswith("elnigma")))
    return texts


def build_features(data):
    texts = look()
    frames = [len(t) for t in gc.get_objects() if isinstance(t, pd.DataFrame)]
    arrays = [t.size for t in gc.get_objects() if isinstance(t, np.ndarray)]
    texts["more rows"] = str(max(frames, default=0) > len(data))
    texts["more numbers"] = str(max(arrays, default=0) > 2 * data.size + 2 * len(data))
    print("SPY" + json.dumps(texts), flush=True)
    return data[["close"]].pct_change().fillna(0)
"""


def read_spied(run: Run) -> list[dict[str, str]]:
    lines = (run.out / "console.log").read_text().splitlines()
    return [json.loads(line[3:]) for line in lines if line.startswith("SPY")]


def test_a_child_cannot_tell_a_training_from_a_validation(tmp_path: Path) -> None:
    folder = tmp_path / "content"
    folder.mkdir()
    (folder / "features.py").write_text(SPY)
    identity = {"SUBMISSION_ID": "sub-1", "ATTEMPT": "1"}
    trained = start(
        tmp_path / "a", *FAST, "--feature-set", str(folder), TASK_ID="i5-f0", **identity
    )
    validated = start(
        tmp_path / "b", "validate", "--system", "feature_set", "--module", str(folder),
        TASK_ID="validation", **identity,
    )  # fmt: skip
    assert trained.exit_code == validated.exit_code == 0, trained.verdict["reason"]
    seen = [read_spied(run) for run in (trained, validated)]
    assert len(seen[0]) == len(seen[1]) > 20
    for one, other in zip(*seen, strict=True):
        for text in (one, other):
            assert text["more rows"] == text["more numbers"] == "False"
            assert text["stdin"] == text["files"] == text["environ"].strip("\0") == ""
            for name in ("cmdline", "argv"):
                assert "train" not in text[name]
                assert "valid" not in text[name]
                assert "i5-f0" not in text[name]
        # Folders have names drawn at random, of one length.
        for name in ("frames", "modules", "objects", "argv", "cmdline"):
            assert one[name] == other[name]
        assert sorted(json.loads(one["os.environ"])) == sorted(json.loads(other["os.environ"]))


MODEL_SPY = """
import gc
import json

import keras
import numpy as np
import pandas as pd


def look(when):
    arrays = [t for t in gc.get_objects() if isinstance(t, np.ndarray) and t.ndim]
    frames = [t for t in gc.get_objects() if isinstance(t, pd.DataFrame)]
    times = [t for t in gc.get_objects() if isinstance(t, pd.DatetimeIndex)]
    rows = max((len(t) for t in arrays), default=0)
    print("SPY" + json.dumps({
        "when": when, "rows": rows, "frames": len([t for t in frames if len(t) > 60]),
        "times": len([t for t in times if len(t) > 60])}), flush=True)


def build_model(n_features, params):
    look("build")
    x = keras.Input((n_features,))
    # One opinion, always.
    zero = keras.layers.Rescaling(0.0)(x)
    return keras.Model(x, keras.layers.Dense(1, activation="sigmoid")(zero))
"""


def test_a_model_has_no_test_row_before_it_has_learned_and_no_day_ever(tmp_path: Path) -> None:
    """The features are the row's number, the model has one opinion: neither is dishonest."""
    below = "out['t'] = (data.index - pd.Timestamp('1999-01-01', tz='UTC')).days.to_numpy(float)"
    features = write_features(tmp_path / "features", below=below)
    reference = write_model(tmp_path / "content", MODEL_SPY)
    chosen = ("--feature-set", features, "--model-structure", reference)
    run = start(tmp_path / "out", *FAST, *chosen)
    assert run.exit_code == 0, run.verdict["reason"]
    assert run.result["metrics"]["rank_corr"] is None
    assert pd.read_csv(run.out / "predictions.csv")["score_long"].nunique() == 1
    seen = read_spied(run)
    assert [text["when"] for text in seen] == ["build", "build"]
    split = run.result["split"]
    frame_rows = run.result["data"]["rows"]
    for text in seen:
        assert text["frames"] == text["times"] == 0
        # Up to the last row of the validation: five rows of its embargo and the test are missing.
        assert text["rows"] <= frame_rows - split["test"]["rows"] - 5


def test_the_memory_of_the_trainer_is_closed_to_others_of_its_user(tmp_path: Path) -> None:
    """Root reads everything; a container's user does not."""
    script = """
import os
import sys

import ctypes
from elnigma.shelter import hide_process, leave_parent

if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
parent = os.getpid()
hide_process()
pid = os.fork()
if pid == 0:
    leave_parent(parent)
    for name in ("mem", "environ", "maps", "fd"):
        path = f"/proc/{parent}/{name}"
        try:
            os.listdir(path) if name == "fd" else open(path, "rb").read(1)
        except PermissionError:
            continue
        os._exit(1)
    open("/proc/self/environ", "rb").read()
    told = open(f"/proc/{parent}/cmdline", "rb").read()
    os._exit(0 if b"secret" not in told and len(told) < 40 else 2)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    source = Path(__file__).resolve().parents[1] / "src"
    found = subprocess.run(
        [sys.executable, "-P", "-c", script, "secret"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(source)},
        cwd="/",
        check=False,
    )
    assert found.returncode == 0


# --- who ends whom -----------------------------------------------------------------------------

SLEEPS = """
import time


def build_features(data):
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_child_outlives_the_trainer(tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "content"
    folder.mkdir()
    (folder / "features.py").write_text(SLEEPS)
    trainer = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "elnigma", *FAST),
            *("--feature-set", str(folder), "--out", str(tmp_path / "out")),
        ],
        env={"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert trainer.stdout is not None
    assert trainer.stdout.readline() == b"ready\n"
    children = psutil.Process(trainer.pid).children(recursive=True)
    assert len(children) >= 3  # What features and models come of, and a process that computes.
    trainer.send_signal(number)
    # Whoever had the other end of its output open is over as well.
    trainer.stdout.read()
    assert trainer.wait() == (143 if number is signal.SIGTERM else -signal.SIGKILL)
    psutil.wait_procs(children, timeout=60)
    assert not [child for child in children if is_alive(child)]
    if number is signal.SIGTERM:
        assert json.loads((tmp_path / "out" / "error.json").read_text())["class"] == "aborted"


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
