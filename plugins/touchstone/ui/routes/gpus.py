"""The GPU models that can be rented now."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated

from fastapi import APIRouter, Depends

from touchstone.cache import Cached
from touchstone.core.answers.gpus import GpuCatalogue, ListedGpu
from touchstone.core.offers import GpuRow
from touchstone.settings import get_settings

router = APIRouter()

CATALOGUE_SECONDS = 30.0
"""How old the list may be: RunPod counts who asks, and people ask again and again."""

Gpus = Callable[[], tuple[GpuRow, ...] | None]


@lru_cache(maxsize=1)
def get_gpus() -> Gpus:
    """Return what asks RunPod for this process; the answer is ``None`` without a connection."""

    def ask() -> tuple[GpuRow, ...] | None:
        from touchstone.services.pods.facts import find_hook

        hook = find_hook(get_settings().runpod)
        return None if hook is None else hook.list_gpus()

    return Cached(ask, seconds=CATALOGUE_SECONDS)


@router.get("/gpus")
def list_gpus(gpus: Annotated[Gpus, Depends(get_gpus)]) -> GpuCatalogue:
    """Return the GPU models of RunPod's live catalogue, cheapest first."""
    rows = gpus()
    return GpuCatalogue(
        is_connected=rows is not None,
        gpus=tuple(_show(row) for row in rows or ()),
        checked_at=(rows[0].checked_at if rows else datetime.now(UTC)).isoformat(),
    )


def _show(row: GpuRow) -> ListedGpu:
    secure, community = row.secure_price, row.community_price
    return ListedGpu(
        gpu=row.gpu,
        name=row.name,
        memory_gb=row.memory_gb,
        secure_price=None if secure is None else str(secure),
        community_price=None if community is None else str(community),
        secure_stock=row.secure_stock,
        community_stock=row.community_stock,
        is_available=row.is_available,
    )
