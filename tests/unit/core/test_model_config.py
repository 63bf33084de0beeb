"""What a saved configuration of Keras may carry."""

from __future__ import annotations

import base64
import copy
import marshal

import pytest

from touchstone.core import model_config
from touchstone.core.model_config import find_code, look_through

BYTECODE = base64.encodebytes(marshal.dumps(compile("t * 2", "x", "eval"))).decode()


def dense(**config):
    initializer = {
        "module": "keras.initializers",
        "class_name": "GlorotUniform",
        "config": {"seed": None},
        "registered_name": None,
    }
    return {
        "class_name": "Dense",
        "config": {"units": 3, "activation": "relu", "kernel_initializer": initializer} | config,
        "inbound_nodes": [
            {"args": [{"class_name": "__keras_tensor__", "config": {"shape": [None, 4]}}]}
        ],
    }


def model(*layers):
    return {"class_name": "Functional", "config": {"layers": [dense(), *layers]}}


def wrap(layer):
    return {"class_name": "TimeDistributed", "config": {"layer": layer}}


LAMBDA = {
    "class_name": "Lambda",
    "config": {"function": {"class_name": "__lambda__", "config": {"code": BYTECODE}}},
}


def test_a_model_of_keras_own_layers_carries_no_code():
    found = find_code(model(dense(), wrap(dense(activation="tanh"))))

    assert (found.may_carry_code, found.code_reason) == (False, None)


CARRIES = {
    "a lambda": (model(LAMBDA), "layer 2 is a 'Lambda'"),
    "a lambda inside": (model(dense(), wrap(LAMBDA)), "layer 3 is a 'Lambda'"),
    "a lambda of old": (
        model({"class_name": "Lambda", "config": {"function": [BYTECODE, None, None]}}),
        "layer 2 is a 'Lambda'",
    ),
    "an activation": (
        model(dense(activation={"value": [BYTECODE, None, None]})),
        "layer 2 holds a function",
    ),
    "a bare function": (model(dense(activation=BYTECODE)), "looks like a compiled function"),
    "a saved model": (model({"class_name": "TFSMLayer", "config": {}}), "is a 'TFSMLayer'"),
    "a pickle": (model({"class_name": "TorchModuleWrapper"}), "is a 'TorchModuleWrapper'"),
    "a class of one's own": (model({"class_name": "mine>Layer"}), "layer 2 is a 'mine>Layer'"),
    "a module of one's own": (
        model({"module": "os", "class_name": "Dense"}),
        "layer 2 is of the module 'os'",
    ),
    "a module that only looks so": (
        model({"module": "kerasx.layers", "class_name": "Dense"}),
        "of the module 'kerasx.layers'",
    ),
    "another registered name": (
        model(dense() | {"registered_name": "mine>Dense"}),
        "registered as 'mine>Dense'",
    ),
    "a function by its name": (
        model(dense(activation={"class_name": "function", "config": "eval"})),
        "layer 2 is a 'function'",
    ),
    "a class that is no name": (model({"class_name": ["Lambda"]}), "layer 2 is a ['Lambda']"),
    "no model": ([1], "no configuration of a model"),
    "nothing": ({}, "no configuration of a model"),
}


@pytest.mark.parametrize("what", CARRIES)
def test_whatever_could_run_is_found_and_named(what):
    config, reason = CARRIES[what]
    found = find_code(copy.deepcopy(config))

    assert found.may_carry_code
    assert reason in str(found.code_reason)


def test_what_a_model_was_trained_with_is_looked_through_too():
    loss = {"loss": {"class_name": "mine>loss"}, "optimizer_config": {"class_name": "Adam"}}

    assert not look_through({"loss": "binary_crossentropy", "metrics": [["accuracy"]]}).code_reason
    assert look_through(loss).code_reason == "loss is a 'mine>loss'"


def test_a_configuration_without_end_is_not_looked_through(monkeypatch):
    deep: list = []
    for _ in range(10_000):
        deep = [deep]
    assert "nested too deeply" in str(look_through({"layers": deep}).code_reason)

    monkeypatch.setattr(model_config, "MAX_VALUES", 10)
    assert "too large" in str(look_through({"layers": [1] * 10}).code_reason)
