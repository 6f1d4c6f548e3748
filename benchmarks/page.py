"""One page of Markdown from the JSON files of the last runs, with their plots."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .report import number_text

__all__ = ["write_page"]

_LOAD = "load before"  # differs from run to run on one machine
_PLOT = "benchmarks-"  # stands before a plot's name among the docs
_INTRODUCTION = """\
# Benchmarks

`python -m benchmarks report` wrote this page from the last run of each benchmark. The parties of a
benchmark take turns in one run, after a round of each that does not count; each round begins with
another party, and every second one goes backwards. A figure is the median of the rounds, with the
least and the most; ratios are taken within a round. Compare within a run, not between machines. The
docstring of `benchmarks/NAME.py` says what exactly is compared. `python -m benchmarks NAME` repeats
it on your machine."""


def write_page(results: Path, docs: Path, order: Sequence[str]) -> Path:
    """Write benchmarks.md and copy the plots beside it; the folder is made.

    Args:
        results: the folder of the JSON files, and of the plots.
        docs: where the page goes.
        order: the names of the benchmarks, as they are to follow each other.

    Raises:
        FileNotFoundError: there are no results.
    """
    runs = {file.stem: json.loads(file.read_text()) for file in sorted(results.glob("*.json"))}
    if not runs:
        raise FileNotFoundError(f"There are no results in {results}.")
    places = {name: place for place, name in enumerate(order)}
    stems = sorted(runs, key=lambda stem: places.get(_benchmark(runs[stem])["name"], len(places)))
    runs = {stem: runs[stem] for stem in stems}
    docs.mkdir(parents=True, exist_ok=True)
    lines = [_INTRODUCTION, "", *_machines(runs)]
    for stem, run in runs.items():
        plot = results / f"{stem}.svg"
        if plot.exists():
            shutil.copyfile(plot, docs / f"{_PLOT}{plot.name}")
        lines += _section(stem, run, f"{_PLOT}{plot.name}" if plot.exists() else None)
    page = docs / "benchmarks.md"
    page.write_text("\n".join(lines).rstrip() + "\n")
    return page


def _benchmark(run: Mapping[str, Any]) -> Any:
    (benchmark,) = run["benchmarks"]
    return benchmark


def _machines(runs: Mapping[str, Any]) -> Iterator[str]:
    """Each machine, and what was run on it."""
    machines: dict[str, list[str]] = {}
    for stem, run in runs.items():
        facts = {name: value for name, value in run["machine"].items() if name != _LOAD}
        machines.setdefault(json.dumps(facts), []).append(stem)
    yield "## The machine"
    yield ""
    for text, stems in machines.items():
        if len(machines) > 1:
            yield f"Of {', '.join(stems)}:"
            yield ""
        rows = [(name, value) for name, value in json.loads(text).items() if value is not None]
        yield from _table(("what", "which"), "ll", rows)


def _section(stem: str, run: Mapping[str, Any], plot: str | None) -> Iterator[str]:
    benchmark = _benchmark(run)
    yield f"## {stem}"
    yield ""
    yield f"{benchmark['setting'][:1].upper()}{benchmark['setting'][1:]}."
    yield f"Event loop: {run['loop']}. {run['date']}, by `{run['command']}`."
    if run["quick"]:
        yield "A quick run, which proves nothing."
    yield ""
    if plot is not None:
        yield f"![{stem}: {benchmark['unit']}]({plot})"
        yield ""
    if benchmark["measured"]:
        rows = [
            (name, number_text(spread["median"]), _range(spread))
            for name, spread in benchmark["measured"].items()
        ]
        yield from _table((benchmark["unit"], "median", "least – most"), "lrr", rows)
    if benchmark["figures"]:
        figures = [
            (one["name"], number_text(one["median"]), _range(one)) for one in benchmark["figures"]
        ]
        yield from _table(("what they come to", "median", "least – most"), "lrr", figures)
    for note in benchmark["notes"]:
        yield f"- {note}"
    load = run["machine"].get(_LOAD)
    if load is not None:
        yield f"- The machine's load before: {', '.join(map(str, load))}."
    yield ""


def _range(spread: Mapping[str, Any]) -> str:
    if len(spread["rounds"]) == 1:
        return ""
    return f"{number_text(spread['least'])} – {number_text(spread['most'])}"


def _table(heads: Sequence[str], sides: str, rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """A table; `sides` has l or r for each column, to which its cells are set."""
    yield _row(heads)
    yield _row(["---:" if side == "r" else "---" for side in sides])
    for row in rows:
        yield _row([str(cell).replace("|", "\\|") for cell in row])
    yield ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
