"""Registers Touchstone with Airflow."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from touchstone import pages, ui
from touchstone.ui.acts import ActsMiddleware

# Airflow's pages take these from where Airflow itself is, which may be below a path: so none of
# them begins with a slash.
_ICONS = {
    "icon": "touchstone/pages/static/icon.svg",
    "icon_dark_mode": "touchstone/pages/static/icon-dark.svg",
}


class TouchstonePlugin(AirflowPlugin):
    """
    Touchstone's API, under ``/touchstone`` of Airflow's own, and its pages.

    Airflow shows the pages in its navigation, and as a tab of each run and task instance. Notes are
    taken of what users do through Airflow's own API.
    """

    name = "touchstone"
    fastapi_apps: list[Any] = [  # noqa: RUF012 (Airflow reads it off the class)
        # The longer path first: the other one would take all that begins like it.
        {"app": pages.serve, "url_prefix": "/touchstone/pages", "name": "Touchstone's pages"},
        {"app": ui.serve, "url_prefix": "/touchstone", "name": "Touchstone"},
    ]
    fastapi_root_middlewares: list[Any] = [  # noqa: RUF012 (the same)
        {"middleware": ActsMiddleware, "args": [], "kwargs": {}, "name": "Touchstone's notes"}
    ]
    react_apps: list[Any] = [  # noqa: RUF012 (the same)
        {
            # The script puts its component under this name.
            "name": "Touchstone summary",
            "bundle_url": "touchstone/pages/static/home.js",
            "destination": "dashboard",
            "url_route": "touchstone-summary",
        }
    ]
    external_views: list[Any] = [  # noqa: RUF012 (the same)
        {
            "name": "Touchstone",
            "href": "touchstone/pages/submissions",
            "destination": "nav",
            "url_route": "touchstone",
            "nav_top_level": True,
            **_ICONS,
        },
        {
            "name": "Touchstone",
            "href": "touchstone/pages/run?dag={DAG_ID}&run={RUN_ID}",
            "destination": "dag_run",
            "url_route": "touchstone-run",
            **_ICONS,
        },
        {
            "name": "Touchstone",
            "href": "touchstone/pages/run?dag={DAG_ID}&run={RUN_ID}",
            "destination": "task_instance",
            "url_route": "touchstone-task",
            **_ICONS,
        },
    ]
