import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpauthx_async.cli.text import Times, columns, cut, visible

TEXTS = st.text(st.characters()) | st.text(
    "aé中😀 \\\n\x1b\u202e\u2066\u200d\ufe0f\u0301❤", max_size=200
)
ENCODINGS = st.sampled_from(["utf-8", "ascii", "latin-1", "gbk"])


@given(TEXTS, st.integers(3, 100), ENCODINGS)
def test_any_text_gives_one_printable_line_of_the_width_at_most(
    text: str, width: int, encoding: str
) -> None:
    line = cut(visible(text, encoding), width)
    assert line.isprintable()
    assert columns(line) <= width
    assert line.encode(encoding).decode(encoding) == line


@given(TEXTS, ENCODINGS)
def test_visible_text_stays_as_it_is(text: str, encoding: str) -> None:
    shown = visible(text, encoding)
    assert visible(shown, encoding) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("iPhone 15 Pro", "iPhone 15 Pro"),
        ("小米 14", "小米 14"),
        ("a\nb\r\tc\0", "a\\nb\\r\\tc\\x00"),
        ("\x1b[31mred\x9b", "\\x1b[31mred\\x9b"),
        ("a\u202eb\u2066\u2069\u2028", "a\\u202eb\\u2066\\u2069\\u2028"),
        ("\ud800", "\\ud800"),
        ("ที่", "ที่"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(("shown", "width"), [("", 0), ("abc", 3), ("小米", 4), ("😀", 2)])
def test_wide_characters_and_emoji_take_two_columns(shown: str, width: int) -> None:
    assert columns(shown) == width


def test_what_the_encoding_does_not_have_is_escaped() -> None:
    assert visible("é中", "latin-1") == "é\\u4e2d"


def test_a_long_text_is_cut() -> None:
    assert cut("abcdefghijklmnop", 9) == "abcdef..."
    assert cut("小米小米小米", 10) == "小米小..."
    assert cut("abcdefghi", 9) == "abcdefghi"


def test_times_and_their_distance_from_now() -> None:
    times = Times(clock=lambda: 1_700_000_000.0)
    now = 1_700_000_000_000
    distances = {0: "now", -400: "now", 1000: "in 1s", -180_000: "3m ago"}
    distances |= {7_200_000: "in 2h", -172_800_000: "2d ago", 172_799_000: "in 48h"}
    assert {away: times.distance(now + away) for away in distances} == distances
    assert times.moment(now) == f"{times.time(now)} (now)"
