"""NearCache by itself: what it knows, what it forgets, and how much it holds."""

import tracemalloc
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mpauthx_async.stores.near_cache import MAX_SILENCE_SECONDS, NearCache
from tests.helpers.clock import Clock

SIZE = 4
NONCES = [f"{number:016}" for number in range(7)]
AHEAD = 1_000_000.0  # of the store's clock, in seconds
MAC = "A" * 27
nonces = st.sampled_from(NONCES)


def token_of(nonce: str, generation: int = 0) -> str:
    """The form of a token, which names its nonce."""
    return f"bob|shop|{nonce}{generation % 10}{MAC[1:]}"


@pytest.fixture
def clock() -> Clock:
    return Clock(50.0)


@pytest.fixture
def cache(clock: Clock) -> NearCache:
    """One that is open."""
    cache = NearCache(SIZE, clock)
    cache.open(clock.now + AHEAD, clock.now)
    return cache


def in_ms(clock: Clock, seconds: float) -> int:
    """When something ends that lives so long, by the store's clock, in milliseconds."""
    return round((clock.now + AHEAD + seconds) * 1000)


def keep(cache: NearCache, clock: Clock, nonce: str, seconds: float = 60) -> str:
    token = token_of(nonce)
    cache.keep(cache.expect(nonce), nonce, token, in_ms(clock, seconds))
    return token


# What it knows


def test_a_token_is_known_until_its_end_to_the_millisecond(cache: NearCache, clock: Clock) -> None:
    token = keep(cache, clock, NONCES[0], seconds=1)
    clock.now += 0.999
    assert cache.knows(token)
    clock.now += 0.001
    assert not cache.knows(token)


def test_a_token_ends_by_the_stores_clock_also_when_that_is_set(
    cache: NearCache, clock: Clock
) -> None:
    token = keep(cache, clock, NONCES[0], seconds=60)
    cache.synchronize(clock.now + AHEAD + 59, clock.now)
    assert cache.knows(token)
    cache.synchronize(clock.now + AHEAD + 60, clock.now)
    assert not cache.knows(token)
    cache.synchronize(clock.now + AHEAD, clock.now)
    assert cache.knows(token)


@pytest.mark.parametrize(
    "token", [None, "", 5, 2.5, b"bob", [], {}, set(), object(), "x" * 100_000, "\ud800", True, ()]
)
def test_what_is_no_token_is_not_known(cache: NearCache, clock: Clock, token: Any) -> None:
    keep(cache, clock, NONCES[0])
    assert cache.knows(token) is False


@pytest.mark.parametrize("end", [None, 0, -2, -4])
def test_a_token_that_is_not_good_is_not_kept_and_ends_the_one_before(
    cache: NearCache, clock: Clock, end: int | None
) -> None:
    token = keep(cache, clock, NONCES[0])
    cache.keep(cache.expect(NONCES[0]), NONCES[0], token_of(NONCES[0], 1), end)
    assert not cache.knows(token)
    assert len(cache) == 0


def test_a_session_has_one_token(cache: NearCache, clock: Clock) -> None:
    old, new = keep(cache, clock, NONCES[0]), token_of(NONCES[0], 1)
    cache.keep(cache.expect(NONCES[0]), NONCES[0], new, in_ms(clock, 60))
    assert (cache.knows(old), cache.knows(new), len(cache)) == (False, True, 1)


# What changes meanwhile


def test_an_answer_on_its_way_when_its_session_changed_is_not_kept(
    cache: NearCache, clock: Clock
) -> None:
    expected = cache.expect(NONCES[0])
    cache.forget(NONCES[0])
    cache.keep(expected, NONCES[0], token_of(NONCES[0]), in_ms(clock, 60))
    assert not cache.knows(token_of(NONCES[0]))


def test_an_answer_on_its_way_does_not_pass_for_that_to_a_later_question(
    cache: NearCache, clock: Clock
) -> None:
    early = cache.expect(NONCES[0])
    cache.forget(NONCES[0])
    late = cache.expect(NONCES[0])
    cache.keep(early, NONCES[0], token_of(NONCES[0]), in_ms(clock, 60))
    assert len(cache) == 0
    cache.keep(late, NONCES[0], token_of(NONCES[0], 1), in_ms(clock, 60))
    assert cache.knows(token_of(NONCES[0], 1))


def test_an_answer_on_its_way_when_the_cache_was_shut_is_not_kept(
    cache: NearCache, clock: Clock
) -> None:
    expected = cache.expect(NONCES[0])
    cache.shut()
    cache.keep(expected, NONCES[0], token_of(NONCES[0]), in_ms(clock, 60))
    cache.open(clock.now + AHEAD, clock.now)
    cache.keep(expected, NONCES[0], token_of(NONCES[0]), in_ms(clock, 60))
    assert len(cache) == 0


def test_a_cache_that_was_never_opened_keeps_nothing(clock: Clock) -> None:
    cache = NearCache(SIZE, clock)
    token = keep(cache, clock, NONCES[0])
    cache.open(clock.now + AHEAD, clock.now)
    assert not cache.knows(token)


def test_a_cache_whose_store_was_not_heard_of_is_not_used(cache: NearCache, clock: Clock) -> None:
    token, at = keep(cache, clock, NONCES[0]), clock.now
    clock.now = at + MAX_SILENCE_SECONDS
    assert not cache.knows(token)
    cache.synchronize(clock.now + AHEAD, clock.now)
    assert cache.knows(token)


