"""What Airflow's auth manager lets a user do in Touchstone, whichever auth manager it is."""

from __future__ import annotations

from airflow.api_fastapi.auth.managers.base_auth_manager import BaseAuthManager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

from touchstone.core.roles import DAG_ID, SUBMISSIONS

Authority = BaseAuthManager[BaseUser]


def is_admin(authority: Authority, user: BaseUser) -> bool:
    """Tell whether a user is an admin: a user who may edit pools decides what runs where."""
    return authority.is_authorized_pool(method="PUT", user=user)


def may_submit(authority: Authority, user: BaseUser) -> bool:
    """
    Tell whether a user may submit: who may start runs of the DAG in Airflow, or has our permission.

    The simple auth manager knows no permissions of others: it lets everybody have each of them.
    """
    may_trigger = authority.is_authorized_dag(
        method="POST",
        access_entity=DagAccessEntity.RUN,
        details=DagDetails(id=DAG_ID),
        user=user,
    )
    return may_trigger or (
        not isinstance(authority, SimpleAuthManager)
        and authority.is_authorized_custom_view(method="POST", resource_name=SUBMISSIONS, user=user)
    )


def is_known(user: BaseUser) -> bool:
    """Tell whether a user has logged in; FAB can let strangers in under a public role."""
    return not getattr(user, "is_anonymous", False)
