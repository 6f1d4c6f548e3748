"""The oracle reports each kind of violation in histories that are made up, and nothing else."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.oracle import Call, Issued, Kind, Oracle, Outcome, Row, Token

FIRST, SECOND, OTHER = Token("n1", 0), Token("n1", 1), Token("n2", 0)
BOUND, GRACE = 2.0, 1.0


def login(
    at: float, token: Token = FIRST, *, is_new: bool = False, version: int | None = None
) -> Call:
    return call(Kind.LOGIN, at, issued=Issued(token, is_new), version=version)


def call(kind: Kind, at: float, token: Token | None = None, **more: Any) -> Call:
    return replace(Call(kind, 1, at, at + 0.5, token=token), **more)


def use(at: float, outcome: Outcome = Outcome.DONE, token: Token = FIRST) -> Call:
    return call(Kind.USE, at, token, outcome=outcome)


def rotate(at: float, **more: Any) -> Call:
    return call(Kind.ROTATE, at, FIRST, issued=Issued(SECOND), **more)


def listing(at: float, *nonces: str) -> Call:
    return call(Kind.SESSIONS, at, seen=frozenset(nonces))


def online(at: float, *persons: int) -> Call:
    return call(Kind.ONLINE, at, person=-1, seen=frozenset(persons))


def judge(
    history: Sequence[Call],
    windows: Sequence[tuple[float, float]] = (),
    row: Row | None = None,
    bound: float = BOUND,
) -> list[str]:
    oracle = Oracle(history, windows, bound=bound, grace=GRACE)
    return oracle.judge(None if row is None else {1: row})


INVALID, BANNED, UNKNOWN = Outcome.INVALID, Outcome.BANNED, Outcome.UNKNOWN
ENDINGS = [
    call(Kind.REVOKE, 1, FIRST),
    call(Kind.REVOKE_USER, 1),
    call(Kind.BAN, 1),
    call(Kind.FORGET, 1),
    call(Kind.REFRESH, 1, issued=Issued(OTHER)),
    rotate(1),
    use(1, INVALID),
]
ENDING_IDS = [ending.kind.value for ending in ENDINGS]


@pytest.mark.parametrize("ending", ENDINGS, ids=ENDING_IDS)
def test_reports_a_dead_token_that_is_accepted(ending: Call) -> None:
    late = "A dead token is accepted, 1.000 s beyond its bound"
    assert any(late in found for found in judge([login(0), ending, use(4.5)]))


@pytest.mark.parametrize("ending", ENDINGS[:-1], ids=ENDING_IDS[:-1])
def test_allows_what_a_near_cache_and_unknown_outcomes_allow(ending: Call) -> None:
    assert judge([login(0), ending, use(3.4)]) == []
    unknown = replace(ending, outcome=UNKNOWN, issued=None)
    assert judge([login(0), unknown, use(9)]) == []
    assert judge([login(0), unknown, use(9, INVALID)]) == []
    assert judge([login(0), ending, use(9)], windows=[(0.9, 1.1)]) == []


@pytest.mark.parametrize(
    ("violation", "history"),
    [
        ("A living token is called invalid", [login(0), use(1, INVALID)]),
        ("A living token is called invalid", [login(0), use(1, INVALID), call(Kind.BAN, 2)]),
        ("A living token is called invalid", [login(0), rotate(1), use(2, INVALID, SECOND)]),
        (
            "A living token is called invalid",
            [login(0), call(Kind.BAN, 0.6, outcome=Outcome.REFUSED), use(2, INVALID)],
        ),
        ("A dead token is accepted", [login(0), rotate(1), rotate(3)]),
        (
            "A session that had ended is listed",
            [login(0), call(Kind.REVOKE, 1, FIRST), listing(2, "n1")],
        ),
        ("A living session is not listed", [login(0), listing(1)]),
        ("A user with a living session is not online", [login(0), online(1)]),
        ("A banned user is let in", [call(Kind.BAN, 0), login(1)]),
        ("A banned user is let in", [call(Kind.UNBAN, 0), call(Kind.BAN, 1), login(2)]),
        ("A user who is not banned is refused", [call(Kind.LOGIN, 0, outcome=BANNED)]),
        (
            "A user who is not banned is refused",
            [call(Kind.BAN, 0), call(Kind.UNBAN, 1), call(Kind.LOGIN, 2, outcome=BANNED)],
        ),
        ("A user is new twice", [login(0, is_new=True), login(1, OTHER, is_new=True)]),
        (
            "A user is new more often",
            [
                login(0, is_new=True),
                call(Kind.FORGET, 0, end=9),
                *(login(i, Token(f"n{i}", 0), is_new=True) for i in range(1, 6)),
            ],
        ),
        (
            "A user who logged in is not known",
            [login(0), call(Kind.REFRESH, 1, outcome=Outcome.NOT_FOUND)],
        ),
    ],
)
def test_reports_a_violation(violation: str, history: Sequence[Call]) -> None:
    assert any(violation in found for found in judge(history))


@pytest.mark.parametrize(
    ("violation", "history", "row"),
    [
        ("A user has 2 rows", [login(0)], Row(2, None)),
        ("An acknowledged user is lost", [login(0)], Row(0, None)),
        ("An acknowledged user is lost", [call(Kind.FORGET, 0), login(1)], Row(0, None)),
        ("An acknowledged profile is lost", [login(0, version=1)], Row(1, None)),
        (
            "An acknowledged profile was undone",
            [login(0, version=1), login(1, OTHER, version=2)],
            Row(1, 1),
        ),
    ],
)
def test_reports_what_the_database_lost(violation: str, history: Sequence[Call], row: Row) -> None:
    (found,) = judge(history, row=row)
    assert found.startswith(violation)


@pytest.mark.parametrize(
    ("history", "row"),
    [
        ([login(0, version=1), call(Kind.FORGET, 1)], Row(0, None)),
        ([login(0, version=1), login(0.2, OTHER, version=2)], Row(1, 1)),
        ([login(0, is_new=True), call(Kind.FORGET, 1), login(2, OTHER, is_new=True)], Row(1, None)),
        (
            [call(Kind.BAN, 0), call(Kind.UNBAN, 1), login(2), use(3), listing(3, "n1")],
            Row(1, None),
        ),
        ([call(Kind.BAN, 0), call(Kind.LOGIN, 1, outcome=BANNED)], Row(1, None)),
        (
            [
                call(Kind.BAN, 0),
                call(Kind.FORGET, 1),
                call(Kind.UNBAN, 2),
                call(Kind.LOGIN, 3, outcome=BANNED),
            ],
            Row(1, None),
        ),
        ([login(0), rotate(1), use(2, INVALID), use(2, token=SECOND), rotate(2)], Row(1, None)),
        ([login(0), rotate(1), use(3, INVALID), use(4, INVALID, SECOND)], Row(1, None)),
        ([login(0), online(1, 1), use(2), call(Kind.REVOKE, 3, FIRST), online(4)], Row(1, None)),
    ],
)
def test_reports_nothing_of_what_is_allowed(history: Sequence[Call], row: Row) -> None:
    assert judge(history, row=row) == []


def test_allows_nothing_late_without_a_near_cache() -> None:
    assert len(judge([login(0), call(Kind.REVOKE, 1, FIRST), use(1.6)], bound=0)) == 1
