"""When Python's collector looks for garbage, in the processes that import all of Airflow."""

from __future__ import annotations

import gc

COLLECT_AFTER = 50_000
"""New objects after which the collector looks at them; Python's own 700 are for small heaps."""


def collect_seldom() -> None:
    """
    Let the collector come after many new objects, as from now.

    Importing Airflow makes half a million objects that all stay. Looking through them again and
    again takes a fifth of the time of the import.
    """
    gc.set_threshold(COLLECT_AFTER)


def spare_collector() -> None:
    """
    Keep the collector away from what was imported, and from coming several times a round.

    Looking through all of Airflow takes it 0.3 s; and a round over thousands of tasks makes tens
    of thousands of objects, hardly a cycle among them. To be called when Airflow's tables have been
    used once, which imports the better half of it.
    """
    gc.collect()
    gc.freeze()
    collect_seldom()
