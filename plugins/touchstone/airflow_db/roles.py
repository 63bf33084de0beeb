"""Roles of Airflow's FAB auth manager: the tables that only it has, written as a whole or not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from airflow.configuration import conf
from airflow.utils.session import create_session
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from touchstone.core.roles import Permission, Role
from touchstone_agent.protocol.errors import ConfigurationError, TransientError

if TYPE_CHECKING:
    from airflow.providers.fab.auth_manager.models import Permission as Row
    from sqlalchemy.orm import Session

FAB: Final = "airflow.providers.fab"


@dataclass(frozen=True, kw_only=True)
class EnsuredRole:
    """
    A role as it is now.

    :param name: Its name.
    :param is_new: Whether there was none of that name.
    :param given: Permissions that it did not have.
    :param taken: Permissions that somebody had given it, and that it has no more.
    """

    name: str
    is_new: bool
    given: frozenset[Permission]
    taken: frozenset[Permission]

    @property
    def has_changed(self) -> bool:
        """Tell whether anything was written."""
        return self.is_new or bool(self.given or self.taken)


def has_roles() -> bool:
    """Tell whether this installation's auth manager is FAB's, which keeps roles in tables."""
    from airflow.api_fastapi.app import get_auth_manager_cls

    if not conf.get("core", "auth_manager", fallback=""):
        return False
    return any(each.__module__.startswith(f"{FAB}.") for each in get_auth_manager_cls().__mro__)


def ensure_roles(roles: Sequence[Role]) -> list[EnsuredRole]:
    """
    Let roles be there, each with exactly its permissions; their users stay.

    :raises ConfigurationError: If the tables are not there.
    :raises TransientError: If the database does not answer.
    """
    try:
        try:
            return _ensure(roles)
        except IntegrityError:
            # Somebody else has made one of the rows at the same time: now it is found.
            return _ensure(roles)
    except ProgrammingError as error:
        raise ConfigurationError(
            "the tables of FAB's roles are not there: run `airflow db migrate`"
        ) from error
    except OperationalError as error:
        if "no such table" in str(error):
            raise ConfigurationError(
                "the tables of FAB's roles are not there: run `airflow db migrate`"
            ) from error
        raise TransientError("Airflow's database does not answer: try again") from error


def _ensure(roles: Sequence[Role]) -> list[EnsuredRole]:
    with create_session() as session:
        return [_ensure_role(session, role) for role in roles]


def _ensure_role(session: Session, wanted: Role) -> EnsuredRole:
    from airflow.providers.fab.auth_manager.models import Role as RoleRow

    row = session.scalars(select(RoleRow).filter_by(name=wanted.name)).unique().one_or_none()
    is_new = row is None
    if row is None:
        row = RoleRow(name=wanted.name, permissions=[])
        session.add(row)
    had = {_read(each): each for each in row.permissions}
    missing = wanted.permissions - had.keys()
    surplus = frozenset(had.keys() - wanted.permissions)
    if missing or surplus:
        kept = [each for key, each in had.items() if key not in surplus]
        row.permissions = [*kept, *_find_or_make(session, missing)]
    session.flush()
    return EnsuredRole(name=wanted.name, is_new=is_new, given=frozenset(missing), taken=surplus)


def _read(row: Row) -> Permission:
    return Permission(row.action.name, row.resource.name)


def _find_or_make(session: Session, wanted: Collection[Permission]) -> list[Row]:
    """Return the rows of permissions; FAB makes those of its own pages only when it first runs."""
    from airflow.providers.fab.auth_manager.models import Action, Resource
    from airflow.providers.fab.auth_manager.models import Permission as PermissionRow

    found = []
    for action_name, resource_name in sorted(wanted):
        action = session.scalars(select(Action).filter_by(name=action_name)).one_or_none()
        if action is None:
            action = Action(name=action_name)
        resource = session.scalars(select(Resource).filter_by(name=resource_name)).one_or_none()
        if resource is None:
            resource = Resource(name=resource_name)
        session.add_all([action, resource])
        session.flush()
        row = session.scalars(
            select(PermissionRow).filter_by(action_id=action.id, resource_id=resource.id)
        ).one_or_none()
        if row is None:
            row = PermissionRow(action=action, resource=resource)
            session.add(row)
        found.append(row)
    return found
