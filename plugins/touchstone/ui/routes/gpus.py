"""The GPU models that can be rented now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from touchstone.core.pods import GpuRow
from touchstone.hooks.cache import Cached
from touchstone.settings import get_settings

router = APIRouter()

CATALOGUE_SECONDS = 30.0
"""How old the list may be: RunPod counts who asks, and people ask again and again."""

Gpus = Callable[[], tuple[GpuRow, ...] | None]


@lru_cache(maxsize=1)
def get_gpus() -> Gpus:
    """Return what asks RunPod for this process; the answer is ``None`` without a connection."""

    def ask() -> tuple[GpuRow, ...] | None:
        from touchstone.hooks.pods.facts import find_hook

        hook = find_hook(get_settings().runpod)
        return None if hook is None else hook.list_gpus()

    return Cached(ask, seconds=CATALOGUE_SECONDS)


@router.get("/gpus")
def list_gpus(gpus: Annotated[Gpus, Depends(get_gpus)]) -> dict[str, Any]:
    """Return the GPU models of RunPod's live catalogue, cheapest first."""
    rows = gpus()
    return {
        "is_connected": rows is not None,
        "gpus": [_show(row) for row in rows or ()],
        "checked_at": (rows[0].checked_at if rows else datetime.now(UTC)).isoformat(),
    }


def _show(row: GpuRow) -> dict[str, Any]:
    shown = {
        key: str(value) if isinstance(value, Decimal) else value
        for key, value in asdict(row).items()
        if key != "checked_at"
    }
    return shown | {"is_available": row.is_available}
