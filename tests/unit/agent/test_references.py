"""Names of images, taken apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.protocol.references import (
    drop_digest,
    find_pinned,
    name_by_content,
    parse_reference,
)

DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag"),
    [
        ("trainer", None, "trainer", "latest"),
        ("touchstone-elnigma:cpu", None, "touchstone-elnigma", "cpu"),
        ("team/trainer:1", None, "team/trainer", "1"),
        ("docker.io/busybox", "docker.io", "library/busybox", "latest"),
        ("index.docker.io/team/trainer:1", "docker.io", "team/trainer", "1"),
        ("localhost/trainer:1", "localhost", "trainer", "1"),
        ("127.0.0.1:5000/a/b/trainer:1", "127.0.0.1:5000", "a/b/trainer", "1"),
        ("REG.example/trainer:1", "reg.example", "trainer", "1"),
        ("[::1]:5000/trainer:1", "[::1]:5000", "trainer", "1"),
    ],
)
def test_a_name_says_where_an_image_is_only_by_a_host(text, registry, repository, tag):
    found = parse_reference(text)
    assert (found.registry, found.repository, found.tag) == (registry, repository, tag)
    again = parse_reference(found.pin(DIGEST))
    assert (again.registry, again.repository, again.tag) == (registry, repository, tag)
    assert again.digest == DIGEST


@pytest.mark.parametrize(
    "text",
    ["", " ", "a b", "https://reg.example/t:1", "reg.example/../t:1", "reg.example/T:1", "t:",
     "t@x", f"t@{DIGEST}x", "reg.example/", "user:secret@reg.example/t:1", "r.example/" + "a" * 600,
     "reg.example/t:1\n", "reg.example/t?x=1", "reg.example:99999999/t:1"],
)  # fmt: skip
def test_what_no_image_can_be_called_is_refused(text):
    with pytest.raises(ConfigurationError, match="is no name of an image"):
        parse_reference(text)


@given(st.text(max_size=700))
def test_no_text_is_too_strange(text):
    find_pinned(text)
    drop_digest(text)


def test_only_content_in_a_registry_is_pinned():
    assert find_pinned(f"reg.example/t:1@{DIGEST}").repository == "t"
    for other in ("reg.example/t:1", f"t:1@{DIGEST}", "t:1"):
        assert find_pinned(other) is None


def test_what_is_pinned_has_a_name_without_a_tag():
    assert name_by_content(f"reg.example/t:1@{DIGEST}") == f"reg.example/t@{DIGEST}"
    assert name_by_content("reg.example/t:1") == "reg.example/t:1"
    assert name_by_content("touchstone-elnigma:cpu") == "touchstone-elnigma:cpu"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"reg.example:5000/t:1@{DIGEST}", "reg.example:5000/t:1"),
        (f"reg.example:5000/t@{DIGEST}", f"reg.example:5000/t@{DIGEST}"),
        ("t:1", "t:1"),
        ("good/trainer:1@evil/trainer", "good/trainer:1@evil/trainer"),
    ],
)
def test_of_an_image_named_twice_the_tag_is_left(text, left):
    assert drop_digest(text) == left
