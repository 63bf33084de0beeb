"""A real GPU: what the stand-ins cannot show. ``make test-gpu`` on a machine that has one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).with_name("run.py")
WHEELS = Path(__file__).parents[2] / ".wheels"


@pytest.mark.timeout(900)
def test_a_gpu_gives_the_same_bits_twice_and_the_cpus_outcome(tmp_path):
    lacking = []
    if shutil.which("nvidia-smi") is None:
        lacking.append("a GPU of NVIDIA's (no nvidia-smi on the PATH)")
    if not any(WHEELS.glob("jax_cuda12_plugin-*.whl")):
        lacking.append("the wheels for CUDA (make wheels-cuda)")
    if lacking:
        pytest.skip(f"NOT RUN on a real GPU: this machine lacks {' and '.join(lacking)}")

    done = subprocess.run(
        [sys.executable, str(RUN), str(tmp_path / "out"), "--wheels", str(WHEELS)], check=False
    )

    document = json.loads((tmp_path / "out" / "table.json").read_text())
    assert done.returncode == 0, document["findings"]
    assert document["seconds"] < 480
    on_gpu = [row for row in document["trainings"] if row["name"].startswith("gpu")]
    assert {row["device"]["platform"] for row in on_gpu} == {"gpu"}
