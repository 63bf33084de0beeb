"""Registers Touchstone with Airflow."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from touchstone.ui import serve


class TouchstonePlugin(AirflowPlugin):
    """Touchstone's API, under ``/touchstone`` of Airflow's own."""

    name = "touchstone"
    fastapi_apps: list[Any] = [  # noqa: RUF012 (Airflow reads it off the class)
        {"app": serve, "url_prefix": "/touchstone", "name": "Touchstone"}
    ]