# How much it holds


def test_the_least_recently_used_leaves_first(cache: NearCache, clock: Clock) -> None:
    tokens = [keep(cache, clock, nonce) for nonce in NONCES[:SIZE]]
    assert cache.knows(tokens[0])
    tokens.append(keep(cache, clock, NONCES[SIZE]))
    assert [cache.knows(token) for token in tokens] == [True, False, True, True, True]


def test_questions_that_are_never_answered_for_leave_nothing(
    cache: NearCache, clock: Clock
) -> None:
    for nonce in NONCES:
        cache.keep(cache.expect(nonce), nonce, token_of(nonce), None)
    assert (len(cache), cache._expected, cache._tokens) == (0, {}, {})


def test_ten_million_tokens_stay_within_the_bounds(clock: Clock) -> None:
    size, tokens = 1000, 10_000_000
    cache = NearCache(size, clock)
    cache.open(clock.now + AHEAD, clock.now)
    end, suffix = in_ms(clock, 60), MAC
    expect, keep_one = cache.expect, cache.keep

    def pass_through(numbers: range) -> None:
        for number in numbers:
            nonce = f"{number:016}"
            keep_one(expect(nonce), nonce, "bob|shop|" + nonce + suffix, end)

    pass_through(range(tokens - 20_000))
    assert len(cache) == size
    tracemalloc.start()
    try:
        pass_through(range(tokens - 20_000, tokens))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(cache), len(cache._tokens), cache._expected) == (size, size, {})
    assert held <= size * 1000  # bytes: all that it holds was made since
    assert cache.knows("bob|shop|" + f"{tokens - 1:016}" + suffix)


class Model(RuleBasedStateMachine):
    """Compares a cache with a simple one, whatever comes in whatever order."""

    @initialize()
    def begin(self) -> None:
        self.clock = Clock(50.0)
        self.cache = NearCache(SIZE, self.clock)
        self.is_open = False
        self.heard = 0.0
        self.questions = 0
        self.ahead = 0.0
        self.known: OrderedDict[str, tuple[str, int]] = OrderedDict()  # by nonce; least used first
        self.asked: list[tuple[str, object, int]] = []
        self.current: dict[str, int] = {}  # by nonce, the questions that no change overtook

    @rule(nonce=nonces)
    def ask(self, nonce: str) -> None:
        expected = self.cache.expect(nonce)
        assert (expected is not None) == self.is_open
        question = -1
        if self.is_open:  # who asks while another waits asks with them
            question = self.current.setdefault(nonce, self.questions)
            self.questions += 1
        self.asked.append((nonce, expected, question))

    @rule(
        data=st.data(),
        generation=st.integers(0, 2),
        seconds=st.one_of(st.none(), st.just(-1e9), st.floats(0.001, 5)),
    )
    def answer(self, data: st.DataObject, generation: int, seconds: float | None) -> None:
        if not self.asked:
            return
        nonce, expected, question = self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1)))
        end = None
        if seconds is not None:
            end = round((self.clock.now + self.ahead + seconds) * 1000) if seconds > 0 else -2
        token = token_of(nonce, generation)
        self.cache.keep(expected, nonce, token, end)
        if self.current.get(nonce) != question:
            return
        del self.current[nonce]
        self.known.pop(nonce, None)
        if end is not None and end > 0:
            self.known[nonce] = (token, end)
            if len(self.known) > SIZE:
                self.known.popitem(last=False)

    @rule(nonce=nonces)
    def change(self, nonce: str) -> None:
        self.cache.forget(nonce)
        self.known.pop(nonce, None)
        self.current.pop(nonce, None)

    @rule()
    def change_all(self) -> None:
        self.cache.forget_all()
        self.known.clear()
        self.current.clear()

    @rule(ahead=st.sampled_from([0.0, 1.0, AHEAD]))
    def open(self, ahead: float) -> None:
        self.cache.open(self.clock.now + ahead, self.clock.now)
        self.change_all()
        self.is_open, self.ahead, self.heard = True, ahead, self.clock.now

    @rule()
    def shut(self) -> None:
        self.cache.shut()
        self.change_all()
        self.is_open = False

    @rule(drift=st.floats(-0.5, 0.5))
    def hear(self, drift: float) -> None:
        if self.is_open:
            self.ahead += drift
            self.heard = self.clock.now
            self.cache.synchronize(self.clock.now + self.ahead, self.clock.now)

    @rule(seconds=st.floats(0, 1))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(nonce=nonces, generation=st.integers(0, 2))
    def use(self, nonce: str, generation: int) -> None:
        token = token_of(nonce, generation)
        known = self.known.get(nonce)
        left = None
        if known is not None and known[0] == token:
            left = known[1] / 1000 - self.ahead - self.clock.now
            trusted = self.heard + MAX_SILENCE_SECONDS - self.clock.now
            if min(abs(left), abs(trusted)) < 1e-3:
                return  # too close for floats
            left = min(left, trusted)
        is_known = left is not None and left > 0
        assert self.cache.knows(token) is is_known
        if is_known:
            self.known.move_to_end(nonce)

    @invariant()
    def holds_the_same_in_the_same_order(self) -> None:
        if hasattr(self, "cache"):
            assert list(self.cache._ends) == [token for token, _ in self.known.values()]
            assert self.cache._tokens == {nonce: token for nonce, (token, _) in self.known.items()}
            assert len(self.cache) <= SIZE


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=150, stateful_step_count=40)
