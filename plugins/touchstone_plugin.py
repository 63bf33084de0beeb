"""Registers Touchstone with Airflow."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from touchstone.ui import serve
from touchstone.ui.acts import ActsMiddleware


class TouchstonePlugin(AirflowPlugin):
    """Touchstone's API, under ``/touchstone`` of Airflow's own; and notes of what is done there."""

    name = "touchstone"
    fastapi_apps: list[Any] = [  # noqa: RUF012 (Airflow reads it off the class)
        {"app": serve, "url_prefix": "/touchstone", "name": "Touchstone"}
    ]
    fastapi_root_middlewares: list[Any] = [  # noqa: RUF012 (the same)
        {"middleware": ActsMiddleware, "args": [], "kwargs": {}, "name": "Touchstone's notes"}
    ]
