"""Measuring: parties that run in turn, their rates round by round, and what those must reach."""

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TypeVar

from .progress import Progress

__all__ = [
    "Benchmark",
    "Figure",
    "Outcome",
    "Party",
    "Settings",
    "Spread",
    "WrongAnswer",
    "in_turn",
    "rate",
    "ratio",
    "shares",
]

Item = TypeVar("Item")


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
class Party:
    """One of those compared. `measure` runs one round and returns its rate, calls a second."""

    name: str
    measure: Callable[[], Awaitable[float]]


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
class Outcome:
    """What a benchmark found.

    Attributes:
        setting: the sizes that were used, in one line.
        rates: each party's calls a second.
        notes: what a reader has to know beside, such as a party that had to be left out.
    """

    benchmark: str
    setting: str
    rates: Mapping[str, Spread]
    figures: Sequence[Figure]
    notes: Sequence[str] = field(default=())

    @property
    def holds(self) -> bool:
        """Whether no bound is broken."""
        return all(figure.holds is not False for figure in self.figures)


class WrongAnswer(Exception):
    """A party answered wrongly, so its speed means nothing."""


async def in_turn(parties: Sequence[Party], rounds: int, progress: Progress) -> dict[str, Spread]:
    """Run the parties in turn, so that drift hits all alike; each round begins with another.

    One round of each before those that count warms them up.
    """
    rates: dict[str, list[float]] = {party.name: [] for party in parties}
    for party in parties:
        progress.say(f"warming up: {party.name}")
        await party.measure()
    for number in range(rounds):
        first = number % len(parties)
        for party in (*parties[first:], *parties[:first]):
            progress.say(f"round {number + 1} of {rounds}: {party.name}")
            rates[party.name].append(await party.measure())
    return {name: Spread(tuple(values)) for name, values in rates.items()}


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


def ratio(rates: Spread, to: Spread) -> Spread:
    """Divide round by round, so that what slows a whole round down cancels out."""
    return Spread(
        tuple(ours / theirs for ours, theirs in zip(rates.rounds, to.rounds, strict=True))
    )
