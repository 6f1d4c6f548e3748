from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpauthx_async.cli.text import Page, columns, cut, table, visible, wrap

TEXTS = st.text(st.characters()) | st.text(
    "aé中😀 \\\n\x1b\u202e\u2066\u200d\ufe0f\u0301❤", max_size=200
)
ENCODINGS = st.sampled_from(["utf-8", "ascii", "latin-1", "gbk"])


@given(TEXTS, st.integers(0, 100), ENCODINGS)
def test_any_text_gives_one_printable_line_of_the_width_at_most(
    text: str, width: int, encoding: str
) -> None:
    line = cut(text, width, encoding)
    assert line.isprintable()
    assert columns(line) <= width
    assert line.encode(encoding).decode(encoding) == line


@given(TEXTS, st.integers(20, 100), ENCODINGS)
def test_wrapped_text_keeps_to_its_width_and_loses_nothing(
    text: str, width: int, encoding: str
) -> None:
    lines = wrap(text, width, encoding)
    assert all(line.isprintable() and columns(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == visible(text, encoding).replace(" ", "")


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1), ENCODINGS)
def test_a_table_has_a_line_of_80_columns_at_most_for_each_row(
    rows: list[tuple[str, ...]], encoding: str
) -> None:
    lines = table(rows, encoding)
    assert len(lines) == len(rows)
    assert all(line.isprintable() and columns(line) <= 80 for line in lines)


@given(st.text(st.characters()))
def test_no_heap_of_marks_covers_other_lines(text: str) -> None:
    marks = 2  # the line begins with no mark
    for char in visible(text):
        marks = marks + 1 if category(char) in ("Mn", "Me") else 0
        assert marks <= 2


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("iPhone 15 Pro", "iPhone 15 Pro"),
        ("小米 14", "小米 14"),
        ("a\nb\r\tc\0", "a\\nb\\r\\tc\\x00"),
        ("\x1b[31mred\x9b", "\\x1b[31mred\\x9b"),
        ("a\u202eb\u2066\u2069\u2028", "a\\u202eb\\u2066\\u2069\\u2028"),
        ("\\n", "\\\\n"),
        ("\ud800", "\\ud800"),
        ("ที่", "ที่"),
        ("\u0301a", "\\u0301a"),
    ],
)
def test_what_a_terminal_would_act_upon_is_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("shown", "width"),
    [("", 0), ("abc", 3), ("小米", 4), ("😀", 2), ("u\u0308", 1), ("❤", 1), ("❤\ufe0f", 2)],
)
def test_wide_characters_and_emoji_take_two_columns(shown: str, width: int) -> None:
    assert columns(shown) == width


def test_what_the_terminal_cannot_show_is_escaped() -> None:
    assert visible("é中", "latin-1") == "é\\u4e2d"


def test_a_long_text_loses_its_middle() -> None:
    assert cut("abcdefghijklmnop", 9) == "abc...nop"
    assert cut("小米小米小米", 9) == "小米...米"
    assert cut("abc", 2) == ".."


def test_lines_break_at_spaces_where_they_can() -> None:
    assert wrap("she sold spam, and more spam", 20) == ["she sold spam, and", "more spam"]
    assert wrap("x" * 30, 20) == ["x" * 20, "x" * 10]


def test_columns_stand_below_each_other() -> None:
    rows = [("NAME", "KIND", "NOTE"), ("小米", "phone", ""), ("a", "-", "n" * 200)]
    header, first, second = table(rows)
    assert header == "NAME  KIND   NOTE"
    assert first == "小米  phone"
    assert second.startswith("a     -      nnn")
    assert columns(second) == 80


def test_times_tell_when_and_how_far_from_now() -> None:
    page = Page("utf-8", clock=lambda: 1_700_000_000.0)
    now = 1_700_000_000_000
    distances = {0: "now", -400: "now", 1000: "in 1s", -180_000: "3m ago"}
    distances |= {7_200_000: "in 2h", -172_800_000: "2d ago", 172_799_000: "in 48h"}
    assert {away: page.distance(now + away) for away in distances} == distances
    assert page.time(10**18) == page.minute(10**18) == str(10**18)
    assert page.time(now).startswith(page.minute(now))
