"""The script that measures a GPU, as far as a machine without one can run it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "tests" / "gpu" / "run.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.campaign(sample=999)
def test_it_trains_on_the_cpu_alone_and_writes_what_it_found(
    script: ModuleType, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    code = script.main([str(out), "--cpu-only", "--epochs", "1", "--models", "mlp"])

    document = json.loads((out / "table.json").read_text())
    assert code == 0
    assert [row["outcome"] for row in document["trainings"]] == ["succeeded", "succeeded"]
    assert [finding["text"] for finding in document["findings"]] == [
        "mlp: twice on the CPU: the same bits"
    ]
    first = document["trainings"][0]
    assert set(first["models_sha256"]) == {"models/long.h5", "models/short.h5"}
    assert first["device"]["platform"] == "cpu"
    assert f"| {first['predictions_sha256'][:12]} |" in (out / "table.md").read_text()
    assert script.main([str(out), "--cpu-only"]) == 2, "what was found is not written over"


def test_without_a_gpu_it_says_what_is_lacking(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert script.main([str(tmp_path / "out")]) == 2
    assert "no GPU: nvidia-smi is not on the PATH" in capsys.readouterr().err


def test_what_was_not_run_or_differs_is_no_success(script: ModuleType, tmp_path: Path) -> None:
    late = script.main([str(tmp_path / "late"), "--cpu-only", "--minutes", "0"])
    assert late == 1
    table = (tmp_path / "late" / "table.md").read_text()
    assert "mlp cpu 1: not run: no time was left" in table

    def make(name: str, digest: str, sharpe: float, scores: list[float]) -> object:
        folder = script.find_folder(tmp_path, "mlp", name)
        folder.mkdir()
        lines = "".join(f"{score},{score}\n" for score in scores)
        (folder / "predictions.csv").write_text(f"score_long,score_short\n{lines}")
        return script.Row(
            model="mlp",
            name=name,
            outcome="succeeded",
            wall_seconds=10.0 if name != "gpu, flags off" else 8.0,
            predictions_sha256=digest,
            net_sharpe=sharpe,
        )

    rows = [
        make("gpu 1", "a", 0.50, [1.0, 2.0, 3.0, 4.0]),
        make("gpu 2", "b", 0.50, [1.0, 2.0, 3.0, 4.0]),
        make("gpu, flags off", "c", 0.50, [1.0, 2.0, 3.0, 4.0]),
        make("cpu", "d", 0.51, [1.0, 2.0, 4.0, 3.0]),
    ]

    assert [(finding.is_good, finding.text) for finding in script.judge(rows, tmp_path)] == [
        (False, "mlp: twice on the GPU: DIFFERENT BITS"),
        (
            False,
            "mlp: GPU and CPU are DIFFERENT: rank correlation 0.800000, net Sharpe ratios 0.0100 "
            "apart",
        ),
        (True, "mlp: the flags for determinism make it 1.25 times as long"),
    ]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ([1.0, 2.0, 3.0], [10.0, 20.0, 30.0], 1.0),
        ([1.0, 2.0, 3.0], [3.0, 2.0, 1.0], -1.0),
        ([1.0, 1.0, 2.0], [1.0, 1.0, 2.0], 1.0),
        ([1.0, 1.0], [5.0, 5.0], 1.0),
        ([1.0, 1.0], [5.0, 6.0], 0.0),
    ],
)
def test_ranks_are_correlated_as_spearman_has_it(
    script: ModuleType, one: list[float], other: list[float], expected: float
) -> None:
    assert script.correlate_ranks(one, other) == pytest.approx(expected)
