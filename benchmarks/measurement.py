"""Measuring: parties that run in turn, what each gave round by round, and what that must reach."""

import asyncio
import gc
import math
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Generic, TypeAlias, TypeVar

from .progress import Progress

__all__ = [
    "Benchmark",
    "Chart",
    "Figure",
    "Histogram",
    "Lines",
    "Outcome",
    "Party",
    "Settings",
    "Spread",
    "WrongAnswer",
    "above",
    "histogram",
    "in_turn",
    "percentile",
    "rate",
    "ratio",
    "shares",
    "turns",
]

Item = TypeVar("Item")
Result = TypeVar("Result")

_BINS = 20  # to a decade


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run was asked for: short, for CI; and on uvloop instead of asyncio's own loop."""

    quick: bool = False
    uvloop: bool = False


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What can be run: its name, what it measures in one line, and how."""

    name: str
    about: str
    run: "Callable[[Settings, Progress], Awaitable[Outcome]]"


@dataclass(frozen=True, slots=True)
class Party(Generic[Result]):
    """One of those compared. `measure` runs one round and returns what it gave, most often a rate.

    A rate is in calls a second.
    """

    name: str
    measure: Callable[[], Awaitable[Result]]


@dataclass(frozen=True, slots=True)
class Spread:
    """One quantity as it was in each round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def least(self) -> float:
        return min(self.rounds)

    @property
    def most(self) -> float:
        return max(self.rounds)


@dataclass(frozen=True, slots=True)
class Figure:
    """What the rates come to, and what its median must reach, if anything."""

    name: str
    spread: Spread
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the bound is kept; None without one."""
        if self.at_least is None and self.at_most is None:
            return None
        least = self.at_least is None or self.spread.median >= self.at_least
        return least and (self.at_most is None or self.spread.median <= self.at_most)


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often each party's values fell between two edges.

    Attributes:
        quantity: what the values are, with its unit.
        edges: where the bins begin, and where the last one ends.
        counts: for each party, one number a bin.
    """

    quantity: str
    edges: Sequence[float]
    counts: Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Lines:
    """How quantities go with a size.

    Attributes:
        size: what `sizes` are.
        lines: for each quantity, its spread at each size.
    """

    size: str
    sizes: Sequence[float]
    lines: Mapping[str, Sequence[Spread]]


Chart: TypeAlias = Histogram | Lines


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a benchmark found.

    Attributes:
        setting: the sizes that were used, in one line.
        measured: what each party gave, in `unit`.
        notes: what a reader has to know beside, such as a party that had to be left out.
        unit: of what is measured.
        chart: what to plot; where it is None, what is measured as bars.
    """

    benchmark: str
    setting: str
    measured: Mapping[str, Spread]
    figures: Sequence[Figure]
    notes: Sequence[str] = field(default=())
    unit: str = "calls a second"
    chart: Chart | None = None

    @property
    def holds(self) -> bool:
        """Whether no bound is broken."""
        return all(figure.holds is not False for figure in self.figures)


class WrongAnswer(Exception):
    """A party answered wrongly, so its speed means nothing."""


async def turns(
    parties: Sequence[Party[Result]], rounds: int, progress: Progress
) -> dict[str, list[Result]]:
    """Run the parties in turn, so that drift hits all alike.

    Each round begins with another, and every second one goes backwards. One round of each before
    those that count warms them up.

    Returns:
        What each party gave, round by round.
    """
    given: dict[str, list[Result]] = {party.name: [] for party in parties}
    for party in parties:
        progress.say(f"warming up: {party.name}")
        await party.measure()
    for number in range(rounds):
        step = -1 if number % 2 else 1
        for place in range(len(parties)):
            party = parties[(number + step * place) % len(parties)]
            progress.say(f"round {number + 1} of {rounds}: {party.name}")
            given[party.name].append(await party.measure())
    return given


async def in_turn(
    parties: Sequence[Party[float]], rounds: int, progress: Progress
) -> dict[str, Spread]:
    """As `turns`, of parties that give a number: the spread of each."""
    given = await turns(parties, rounds, progress)
    return {name: Spread(tuple(values)) for name, values in given.items()}


async def rate(
    call: Callable[[Item], Awaitable[object]],
    work: Sequence[Sequence[Item]],
    *,
    expected: bool = True,
) -> float:
    """Time concurrent callers, each of which awaits its own calls one after another.

    Args:
        call: what is timed.
        work: for each caller, the arguments of its calls.
        expected: whether the answers have to be true or false.

    Returns:
        Calls a second, of all callers together.

    Raises:
        ExceptionGroup: of WrongAnswer, when an answer is not as expected; of what `call` raised.
    """
    begin = asyncio.Event()

    async def caller(items: Sequence[Item]) -> None:
        await begin.wait()
        for item in items:
            if (not await call(item)) is expected:
                raise WrongAnswer(f"An answer was not {expected}.")

    try:
        async with asyncio.TaskGroup() as callers:
            for items in work:
                callers.create_task(caller(items))
            await asyncio.sleep(0)  # now all of them wait
            # One party's garbage is not another's time, and what the benchmark itself keeps alive
            # no party has to trace: a server does the same once it has started.
            gc.collect()
            gc.freeze()
            begin.set()
            started = time.perf_counter()
        took = time.perf_counter() - started
    finally:
        gc.unfreeze()
    return sum(map(len, work)) / took


def shares(items: Sequence[Item], callers: int) -> list[Sequence[Item]]:
    """Divide items among callers, as evenly as it goes."""
    return [items[number::callers] for number in range(callers)]


def percentile(values: Sequence[float], share: float) -> float:
    """The least of the values that this share of them does not exceed.

    Args:
        values: at least one, in ascending order.
        share: above 0 and up to 1, which is the greatest value.
    """
    return values[max(0, math.ceil(share * len(values)) - 1)]


def histogram(quantity: str, values: Mapping[str, Sequence[float]], decades: range) -> Histogram:
    """Count values in bins as wide as each other on a logarithmic scale, twenty to each decade.

    Args:
        quantity: what the values are, with its unit.
        values: each party's.
        decades: exponents of ten. What lies below the first is counted in the first bin, and what
            lies above the next of the last in the last.
    """
    least, bins = decades.start, _BINS * len(decades)
    edges = [10 ** (least + number / _BINS) for number in range(bins + 1)]
    counts = {}
    for name, some in values.items():
        counts[name] = [0] * bins
        for value in some:
            place = bisect_right(edges, value) - 1
            counts[name][min(max(place, 0), bins - 1)] += 1
    return Histogram(quantity, edges, counts)


def above(values: Spread, zero: Spread) -> Spread:
    """Take the zero line off, round by round."""
    return Spread(
        tuple(ours - theirs for ours, theirs in zip(values.rounds, zero.rounds, strict=True))
    )


def ratio(rates: Spread, to: Spread) -> Spread:
    """Divide round by round, so that what slows a whole round down cancels out."""
    return Spread(
        tuple(ours / theirs for ours, theirs in zip(rates.rounds, to.rounds, strict=True))
    )
