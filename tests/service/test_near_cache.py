"""NearCache by itself: what it knows, what it forgets, and how much it holds."""

import sys
import tracemalloc
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mpauthx_async import Identity
from mpauthx_async.stores.near_cache import MAX_SILENCE_SECONDS, NearCache, SharedNearCache
from tests.helpers.clock import Clock

SIZE = 4
NONCES = [f"{number:016}" for number in range(7)]
AHEAD = 1_000_000.0  # of the store's clock, in seconds
MAC = "A" * 27
SERVICES = range(2)
nonces = st.sampled_from(NONCES)
services = st.sampled_from(SERVICES)


def token_of(nonce: str, generation: int = 0) -> str:
    """The form of a token, which names its nonce."""
    return f"bob|shop|{nonce}{generation % 10}{MAC[1:]}"


def identity_of(token: str) -> Identity:
    user_id, sku, session = token.split("|")
    return Identity(user_id, session[:16], sku, token)


def knows(cache: NearCache, *tokens: str) -> list[bool]:
    """Which tokens it knows; each as the Identity that it was given."""
    found = [(token, cache.known(token)) for token in tokens]
    assert all(known is None or known == identity_of(token) for token, known in found)
    return [known is not None for _, known in found]


@pytest.fixture
def clock() -> Clock:
    return Clock(50.0)


@pytest.fixture
def cache(clock: Clock) -> NearCache:
    """One that is open."""
    cache = SharedNearCache(SIZE, clock).for_service()
    cache.shared.open(clock.now + AHEAD, clock.now)
    return cache


def in_ms(clock: Clock, seconds: float) -> int:
    """When something ends that lives so long, by the store's clock, in milliseconds."""
    return round((clock.now + AHEAD + seconds) * 1000)


def keep(cache: NearCache, clock: Clock, nonce: str, seconds: float = 60) -> str:
    token = token_of(nonce)
    cache.keep(cache.expect(nonce), identity_of(token), in_ms(clock, seconds))
    return token


# What it knows


def test_a_token_is_known_until_its_end_to_the_millisecond(cache: NearCache, clock: Clock) -> None:
    token = keep(cache, clock, NONCES[0], seconds=1)
    clock.now += 0.999
    assert cache.known(token)
    clock.now += 0.001
    assert cache.known(token) is None


def test_a_token_ends_by_the_stores_clock_even_if_it_is_set(cache: NearCache, clock: Clock) -> None:
    token = keep(cache, clock, NONCES[0], seconds=60)
    cache.shared.synchronize(clock.now + AHEAD + 59, clock.now)
    assert cache.known(token)
    cache.shared.synchronize(clock.now + AHEAD + 60, clock.now)
    assert cache.known(token) is None
    cache.shared.synchronize(clock.now + AHEAD, clock.now)
    assert cache.known(token)


@pytest.mark.parametrize(
    "token", [None, "", 5, 2.5, b"bob", [], {}, set(), object(), "x" * 100_000, "\ud800", True, ()]
)
def test_what_is_no_token_is_not_known(cache: NearCache, clock: Clock, token: Any) -> None:
    keep(cache, clock, NONCES[0])
    assert cache.known(token) is None


@pytest.mark.parametrize("end", [None, 0, -2, -4])
def test_a_token_that_is_not_good_is_not_kept_and_ends_the_one_before(
    cache: NearCache, clock: Clock, end: int | None
) -> None:
    token = keep(cache, clock, NONCES[0])
    cache.keep(cache.expect(NONCES[0]), identity_of(token_of(NONCES[0], 1)), end)
    assert cache.known(token) is None
    assert len(cache) == 0


def test_a_session_has_one_token(cache: NearCache, clock: Clock) -> None:
    old, new = keep(cache, clock, NONCES[0]), token_of(NONCES[0], 1)
    cache.keep(cache.expect(NONCES[0]), identity_of(new), in_ms(clock, 60))
    assert (knows(cache, old, new), len(cache)) == ([False, True], 1)


# What changes meanwhile


def test_an_answer_on_its_way_does_not_pass_for_that_to_a_later_question(
    cache: NearCache, clock: Clock
) -> None:
    early = cache.expect(NONCES[0])
    cache.shared.forget(NONCES[0])
    late = cache.expect(NONCES[0])
    cache.keep(early, identity_of(token_of(NONCES[0])), in_ms(clock, 60))
    assert len(cache) == 0
    cache.keep(late, identity_of(token_of(NONCES[0], 1)), in_ms(clock, 60))
    assert cache.known(token_of(NONCES[0], 1))


