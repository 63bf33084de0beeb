"""Names of refs: whatever git allows, and what is meant by one."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.core.refs import MAX_REF, check_ref, choose_ref, is_full_id, may_be_short_id

ODD = [
    "fix/#12-lookahead",
    "release(1)",
    "a,b=c",
    "wip!",
    "it's",
    'say-"hello"',
    "käse/größe",
    "v1.2+rc{3}",
    "100%",
    "a@b",
    "$HOME",
    "a;b&c|d",
]


@pytest.mark.parametrize("name", ODD)
def test_what_git_takes_for_a_branch_is_taken(name):
    assert check_ref(name) == name


@pytest.mark.parametrize(
    "name", ["main~1", "HEAD^", "main@{yesterday}", "a..b", "main:features.py"]
)
def test_an_expression_is_told_as_one(name):
    with pytest.raises(ValueError, match="is an expression that git computes a commit from; name"):
        check_ref(name)


@pytest.mark.parametrize(
    "name",
    ["-x", ".x", "x/", "/x", "x//y", "x.lock", "x.lock/y", "x y", "x\ty", "x\\y", "x?", "x*", "[x",
     "@", "x.", "x/.y", "x\x7f", "x\u2028y"],
)  # fmt: skip
def test_what_git_refuses_is_refused(name):
    with pytest.raises(ValueError, match="; name a branch, a tag or a commit"):
        check_ref(name)


def test_a_ref_is_bounded_and_not_empty():
    with pytest.raises(ValueError, match=f"longer than {MAX_REF} characters"):
        check_ref("x" * (MAX_REF + 1))
    with pytest.raises(ValueError, match="is empty; name a branch"):
        check_ref("")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_we_take_nothing_that_git_refuses(name):
    """Git's own word; what is not printable we refuse although git does not."""
    try:
        check_ref(name)
    except ValueError:
        return
    told = subprocess.run(
        ["git", "check-ref-format", f"refs/heads/{name}"], check=False, capture_output=True
    )
    assert told.returncode == 0


def test_a_name_is_that_of_a_branch_or_of_a_tag():
    found = {"refs/heads/main": "1", "refs/tags/v1": "2"}
    assert choose_ref("main", found) == "refs/heads/main"
    assert choose_ref("v1", found) == "refs/tags/v1"
    assert choose_ref("refs/tags/v1", found) == "refs/tags/v1"
    assert choose_ref("nope", found) is None
    assert choose_ref("refs/heads/nope", found) is None


def test_whoever_names_a_branch_and_a_tag_is_asked_which():
    with pytest.raises(
        ValueError, match=r"both a branch and a tag .*name refs/heads/x or refs/tags/x"
    ):
        choose_ref("x", {"refs/heads/x": "1", "refs/tags/x": "2"})


def test_a_branch_and_a_tag_of_one_commit_are_the_same():
    found = {"refs/heads/x": "1", "refs/tags/x": "2", "refs/tags/x^{}": "1"}
    assert choose_ref("x", found) == "refs/heads/x"


def test_ids_are_told_from_names():
    assert is_full_id("a" * 40)
    assert is_full_id("A" * 64)
    assert not is_full_id("a" * 39)
    assert may_be_short_id("cdbebed")
    assert not may_be_short_id("abc")
    assert not may_be_short_id("main")
