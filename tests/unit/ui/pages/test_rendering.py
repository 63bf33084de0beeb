from __future__ import annotations

from datetime import timedelta

import pytest

from fakes.api import NOW
from touchstone.client.answers import ShownBeside, ShownFigure, ShownTask
from touchstone.client.beside import describe_beside
from touchstone.client.tables import format_money
from touchstone.pages.rendering import (
    find_kind,
    keep_web_address,
    mark_code,
    parse_moment,
    tell_ago,
    tell_duration,
)
from touchstone.pages.whiskers import WIDTH, build_whiskers


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("success", "good"),
        ("running", "busy"),
        ("error", "bad"),
        ("silent 4:10", "bad"),
        ("low: $3.00", "warn"),
        ("not distinguishable", "idle"),
        (None, "idle"),
        ("", "idle"),
        ('x" onclick="', "idle"),
    ],
)
def test_a_chip_has_one_of_a_few_kinds(status, kind):
    assert find_kind(status) == kind


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (0, "0 s ago"),
        (59, "59 s ago"),
        (60, "1 min ago"),
        (7_199, "1 h ago"),
        (86_400 * 40, "40 d ago"),
        (-90, "in 1 min"),
    ],
)
def test_times_are_told_from_now(seconds, told):
    assert tell_ago(NOW - timedelta(seconds=seconds), NOW) == told


@pytest.mark.parametrize("value", [None, "", "yesterday", 5, {}])
def test_what_is_no_time_is_none(value):
    assert parse_moment(value) is None


def test_a_time_without_a_zone_is_utc():
    moment = parse_moment("2026-11-30T12:00:00")

    assert moment == parse_moment("2026-11-30T13:00:00+01:00")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("0.1234", "$0.12"),
        ("0.125000", "$0.13"),
        ("1234.5", "$1,234.50"),
        ("-3.5", "-$3.50"),
        ("-0.001", "$0.00"),
        ("x", "n/a"),
        (None, "n/a"),
        ("nan", "n/a"),
        ("inf", "n/a"),
        ("1e999999", "n/a"),
    ],
)
def test_money_is_told_to_the_cent(value, told):
    assert format_money(value) == told


@pytest.mark.parametrize(
    ("text", "html"),
    [
        (
            "try `touchstone init`, then `up`",
            "try <code>touchstone init</code>, then <code>up</code>",
        ),
        ('`<script>` & "x"', "<code>&lt;script&gt;</code> &amp; &#34;x&#34;"),
        ("<b>`</b>`", "&lt;b&gt;<code>&lt;/b&gt;</code>"),
        ("one ` alone", "one ` alone"),
        ("``", "``"),
        ("first `line\nsecond` line", "first `line"),
        (None, ""),
    ],
)
def test_what_a_message_says_to_type_is_code_and_the_rest_is_text(text, html):
    assert str(mark_code(text)) == html


@pytest.mark.parametrize(
    ("began", "ended", "told"),
    [
        ("2026-11-30T12:00:00+00:00", "2026-11-30T13:02:03.9+00:00", "1:02:04"),
        ("2026-11-30T12:00:00+00:00", "2026-11-30T11:00:00+00:00", "0:00"),
        ("2026-11-30T12:00:00+00:00", None, ""),
        (None, "2026-11-30T12:00:00+00:00", ""),
        ("yesterday", "today", ""),
    ],
)
def test_what_an_ended_task_took_is_told(began, ended, told):
    task = ShownTask(task_id="i1", running_at=began, ended_at=ended)

    assert tell_duration(task) == told


def test_figures_that_are_missing_for_one_reason_are_one_fact():
    missing = ShownFigure(value=None, note="it was compared with nothing")
    own = ShownFigure(value=None, note="no entry came before it")
    names = ("similarity", "adds", "share", "deflated Sharpe", "overfitting")
    fields = ("similarity", "contribution", "contributivity", "deflated_sharpe", "overfitting")
    shown = ShownBeside(
        **dict.fromkeys(fields, missing), nearest=own, leading=ShownFigure(value=0.5)
    )

    assert describe_beside(shown) == {
        ", ".join(names): "n/a: it was compared with nothing",
        "most like": "n/a: no entry came before it",
        "leading group": "in it, p 0.50",
    }


@pytest.mark.parametrize(
    ("address", "kept"),
    [
        ("https://m.example/a?b=1#c", True),
        ("http://127.0.0.1:5000/", True),
        ("javascript:alert(1)", False),
        (" javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("//m.example", False),
        ("https:///x", False),
        ("http://[", False),
        (None, False),
    ],
)
def test_only_addresses_of_the_web_are_followed(address, kept):
    assert keep_web_address(address) == (address if kept else None)


def test_whiskers_stand_on_one_scale_that_shows_zero():
    first, second = build_whiskers([(0.5, 1.0, 1.5), (-0.5, 0.0, 0.5)])

    assert first is not None
    assert second is not None
    assert first.zero == second.zero == second.middle
    assert 0 < second.low < second.middle < second.high == first.low < first.high < WIDTH


@pytest.mark.parametrize(
    "interval",
    [
        (None, 0.0, 1.0),
        (0.0, None, 1.0),
        (0.0, 1.0, None),
        (float("nan"), 0.0, 1.0),
        (0.0, 1.0, float("inf")),
        (1.0, 0.0, 2.0),
    ],
)
def test_what_is_no_interval_has_no_whisker(interval):
    assert build_whiskers([interval]) == [None]


def test_equal_ends_do_not_divide_by_zero():
    (whisker,) = build_whiskers([(0.0, 0.0, 0.0)])

    assert whisker is not None
    assert whisker.low == whisker.high == whisker.zero
