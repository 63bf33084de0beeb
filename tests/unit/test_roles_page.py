"""The page about roles tells exactly what ``touchstone init roles`` gives them."""

from __future__ import annotations

import re
from pathlib import Path

from touchstone.core.roles import ADMIN, USER

PAGE = (Path(__file__).parents[2] / "docs/deployment.md").read_text(encoding="utf-8")


def build_table() -> list[str]:
    """Return the rows of the page's table."""
    user, admin = USER.list_resources(), ADMIN.list_resources()
    return [
        f"| {name} | {tell(user.get(name, ()))} | {tell(admin.get(name, ()))} |"
        for name in sorted({*user, *admin})
    ]


def tell(actions: tuple[str, ...]) -> str:
    return ", ".join(f"`{each}`" for each in actions)


def test_the_table_has_each_permission_and_no_other():
    section = PAGE[PAGE.index("## Logins and roles") :]
    found = re.findall(r"^\| .* \|$", section[: section.index("\n## ", 4)], re.MULTILINE)
    head = found.index("| resource | `touchstone_user` | `touchstone_admin` |")

    assert found[head + 1 : head + 2 + len(build_table())] == build_table()


def test_a_user_may_nothing_that_shows_or_changes_others_work():
    """Written out, so that a permission is given on purpose."""
    assert {each for each in USER.permissions if each.action != "can_read"} == {
        ("can_create", "Touchstone Submissions"),
        ("can_edit", "My Profile"),
        ("can_edit", "My Password"),
    }
    assert {each.resource for each in USER.permissions if each.action == "can_read"} == {
        *("Website", "Plugins", "My Profile", "My Password"),
    }


def test_an_admin_has_no_secrets_and_no_form_of_airflows():
    resources = ADMIN.list_resources()
    assert {
        "Connections",
        "Variables",
        "Configurations",
        "Users",
        "Roles",
    } & resources.keys() == set()
    assert "can_create" not in resources["DAG Runs"]
    assert not [each for each in ADMIN.permissions if each.action == "can_delete"]
    assert USER.permissions < ADMIN.permissions
