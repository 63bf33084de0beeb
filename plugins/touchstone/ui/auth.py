"""
Airflow's simple auth manager, with engineers who may start runs and look, and change nothing else.

In Airflow's own the role ``user`` may pause every DAG, and clear, mark and delete everybody's runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import (
    SimpleAuthManager,
    SimpleAuthManagerRole,
)

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod
    from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

ENGINEERS_MAY: Final = frozenset(
    {
        ("POST", DagAccessEntity.RUN),  # trigger
        ("PUT", DagAccessEntity.HITL_DETAIL),  # answer what they are asked
    }
)
"""What the role ``user`` may change of DAGs; the roles ``op`` and ``admin`` may change all."""


class TouchstoneAuthManager(SimpleAuthManager):
    """Users and roles as in :class:`SimpleAuthManager`, but for what ``user`` may do to DAGs."""

    def is_authorized_dag(
        self,
        *,
        method: ResourceMethod,
        user: SimpleAuthManagerUser,
        access_entity: DagAccessEntity | None = None,
        details: DagDetails | None = None,
    ) -> bool:
        """Tell whether a user may do something to a DAG, or to a part of one."""
        is_allowed = super().is_authorized_dag(
            method=method, user=user, access_entity=access_entity, details=details
        )
        if not is_allowed or method == "GET" or (method, access_entity) in ENGINEERS_MAY:
            return is_allowed
        is_operator: bool = self._is_authorized(
            method=method,
            allow_role=SimpleAuthManagerRole.OP,
            user=user,
            team_name=details.team_name if details else None,
        )
        return is_operator
