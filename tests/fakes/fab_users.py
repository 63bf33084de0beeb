"""Users of Airflow's FAB auth manager, in memory: roles as its tables have them."""

from __future__ import annotations

from collections.abc import Iterable

from airflow.providers.fab.auth_manager.models import Action, Permission, Resource, Role, User
from airflow.providers.fab.auth_manager.security_manager.override import (
    FabAirflowSecurityManagerOverride,
)

from touchstone.core.roles import ROLES

PERMISSIONS = {
    **{each["role"]: each["perms"] for each in FabAirflowSecurityManagerOverride.ROLE_CONFIGS},
    **{each.name: each.permissions for each in ROLES},
}
"""What each role may do: Airflow's own, and ours."""


def build_user(name: str, roles: Iterable[str]) -> User:
    """Return a user who has some roles."""
    return User(
        id=1,
        username=name,
        first_name=name,
        last_name=name,
        email=f"{name}@example.com",
        active=True,
        roles=[_build_role(each) for each in roles],
    )


def _build_role(name: str) -> Role:
    return Role(
        name=name,
        permissions=[
            Permission(action=Action(name=action), resource=Resource(name=resource))
            for action, resource in PERMISSIONS[name]
        ],
    )
