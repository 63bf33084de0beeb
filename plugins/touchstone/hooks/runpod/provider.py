"""
This connection type as Airflow shows it: its form and its Test button.

Airflow asks while it is being imported itself, so nothing here may import it.
"""

from __future__ import annotations

from typing import Final

CONNECTION_TYPE: Final = "runpod"
HOOK_NAME: Final = "RunPod"
DEFAULT_URL: Final = "https://api.runpod.io"
_HOOK: Final = "touchstone.hooks.runpod.hook.RunPodHook"


def build_field_behaviour() -> dict[str, object]:
    """Return how Airflow's connection form looks."""
    return {
        "hidden_fields": ["schema", "login", "port"],
        "relabeling": {"password": "API key", "host": "API address"},
        "placeholders": {"host": DEFAULT_URL, "password": "rpa_..."},
    }


def build_connection_type() -> dict[str, object]:
    """Return the entry of ``connection-types`` in Airflow's provider information."""
    behaviour = build_field_behaviour()
    return {
        "connection-type": CONNECTION_TYPE,
        "hook-class-name": _HOOK,
        "hook-name": HOOK_NAME,
        "ui-field-behaviour": {
            "hidden-fields": behaviour["hidden_fields"],
            "relabeling": behaviour["relabeling"],
            "placeholders": behaviour["placeholders"],
        },
        "conn-fields": {
            "balance_warning_usd": {
                "label": "Warn under this balance",
                "description": "USD; admins get a mail when less is left on the account.",
                "schema": {"type": ["number", "null"], "default": 50},
            },
            "timeout_seconds": {
                "label": "Timeout",
                "description": "Longest wait for one answer, seconds.",
                "schema": {"type": ["number", "null"], "default": 30},
            },
        },
    }


def get_provider_info() -> dict[str, object]:
    """Return Touchstone's provider information, for the entry point ``apache_airflow_provider``."""
    return {
        "package-name": "touchstone",
        "name": "Touchstone",
        "description": "Validates, trains and judges prediction models.",
        "connection-types": [build_connection_type()],
    }
