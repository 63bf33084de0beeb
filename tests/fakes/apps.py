"""Applications that tests share: to build one takes a quarter of a second, and most ask one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from fastapi import FastAPI

from touchstone.cache import KeptBytes
from touchstone.ui.conditional import Conditional


def share_app(build: Callable[[], FastAPI]) -> FastAPI:
    """
    Return the application that a function builds, as if it were new: nothing of it is replaced.

    It is one for all tests of a process, so a test has one at a time, and changes nothing of it but
    its dependencies. It keeps no answer from test to test.
    """
    app = _build(build)
    app.dependency_overrides = {}
    return app


@cache
def _build(build: Callable[[], FastAPI]) -> FastAPI:
    app = build()
    for layer in app.user_middleware:
        if layer.cls is Conditional and "kept" in layer.kwargs:
            layer.kwargs["kept"] = KeptBytes(0, seconds=0)
    return app
