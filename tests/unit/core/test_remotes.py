"""Git URLs: what may be in them."""

from __future__ import annotations

import re

import pytest

from touchstone.core.remotes import SOURCE_PATTERN, Remote, is_allowed, parse_remote


@pytest.mark.parametrize(
    ("url", "remote"),
    [
        ("https://github.com/a/b", Remote(scheme="https", host="github.com")),
        ("https://GitHub.com:443/a/b.git", Remote(scheme="https", host="github.com")),
        ("https://h.example:8443/x", Remote(scheme="https", host="h.example", port=8443)),
        ("https://[::1]:8443/x", Remote(scheme="https", host="[::1]", port=8443)),
        ("git@github.com:a/b", Remote(scheme="ssh", host="github.com")),
        ("github.com:a/b", Remote(scheme="ssh", host="github.com")),
        ("ssh://git@h/x", Remote(scheme="ssh", host="h")),
        ("ssh://git@h:2222/x", Remote(scheme="ssh", host="h", port=2222)),
        ("/srv/my sets", Remote(scheme="file", host="")),
        ("file:///srv/sets", Remote(scheme="file", host="")),
    ],
)
def test_a_url_says_which_host_it_leads_to(url, remote):
    assert parse_remote(url) == remote
    assert re.search(SOURCE_PATTERN, url)


SECRET = "ghp_0123456789abcdefABCDEF0123456789abcd"


@pytest.mark.parametrize(
    "url",
    [
        f"https://{SECRET}@github.com/a/b",
        f"https://x-access-token:{SECRET}@github.com/a/b",
        f"https://oauth2:{SECRET}@gitlab.com/a/b",
        f"https://github.com/a/b?access_token={SECRET}",
        f"https://github.com/a/b#{SECRET}",
        f"https://a:b@c:{SECRET}@github.com/a/b",
        f"ssh://git:{SECRET}@github.com/a/b",
        f"ssh://{SECRET}@github.com/a/b",
        f"{SECRET}@github.com:a/b",
        f"http://{SECRET}@github.com/a/b",
        f"-https://{SECRET}@github.com/a/b",
    ],
)
def test_what_may_be_a_secret_is_refused_and_not_repeated(url):
    with pytest.raises(ValueError, match=r"on record|is not") as refused:
        parse_remote(url)

    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "",
        " https://h/x",
        "--upload-pack=touch /tmp/x",
        "ext::sh -c id",
        "git@h::x",
        "git://h/x",
        "http://h/x",
        "https://",
        "https:///x",
        "https://h:99999/x",
        "https://h:0/x",
        "https://h\\@evil/x",
        "https://h%40evil/x",
        "https://h x/y",
        "https://h/\x1b[2J",
        "https://h/" + "x" * 2000,
    ],
)
def test_what_git_or_a_host_could_misread_is_refused(url):
    with pytest.raises(ValueError, match=r"is (not|longer)|has no"):
        parse_remote(url)


def test_the_form_refuses_a_url_with_a_token_before_it_is_written_down():
    for url in (f"https://{SECRET}@h/x", f"https://u:{SECRET}@h/x", f"ssh://u:{SECRET}@h/x"):
        assert re.search(SOURCE_PATTERN, url) is None


@pytest.mark.parametrize(
    ("url", "patterns", "is_so"),
    [
        ("https://github.com/a", ["github.com"], True),
        ("git@github.com:a", ["github.com"], True),
        ("https://GITHUB.com/a", ["GitHub.com"], True),
        ("https://github.com:8443/a", ["github.com"], False),
        ("https://github.com:8443/a", ["github.com:8443"], True),
        ("https://github.com.evil.net/a", ["github.com"], False),
        ("https://git.example.org/a", ["*.example.org"], True),
        ("https://example.org/a", ["*.example.org"], False),
        ("https://127.0.0.1:9/a", ["*"], True),
        ("https://github.com/a", [], False),
    ],
)
def test_hosts_are_allowed_by_pattern_and_port(url, patterns, is_so):
    assert is_allowed(parse_remote(url), patterns) is is_so
