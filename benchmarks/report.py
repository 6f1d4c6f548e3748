"""What a run found: as a table for people, as JSON with all its rounds, and as plots."""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .measurement import Chart, Figure, Histogram, Outcome, Settings, Spread
from .plots import plot

__all__ = ["bound_text", "number_text", "save", "save_plots", "table"]

_WIDTH = 100


def table(outcome: Outcome, settings: Settings) -> str:
    """The outcome as text, at most 100 columns wide."""
    return "\n".join(_lines(outcome, settings))


def save(
    file: Path,
    outcomes: Sequence[Outcome],
    settings: Settings,
    *,
    facts: Mapping[str, object],
    date: str,
    command: str,
) -> None:
    """Write outcomes with all their rounds to a JSON file; its folder is made."""
    document = {
        "date": date,
        "command": command,
        "quick": settings.quick,
        "loop": _loop(settings),
        "machine": dict(facts),
        "benchmarks": [_as_json(outcome) for outcome in outcomes],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def save_plots(folder: Path, outcomes: Sequence[Outcome], settings: Settings) -> str:
    """Write a plot of each outcome, NAME.svg; returns a note where that cannot be, else nothing."""
    suffix = "-uvloop" if settings.uvloop else ""
    try:
        for outcome in outcomes:
            plot(outcome, folder / f"{outcome.benchmark}{suffix}.svg")
    except ImportError:
        return "No plots: matplotlib is not installed (pip install '.[benchmark]')."
    return ""


def bound_text(
    at_least: float | None, at_most: float | None, holds: bool | None
) -> tuple[str, str]:
    """A figure's bound, and whether it holds; empty without one."""
    if holds is None:
        return "", ""
    texts = [
        f"{sign} {bound:,.10g}"
        for sign, bound in (("≥", at_least), ("≤", at_most))
        if bound is not None
    ]
    return " and ".join(texts), "yes" if holds else "NO"


def number_text(value: float) -> str:
    """A number with as many digits as say something."""
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def _lines(outcome: Outcome, settings: Settings) -> Iterator[str]:
    yield from textwrap.wrap(
        f"{outcome.benchmark}: {outcome.setting}; {_loop(settings)}",
        _WIDTH,
        subsequent_indent="  ",
    )
    if settings.quick:
        yield "  a quick run: bounds are shown, not enforced"
    yield ""
    if outcome.measured:
        yield _row(outcome.unit, "median", "least – most")
        for name, spread in outcome.measured.items():
            yield _row(name, number_text(spread.median), _range(spread))
        yield ""
    if outcome.figures:
        yield _row("what they come to", "median", "least – most", "must reach")
        for figure in outcome.figures:
            spread = figure.spread
            yield _row(figure.name, number_text(spread.median), _range(spread), _bound(figure))
    for note in outcome.notes:
        yield from textwrap.wrap(note, _WIDTH, initial_indent="  ", subsequent_indent="    ")


def _row(name: str, median: str, spread: str, bound: str = "") -> str:
    return f"  {name:<46}{median:>12}{spread:>25}  {bound}".rstrip()


def _bound(figure: Figure) -> str:
    return " ".join(bound_text(figure.at_least, figure.at_most, figure.holds)).strip()


def _range(spread: Spread) -> str:
    if len(spread.rounds) == 1:
        return ""
    return f"{number_text(spread.least)} – {number_text(spread.most)}"


def _as_json(outcome: Outcome) -> dict[str, object]:
    return {
        "name": outcome.benchmark,
        "setting": outcome.setting,
        "unit": outcome.unit,
        "measured": {name: _spread_json(spread) for name, spread in outcome.measured.items()},
        "figures": [
            {
                "name": figure.name,
                **_spread_json(figure.spread),
                "at_least": figure.at_least,
                "at_most": figure.at_most,
                "holds": figure.holds,
            }
            for figure in outcome.figures
        ],
        "chart": outcome.chart and _chart_json(outcome.chart),
        "notes": list(outcome.notes),
    }


def _chart_json(chart: Chart) -> dict[str, object]:
    if isinstance(chart, Histogram):
        counts = {name: list(counts) for name, counts in chart.counts.items()}
        return {"quantity": chart.quantity, "edges": list(chart.edges), "counts": counts}
    lines = {
        name: [_spread_json(spread) for spread in spreads] for name, spreads in chart.lines.items()
    }
    return {"size": chart.size, "sizes": list(chart.sizes), "lines": lines}


def _spread_json(spread: Spread) -> dict[str, object]:
    return {
        "median": spread.median,
        "least": spread.least,
        "most": spread.most,
        "rounds": list(spread.rounds),
    }


def _loop(settings: Settings) -> str:
    return "uvloop" if settings.uvloop else "asyncio"