def test_a_cache_whose_store_was_not_heard_of_is_not_used(cache: NearCache, clock: Clock) -> None:
    token, at = keep(cache, clock, NONCES[0]), clock.now
    clock.now = at + MAX_SILENCE_SECONDS
    assert cache.known(token) is None
    cache.shared.synchronize(clock.now + AHEAD, clock.now)
    assert cache.known(token)


# How much it holds


def test_the_least_recently_used_leaves_first(cache: NearCache, clock: Clock) -> None:
    tokens = [keep(cache, clock, nonce) for nonce in NONCES[:SIZE]]
    assert cache.known(tokens[0])
    tokens.append(keep(cache, clock, NONCES[SIZE]))
    assert knows(cache, *tokens) == [True, False, True, True, True]


def test_questions_that_are_never_answered_leave_nothing(cache: NearCache, clock: Clock) -> None:
    for nonce in NONCES:
        cache.keep(cache.expect(nonce), identity_of(token_of(nonce)), None)
    assert (len(cache), cache.shared._expected, cache.shared._tokens) == (0, {}, {})


def test_a_million_tokens_stay_within_the_bounds(clock: Clock) -> None:
    size, tokens = 1000, 1_000_000
    cache = SharedNearCache(size, clock).for_service()
    cache.shared.open(clock.now + AHEAD, clock.now)
    end, suffix = in_ms(clock, 60), MAC
    expect, keep_one = cache.expect, cache.keep

    def pass_through(numbers: range) -> None:
        for number in numbers:
            nonce = f"{number:016}"
            keep_one(expect(nonce), identity_of("bob|shop|" + nonce + suffix), end)

    pass_through(range(tokens - 20_000))
    assert len(cache) == size
    tracemalloc.start()
    try:
        pass_through(range(tokens - 20_000, tokens))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(cache), len(cache.shared._tokens), cache.shared._expected) == (size, size, {})
    assert held <= size * 1000  # bytes: all that it holds was made since
    assert cache.known("bob|shop|" + f"{tokens - 1:016}" + suffix)


# Several services


def test_a_service_knows_no_token_of_another(cache: NearCache, clock: Clock) -> None:
    other = cache.shared.for_service()
    token = keep(cache, clock, NONCES[0])
    assert (knows(cache, token), knows(other, token)) == ([True], [False])
    keep(other, clock, NONCES[0])
    assert (knows(cache, token), knows(other, token), len(cache.shared)) == ([True], [True], 1)
    cache.shared.forget(NONCES[0])
    assert (knows(cache, token), knows(other, token), len(cache.shared)) == ([False], [False], 0)


def test_services_share_the_room(cache: NearCache, clock: Clock) -> None:
    other = cache.shared.for_service()
    tokens = [keep(cache, clock, nonce) for nonce in NONCES[:SIZE]]
    assert cache.known(tokens[0])
    new = keep(other, clock, NONCES[SIZE])
    assert knows(cache, *tokens) == [True, False, True, True]
    assert other.known(new)


def test_the_tokens_of_a_closed_service_give_way(cache: NearCache, clock: Clock) -> None:
    closed = cache.shared.for_service()
    token = keep(closed, clock, NONCES[0])
    closed.close()
    assert (closed.known(token), len(closed)) == (None, 0)
    kept = [keep(cache, clock, nonce) for nonce in NONCES[1 : SIZE + 1]]
    assert all(knows(cache, *kept))
    cache.shared.forget(NONCES[0])


def test_a_change_costs_the_same_for_a_thousand_services(clock: Clock) -> None:
    assert calls_of_a_change(clock, services=1_000) == calls_of_a_change(clock, services=1)


def calls_of_a_change(clock: Clock, services: int) -> int:
    """How many functions are called when a session changes that one service knows."""
    shared = SharedNearCache(SIZE, clock)
    shared.open(clock.now + AHEAD, clock.now)
    caches = [shared.for_service() for _ in range(services)]
    token = keep(caches[-1], clock, NONCES[0])
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        shared.forget(NONCES[0])
        shared.forget(NONCES[1])  # which nobody knows
        shared.synchronize(clock.now + AHEAD, clock.now)
    finally:
        sys.setprofile(None)
    assert caches[-1].known(token) is None
    return calls


