"""What a run found: as a table for people, and as JSON with all its rounds."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .measurement import Figure, Outcome, Settings, Spread

__all__ = ["save", "table"]


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


def _lines(outcome: Outcome, settings: Settings) -> Iterator[str]:
    yield f"{outcome.benchmark}: {outcome.setting}; {_loop(settings)}"
    if settings.quick:
        yield "  a quick run: bounds are shown, not enforced"
    yield ""
    if outcome.rates:
        yield _row("calls a second", "median", "least – most")
        for name, spread in outcome.rates.items():
            yield _row(name, _number(spread.median), _range(spread))
        yield ""
    yield _row("what they come to", "median", "least – most", "must reach")
    for figure in outcome.figures:
        spread = figure.spread
        yield _row(figure.name, _number(spread.median), _range(spread), _bound(figure))
    for note in outcome.notes:
        yield f"  {note}"


def _row(name: str, median: str, spread: str, bound: str = "") -> str:
    return f"  {name:<46}{median:>12}{spread:>25}  {bound}".rstrip()


def _bound(figure: Figure) -> str:
    if figure.holds is None:
        return ""
    texts = [
        f"{sign} {bound:,.10g}"
        for sign, bound in (("≥", figure.at_least), ("≤", figure.at_most))
        if bound is not None
    ]
    return f"{' and '.join(texts)} {'yes' if figure.holds else 'NO'}"


def _range(spread: Spread) -> str:
    if len(spread.rounds) == 1:
        return ""
    return f"{_number(spread.least)} – {_number(spread.most)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.2f}"


def _as_json(outcome: Outcome) -> dict[str, object]:
    return {
        "name": outcome.benchmark,
        "setting": outcome.setting,
        "rates": {name: _spread_json(spread) for name, spread in outcome.rates.items()},
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
        "notes": list(outcome.notes),
    }


def _spread_json(spread: Spread) -> dict[str, object]:
    return {
        "median": spread.median,
        "least": spread.least,
        "most": spread.most,
        "rounds": list(spread.rounds),
    }


def _loop(settings: Settings) -> str:
    return "uvloop" if settings.uvloop else "asyncio"
