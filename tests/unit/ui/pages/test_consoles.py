from __future__ import annotations

import pytest

from touchstone.pages.consoles import MAX_HITS, MAX_LINE, MAX_LINES, Run, fold_piece


def show(text):
    return [line.text for line in fold_piece(text).lines]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("one\ntwo\n", ["one", "two"]),
        ("one\r\ntwo\r\n", ["one", "two"]),
        (" 10 %\r 50 %\r100 %\n", ["100 %"]),
        (" 10 %\r 50 %\r", [" 50 %"]),
        ("\x1b[31mred\x1b[0m and \x1b[1;38;5;200mpink\x1b[m\n", ["red and pink"]),
        ("\x1b]0;title\x07text\n", ["text"]),
        ("\x1b]8;;https://x.example\x1b\\link\x1b]8;;\x1b\\\n", ["link"]),
        ("\x1b[2J\x1b[Hcleared\n", ["cleared"]),
        ("a\x08\x00b\n", ["a\ufffd\ufffdb"]),
        ("\n\nx", ["", "", "x"]),
    ],
)
def test_a_console_is_what_a_terminal_shows_at_the_end(text, lines):
    assert show(text) == lines


def test_a_line_without_end_is_cut_and_says_so():
    (line,) = fold_piece("x" * (MAX_LINE + 1)).lines

    assert (len(line.text), line.is_cut) == (MAX_LINE, True)
    assert fold_piece("x" * MAX_LINE).lines[0].is_cut is False


@pytest.mark.parametrize(
    ("text", "is_error"),
    [
        ("Traceback (most recent call last):", True),
        ("ValueError: no", True),
        ("keras.errors.BadError: no", True),
        ("2026-11-30 ERROR trainer", True),
        ("epoch 1: error 0.5", False),
        ("errors: 0", False),
    ],
)
def test_lines_that_tell_of_an_error_are_marked(text, is_error):
    assert fold_piece(text).lines[0].is_error is is_error


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("\x1b[31mred\x1b[0m not", [[("red", "a1"), (" not", "")]]),
        ("a\x1b[1;32mb\x1b[22mc\x1b[md", [[("a", ""), ("b", "strong a2"), ("c", "a2"), ("d", "")]]),
        ("\x1b[34mone\ntwo\x1b[0m three", [[("one", "a4")], [("two", "a4"), (" three", "")]]),
        ("\x1b[91mbright\x1b[39m", [[("bright", "a1")]]),
        ("\x1b[38;5;196mof 256\x1b[38;2;0;250;0mtrue", [[("of 256", "a1"), ("true", "a2")]]),
        ("\x1b[30mblack\x1b[m", [[("black", "")]]),
        ("\x1b[31m\x1b[2Kx\x1b[1A\x1b[0m", [[("x", "a1")]]),
        ("\x1b[31mold\r\x1b[32mnew\x1b[0m", [[("new", "a2")]]),
        ("\x1b[;;;999mx", [[("x", "")]]),
    ],
)
def test_colours_of_a_terminal_are_classes(text, runs):
    found = [list(line.runs) for line in fold_piece(text).lines]

    assert found == [[Run(*run) for run in line] for line in runs]


def test_a_colour_does_not_hide_an_error_nor_what_is_searched_for():
    piece = fold_piece("fine\n\x1b[31mValue\x1b[1mError: no\x1b[0m\n", find="VALUEERROR")

    assert (piece.first_error, piece.hits, piece.hit_count) == (2, (2,), 1)


def test_of_many_lines_the_first_are_shown_or_the_last_where_it_is_the_end():
    text = "".join(f"{number}\n" for number in range(1, MAX_LINES + 4))

    first, last = fold_piece(text), fold_piece(text, is_tail=True)

    assert (first.lines[0].number, first.lines[-1].text, first.left_out) == (1, str(MAX_LINES), 3)
    assert (last.lines[0].number, last.lines[0].text, last.left_out) == (4, "4", 3)


def test_the_first_lines_that_contain_it_are_named_and_all_are_counted():
    piece = fold_piece("x\n" * (MAX_HITS + 5), find="X")

    assert (piece.hits[-1], len(piece.hits), piece.hit_count) == (MAX_HITS, MAX_HITS, MAX_HITS + 5)
    assert fold_piece("x\n").hit_count == 0


def test_a_line_of_colours_alone_is_looked_at_as_far_as_it_may_be():
    (line,) = fold_piece("\x1b[31m" * 10_000 + "x").lines

    assert (line.text, line.is_cut) == ("", True)
