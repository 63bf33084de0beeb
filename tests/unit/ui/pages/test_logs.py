"""A task's console: its end at first, what is new behind it, and all of it as a file."""

from __future__ import annotations

import re

import pytest

from fakes.outline import assert_harmless, look
from touchstone.ui.console import PAGE_BYTES
from touchstone_agent.protocol.messages import MAX_CHUNK_BYTES

ADDRESS = "/submissions/s-1/tasks/i5/log"


def list_lines(answer):
    """Return the lines that are shown, by their ids."""
    found = re.findall(r"<li id=\"L(\d+)\"[^>]*><a [^>]*></a>(.*?)</li>", answer.text)
    return {int(number): re.sub("<[^>]*>", "", text) for number, text in found}


def read_live(answer):
    """Return what the script reads of a page."""
    (element,) = re.findall(r"<div id=\"live\"([^>]*)>", answer.text)
    return dict(re.findall(r" data-(\w+)(?:=\"([^\"]*)\")?", element))


def follow(client, answer):
    """Ask for what is new, as the script does."""
    live = read_live(answer)
    return client.get(ADDRESS, params={"attempt": live["attempt"], "offset": live["next"]})


def test_what_is_new_is_asked_for_and_a_line_without_end_comes_again_as_a_whole(engineer, console):
    console("one\ntw")
    first = engineer.get(ADDRESS)
    console("o\nthree\n")

    second = follow(engineer, first)

    assert list_lines(first) == {1: "one", 2: "tw"}
    assert "open" in read_live(first)
    assert list_lines(second) == {1: "two", 2: "three"}
    assert "open" not in read_live(second)
    assert list_lines(follow(engineer, second)) == {}
    assert "data-live" in first.text
    assert "data-live" not in second.text, "a piece that somebody has gone to stays as it is"


