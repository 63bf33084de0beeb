"""The two roles that Touchstone makes in Airflow's FAB auth manager, and what each may do. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

SUBMISSIONS: Final = "Touchstone Submissions"
"""A resource of ours: who may create it submits, whatever else of Airflow they may not see."""

DAG_ID: Final = "touchstone"
CLOSING_DAG_ID: Final = "touchstone_close_event"
FORWARD_DAG_ID: Final = "touchstone_forward"


class Permission(NamedTuple):
    """
    What FAB calls a permission.

    :param action: ``can_read``, ``can_create``, ``can_edit``, ``can_delete`` or ``menu_access``.
    :param resource: Of what.
    """

    action: str
    resource: str


@dataclass(frozen=True, kw_only=True)
class Role:
    """
    A role, and all that it may do: it is made to have exactly this.

    :param name: Its name in FAB.
    :param purpose: Whom it is for.
    :param permissions: What it may do in Airflow and in Touchstone.
    """

    name: str
    purpose: str
    permissions: frozenset[Permission]

    def list_resources(self) -> dict[str, tuple[str, ...]]:
        """Return the actions on each resource, both in order of their names."""
        names = sorted({each.resource for each in self.permissions})
        return {
            name: tuple(sorted(each.action for each in self.permissions if each.resource == name))
            for name in names
        }


def _allow(*actions: str, on: str) -> frozenset[Permission]:
    return frozenset(Permission(action, on) for action in actions)


_EVERYBODY: Final = frozenset().union(
    # FAB gives this one to every role by itself; Airflow's frame asks for it.
    _allow("can_read", on="Website"),
    # Airflow's navigation asks which plugins have pages, and with them for ours.
    _allow("can_read", on="Plugins"),
    _allow("can_read", "can_edit", on="My Profile"),
    _allow("can_read", "can_edit", on="My Password"),
    _allow("can_create", on=SUBMISSIONS),
)

USER: Final = Role(
    name="touchstone_user",
    purpose="submits, and sees, cancels and retracts own submissions",
    permissions=_EVERYBODY,
)

ADMIN: Final = Role(
    name="touchstone_admin",
    purpose="does the same for all submissions; queue, slots, fleet, events, data sets",
    permissions=_EVERYBODY.union(
        # Who may edit pools is an admin to Touchstone.
        _allow("can_read", "can_edit", "menu_access", on="Pools"),
        _allow("menu_access", on="Admin"),
        _allow("menu_access", on="Browse"),
        # Looks at runs and their logs, and clears and marks what is stuck.
        _allow("can_read", "menu_access", on="DAGs"),
        _allow("can_read", "can_edit", "menu_access", on="DAG Runs"),
        _allow("can_read", "can_edit", "menu_access", on="Task Instances"),
        _allow("can_read", on="Task Logs"),
        _allow("can_read", on="DAG Code"),
        _allow("can_read", on="DAG Versions"),
        _allow("can_read", on="DAG Warnings"),
        _allow("can_read", on="XComs"),
        _allow("can_read", on="ImportError"),
        _allow("can_read", on="HITL Detail"),
        # FAB asks for this of all who change anything of that DAG; it lets them pause it as well.
        _allow("can_edit", on=f"DAG:{DAG_ID}"),
        _allow("can_edit", on=f"DAG:{CLOSING_DAG_ID}"),
        # Closes events. Airflow's own form for submissions stays with Airflow's admins.
        _allow("can_create", on=f"DAG Run:{CLOSING_DAG_ID}"),
        # Looks at once for rows that came after models, or stops the looking.
        _allow("can_edit", on=f"DAG:{FORWARD_DAG_ID}"),
        _allow("can_create", on=f"DAG Run:{FORWARD_DAG_ID}"),
    ),
)

ROLES: Final = (USER, ADMIN)
