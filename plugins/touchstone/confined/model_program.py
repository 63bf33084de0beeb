"""
Reads a model's configuration out of its HDF5 file, and says whether it may carry code.

It is run by :mod:`touchstone.confined.models`, with little time and memory. Keras is not
asked: loading is what must not happen. Only two attributes of the file are read.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from touchstone.core.model_config import CodeFinding, find_code, look_through

_STDIN = "/dev/stdin"
_MAX_CHARACTERS = 32 * 1024**2


def inspect() -> CodeFinding:
    """Return what the file on standard input holds."""
    import h5py

    try:
        with h5py.File(_STDIN, "r") as file:
            model = _read(file.attrs.get("model_config"))
            training = _read(file.attrs.get("training_config"))
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, RecursionError) as error:
        return _refuse(f"it cannot be looked into ({type(error).__name__})")
    except MemoryError:
        return _refuse("it takes too much memory to be looked into")
    if model is None:
        return _refuse("it has no configuration of a model")
    found = find_code(model)
    return look_through(training) if not found.may_carry_code else found


def _read(attribute: object) -> object:
    """Return the JSON of an attribute; ``None`` if there is none."""
    if attribute is None:
        return None
    if isinstance(attribute, bytes):
        attribute = attribute.decode()
    if not isinstance(attribute, str) or len(attribute) > _MAX_CHARACTERS:
        raise TypeError("not a text")
    return json.loads(attribute)


def _refuse(reason: str) -> CodeFinding:
    return CodeFinding(may_carry_code=True, code_reason=reason)


if __name__ == "__main__":
    print(json.dumps(asdict(inspect())))
