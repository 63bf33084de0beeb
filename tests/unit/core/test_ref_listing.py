"""What git lists of a repository, as it is offered to people."""

from __future__ import annotations

from touchstone.core.refs import parse_listing

ONE, TWO, THREE = ("1" * 40, "2" * 40, "3" * 40)


def test_the_default_branch_is_first_and_the_last_tags_before_the_first():
    text = "\n".join(
        (
            "ref: refs/heads/main\tHEAD",
            f"{ONE}\tHEAD",
            f"{TWO}\trefs/heads/alpha",
            f"{ONE}\trefs/heads/main",
            f"{TWO}\trefs/tags/v1",
            f"{THREE}\trefs/tags/v2",
            f"{ONE}\trefs/tags/v2^{{}}",
        )
    )

    found = parse_listing(text)

    assert found.default == "refs/heads/main"
    assert found.names == ["refs/heads/main", "refs/heads/alpha", "refs/tags/v2", "refs/tags/v1"]
    assert found.find_commit("refs/tags/v2") == ONE, "what an annotated tag stands for"
    assert found.find_commit("refs/tags/v1") == TWO
    assert found.find_commit("refs/heads/none") is None


def test_what_no_form_could_send_is_left_out():
    odd = ["\x1b[31m", "a\u202eb", "x" * 300, "..", "a b", "<b>\x00"]
    text = "\n".join(f"{ONE}\trefs/heads/{each}" for each in [*odd, "<b>", "fine"])

    found = parse_listing(text + f"\nnonsense\trefs/heads/x\n{ONE}\trefs/pull/1/head\n{ONE}\n\t\n")

    assert found.names == ["refs/heads/<b>", "refs/heads/fine"]
    assert found.default is None
