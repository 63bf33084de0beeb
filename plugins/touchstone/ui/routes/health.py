"""Whether the API answers, and what it takes the caller for."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from touchstone.ui.dependencies import CallerDep, SettingsDep

router = APIRouter()


@router.get("/health")
def get_health(caller: CallerDep, settings: SettingsDep) -> dict[str, Any]:
    """Return that the API answers; touches no store."""
    return {
        "status": "ok",
        "env": settings.env,
        "user": caller.name,
        "is_admin": caller.is_admin,
        "may_submit": caller.may_submit,
    }