def test_of_a_long_console_the_end_is_shown_from_a_whole_line_on(engineer, console):
    line = "x" * 99 + "\n"
    for _ in range(2 * PAGE_BYTES // MAX_CHUNK_BYTES + 1):
        console(line * (MAX_CHUNK_BYTES // 100))
    console("the end\n")

    shown = engineer.get(ADDRESS)
    links = look(shown).links()
    begin = int(read_live(shown)["begin"])

    assert begin % 100 == 0
    assert list_lines(shown)[1] == "x" * 99
    assert list(list_lines(shown).values())[-1] == "the end"
    assert "?attempt=1-1&offset=0" in links
    beginning = engineer.get(ADDRESS, params={"offset": 0})
    assert f"?attempt=1-1&offset={PAGE_BYTES // 100 * 100}" in look(beginning).links()
    assert list_lines(engineer.get(ADDRESS, params={"offset": begin})) == list_lines(shown)


def test_a_line_that_is_longer_than_a_page_does_not_stop_who_reads_on(engineer, console):
    for _ in range(PAGE_BYTES // MAX_CHUNK_BYTES + 1):
        console("x" * MAX_CHUNK_BYTES)

    shown = engineer.get(ADDRESS, params={"offset": 0})

    assert f"?attempt=1-1&offset={PAGE_BYTES}" in look(shown).links()


def test_bytes_that_are_no_text_are_counted_as_they_are(engineer, console):
    console(b"\xff\xfe\n\xe2\x82")
    first = engineer.get(ADDRESS)
    console(b"\xac\n")

    assert read_live(first)["next"] == "3"
    assert list_lines(follow(engineer, first)) == {1: "\u20ac"}


def test_the_download_is_the_console_byte_for_byte_and_tells_of_gaps(
    engineer, console, objects, settings
):
    console(b"\x1b[31mone\xff\n")
    console("two\n")

    answer = engineer.get(f"{ADDRESS}.txt")

    assert answer.content == b"\x1b[31mone\xff\ntwo\n"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="s-1-i5-1-1.log"'


def test_an_attempt_that_is_not_there_has_no_console(engineer, console):
    console("one\n")

    for address in (ADDRESS, f"{ADDRESS}.txt"):
        assert engineer.get(address, params={"attempt": "9-9"}).status_code == 404
        assert engineer.get(address, params={"attempt": "../x"}).status_code == 422
    assert engineer.get(f"{ADDRESS}.txt", params={"attempt": "1-1"}).status_code == 200


def test_what_is_searched_for_and_the_first_error_are_linked_to(engineer, console):
    console("a\nValueError: no\nb <q>\nAn error\n")

    shown = engineer.get(ADDRESS, params={"find": "ERROR"})

    assert "2 lines shown here contain" in shown.text
    assert look(shown).links().count("#L2") == 3, "its number, the first error, and what was found"
    assert look(shown).forms[f"{ADDRESS}"] == [("attempt", "1-1"), ("find", "ERROR")]
    assert "0 lines shown here contain" in engineer.get(ADDRESS, params={"find": "zzz"}).text
    assert engineer.get(ADDRESS, params={"find": "x" * 201}).status_code == 422


@pytest.mark.parametrize("offset", [None, 0])
def test_a_console_of_newlines_alone_is_shown_in_bounds(engineer, console, offset):
    for _ in range(PAGE_BYTES // MAX_CHUNK_BYTES):
        console("\n" * MAX_CHUNK_BYTES)

    shown = engineer.get(ADDRESS, params={} if offset is None else {"offset": offset})

    assert len(list_lines(shown)) == 20_000
    assert "are left out; the download has them" in shown.text


def test_colours_and_markup_of_a_console_are_neither_markup_nor_style(engineer, console):
    hostile = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    console(f"\x1b[31m{hostile}\x1b[0m{hostile}\n")

    shown = engineer.get(ADDRESS, params={"find": hostile})

    assert_harmless(shown)
    assert '<span class="a1">&lt;script&gt;' in shown.text


def test_admins_are_told_how_to_enter_what_runs_and_nobody_else_is(
    login, engineer, make_submission, make_task
):
    make_submission()
    make_task(container="touchstone-i5", server="rio")
    make_task(task_id="i20", status="preparing")
    make_task(task_id="i1", container="touchstone-i1", server="rio", status="success")

    told = "docker exec -ti touchstone-i5 bash  # on server rio"
    admin = login("chief", "admin")
    assert told in admin.get(ADDRESS).text
    for ended_or_early in ("i1", "i20"):
        assert "docker exec" not in admin.get(ADDRESS.replace("i5", ended_or_early)).text
    assert "docker exec" not in login("engineer").get(ADDRESS).text


def test_what_an_attempt_was_told_and_has_used_stands_beside_its_console(
    engineer, make_submission, make_task
):
    make_submission()
    make_task(
        container="touchstone-i5",
        image="trainer:1",
        image_digest="sha256:abc",
        intent_at="2026-11-29T11:00:00+00:00",
        exit_code=3,
        failure_class="user",
        verdict={"usage": {"cpu_seconds": 3725.4, "peak_memory_bytes": 3 * 2**29}},
        placement={"server": "rio", "reason": "<b>free</b> `slot`", "at": "2026-11-29T11:00:00Z"},
    )

    shown = engineer.get(ADDRESS)

    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", shown.text))
    assert facts["decided"].startswith("2026-11-29 11:00:00 UTC")
    assert facts["placed there"] == "&lt;b&gt;free&lt;/b&gt; <code>slot</code>"
    assert (facts["container"], facts["image"]) == ("touchstone-i5", "trainer:1 (sha256:abc)")
    assert (facts["exit code"], facts["failure"]) == ("3", "user")
    assert (facts["CPU time"], facts["most memory"]) == ("1:02:05", "1.50 GiB")
    assert (facts["interval"], facts["seed"]) == ("5", "0")
    assert "None" not in facts.values()
    assert "" not in facts.values()
    assert_harmless(shown)


def test_an_attempt_of_which_nothing_is_known_has_no_facts_that_are_empty(
    engineer, make_submission, make_task
):
    make_submission()
    make_task(verdict={"usage": None}, running_at=None)

    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", engineer.get(ADDRESS).text))

    assert {"CPU time", "most memory", "container", "failure"} & set(facts) == set()
    assert "" not in facts.values()
