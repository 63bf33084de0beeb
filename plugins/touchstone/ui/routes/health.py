"""Whether the API answers, and what it takes the caller for."""

from __future__ import annotations

from fastapi import APIRouter

from touchstone.core.answers.common import Health
from touchstone.ui.dependencies import CallerDep, SettingsDep

router = APIRouter()


@router.get("/health")
def get_health(caller: CallerDep, settings: SettingsDep) -> Health:
    """Return that the API answers; touches no store."""
    return Health(
        status="ok",
        env=settings.env,
        user=caller.name,
        is_admin=caller.is_admin,
        may_submit=caller.may_submit,
    )
