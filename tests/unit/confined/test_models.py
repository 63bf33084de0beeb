"""Models' files, looked into by a process of its own."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import h5py
import pytest

import touchstone
from touchstone.confined.models import inspect_model

PACKAGE = Path(touchstone.__file__).parent
DENSE = {"class_name": "Dense", "config": {"units": 1}}


@pytest.fixture
def save(tmp_path):
    def make(model=None, training=None):
        path = tmp_path / "model.h5"
        with h5py.File(path, "w") as file:
            file.create_group("model_weights")
            for name, value in (("model_config", model), ("training_config", training)):
                if value is not None:
                    file.attrs[name] = value if isinstance(value, bytes) else json.dumps(value)
        return path

    return make


def build(*layers):
    return {"class_name": "Sequential", "config": {"layers": list(layers)}}


def test_a_plain_model_is_said_to_carry_nothing(save):
    found = inspect_model(save(build(DENSE), {"loss": "mse"}))

    assert (found.may_carry_code, found.code_reason) == (False, None)


@pytest.mark.parametrize(
    ("model", "training", "reason"),
    [
        (build(DENSE, {"class_name": "Lambda"}), None, "layer 2 is a 'Lambda'"),
        (build(DENSE), {"loss": {"class_name": "mine>loss"}}, "loss is a 'mine>loss'"),
        (None, None, "it has no configuration of a model"),
        (b"\xff\xfe", None, "it cannot be looked into (JSONDecodeError)"),
        (b"[" * 50_000, None, "it cannot be looked into (RecursionError)"),
        (b"{", None, "it cannot be looked into (JSONDecodeError)"),
    ],
    ids=["lambda", "loss", "nothing", "no text", "deep", "no JSON"],
)
def test_code_and_whatever_may_hide_it_is_told(save, model, training, reason):
    found = inspect_model(save(model, training))

    assert (found.may_carry_code, found.code_reason) == (True, reason)


def test_what_is_no_such_file_may_carry_anything(tmp_path):
    path = tmp_path / "model.h5"
    path.write_bytes(b"PK\x03\x04")

    assert inspect_model(path).code_reason == "it cannot be looked into (OSError)"


def test_nothing_here_could_load_a_model():
    """The one program that opens such files reads two attributes, in a process of its own."""
    importing = {}
    for path in (*PACKAGE.rglob("*.py"), *PACKAGE.parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in names:
                importing.setdefault(name.partition(".")[0], set()).add(path.name)

    loaders = {"keras", "tensorflow", "torch", "jax", "tf_keras", "joblib", "pickle", "dill"}
    assert not loaders & importing.keys()
    assert importing["h5py"] == {"model_program.py"}