class Model(RuleBasedStateMachine):
    """Compares the caches of two services with simple ones, whatever comes in whatever order."""

    @initialize()
    def begin(self) -> None:
        self.clock = Clock(50.0)
        self.shared = SharedNearCache(SIZE, self.clock)
        self.caches = [self.shared.for_service() for _ in SERVICES]
        self.is_open = False
        self.heard = 0.0
        self.questions = 0
        self.ahead = 0.0
        # Tokens, and their ends by service; by nonce, the least used first.
        self.known: OrderedDict[str, tuple[str, dict[int, int]]] = OrderedDict()
        self.asked: list[tuple[int, str, object, int]] = []
        self.current: dict[str, int] = {}  # by nonce, the questions that no change overtook

    @rule(service=services, nonce=nonces)
    def ask(self, service: int, nonce: str) -> None:
        expected = self.caches[service].expect(nonce)
        assert (expected is not None) == self.is_open
        question = -1
        if self.is_open:  # who asks while another waits asks with them
            question = self.current.setdefault(nonce, self.questions)
            self.questions += 1
        self.asked.append((service, nonce, expected, question))

    @rule(
        data=st.data(),
        generation=st.integers(0, 2),
        seconds=st.one_of(st.none(), st.just(-1e9), st.floats(0.001, 5)),
    )
    def answer(self, data: st.DataObject, generation: int, seconds: float | None) -> None:
        if not self.asked:
            return
        which = data.draw(st.integers(0, len(self.asked) - 1))
        service, nonce, expected, question = self.asked.pop(which)
        end = None
        if seconds is not None:
            end = round((self.clock.now + self.ahead + seconds) * 1000) if seconds > 0 else -2
        token = token_of(nonce, generation)
        self.caches[service].keep(expected, identity_of(token), end)
        if self.current.get(nonce) != question:
            return
        del self.current[nonce]
        before, ends = self.known.pop(nonce, (token, {}))
        if end is not None and end > 0:
            self.known[nonce] = (token, {**(ends if before == token else {}), service: end})
            if len(self.known) > SIZE:
                self.known.popitem(last=False)

    @rule(nonce=nonces)
    def change(self, nonce: str) -> None:
        self.shared.forget(nonce)
        self.known.pop(nonce, None)
        self.current.pop(nonce, None)

    @rule()
    def change_all(self) -> None:
        self.shared.forget_all()
        self.known.clear()
        self.current.clear()

    @rule(ahead=st.sampled_from([0.0, 1.0, AHEAD]))
    def open(self, ahead: float) -> None:
        self.shared.open(self.clock.now + ahead, self.clock.now)
        self.change_all()
        self.is_open, self.ahead, self.heard = True, ahead, self.clock.now

    @rule()
    def shut(self) -> None:
        self.shared.shut()
        self.change_all()
        self.is_open = False

    @rule(drift=st.floats(-0.5, 0.5))
    def hear(self, drift: float) -> None:
        if self.is_open:
            self.ahead += drift
            self.heard = self.clock.now
            self.shared.synchronize(self.clock.now + self.ahead, self.clock.now)

    @rule(seconds=st.floats(0, 1))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(service=services, nonce=nonces, generation=st.integers(0, 2))
    def use(self, service: int, nonce: str, generation: int) -> None:
        token = token_of(nonce, generation)
        known = self.known.get(nonce)
        left = None
        if known is not None and known[0] == token and service in known[1]:
            left = known[1][service] / 1000 - self.ahead - self.clock.now
            trusted = self.heard + MAX_SILENCE_SECONDS - self.clock.now
            if min(abs(left), abs(trusted)) < 1e-3:
                return  # too close for floats
            left = min(left, trusted)
        is_known = left is not None and left > 0
        assert knows(self.caches[service], token) == [is_known]
        if is_known:
            self.known.move_to_end(nonce)

    @invariant()
    def holds_the_same_in_the_same_order(self) -> None:
        if hasattr(self, "shared"):
            known = self.known.items()
            assert list(self.shared._owners) == [token for token, _ in self.known.values()]
            assert self.shared._tokens == {nonce: token for nonce, (token, _) in known}
            for service, cache in enumerate(self.caches):
                kept = {token for token, ends in self.known.values() if service in ends}
                assert set(cache.kept) == kept
            assert len(self.shared) <= SIZE


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=150, stateful_step_count=40)
