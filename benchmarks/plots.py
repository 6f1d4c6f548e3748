"""Plots of what a run found, as SVG; they need matplotlib, which is an extra."""

import textwrap
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from .measurement import Histogram, Lines, Outcome, Spread

__all__ = ["plot"]

_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
    "figure.titlesize": 10,
    "legend.frameon": False,
    "svg.hashsalt": "mpauthx-async",  # so that the same figures give the same file
    "svg.fonttype": "none",  # text stays text
}
_WIDTH = 7.5  # inches
_COLOURS = ("#1f5f8b", "#c8702a", "#5b8c5a", "#7d5ba6", "#8c8c8c")
_TITLE = 95  # characters in a line
_NAME = 34  # characters in a line of a bar's name


def plot(outcome: Outcome, file: Path) -> None:
    """Draw an outcome: its chart where it has one, else what was measured, as bars.

    Raises:
        ImportError: matplotlib is not installed.
    """
    matplotlib: Any = import_module("matplotlib")
    figures: Any = import_module("matplotlib.figure")
    backend: Any = import_module("matplotlib.backends.backend_agg")
    chart = outcome.chart
    with matplotlib.rc_context(_STYLE):
        height = 1.1 + 0.45 * len(outcome.measured) if chart is None else 4
        figure = figures.Figure(figsize=(_WIDTH, height), layout="constrained")
        backend.FigureCanvasAgg(figure)
        axes = figure.subplots()
        if isinstance(chart, Histogram):
            _histogram(axes, chart)
        elif isinstance(chart, Lines):
            _lines(axes, chart, outcome.unit)
        else:
            _bars(axes, outcome.measured, outcome.unit)
        title = "\n".join(textwrap.wrap(f"{outcome.benchmark}: {outcome.setting}", _TITLE))
        figure.suptitle(title, x=0.01, horizontalalignment="left")
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, format="svg", metadata={"Date": None})


def _bars(axes: Any, measured: Mapping[str, Spread], unit: str) -> None:
    """One bar a party, as long as its median, with a line from its least to its most."""
    names = ["\n".join(textwrap.wrap(name, _NAME)) for name in measured]
    spreads = list(measured.values())
    medians = [spread.median for spread in spreads]
    below = [spread.median - spread.least for spread in spreads]
    over = [spread.most - spread.median for spread in spreads]
    places = range(len(spreads))
    axes.barh(places, medians, height=0.6, color=_COLOURS[0])
    axes.errorbar(medians, places, xerr=[below, over], fmt="none", ecolor="black", capsize=3)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(left=min(0.0, *(spread.least for spread in spreads)))
    axes.set_xlabel(f"{unit}: median, and from the least round to the most")
    axes.xaxis.set_major_formatter("{x:,.10g}")


def _lines(axes: Any, chart: Lines, unit: str) -> None:
    """One line a quantity through its medians, in a band from least to most."""
    places = range(len(chart.sizes))
    for colour, (name, spreads) in zip(_COLOURS, chart.lines.items(), strict=False):
        axes.plot(places, [spread.median for spread in spreads], "o-", color=colour, label=name)
        axes.fill_between(
            places,
            [spread.least for spread in spreads],
            [spread.most for spread in spreads],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
    axes.set_xticks(places, [f"{size:,.0f}" for size in chart.sizes])
    axes.set_xlabel(chart.size)
    axes.set_yscale("log")
    _plain_ticks(axes.yaxis)
    axes.set_ylabel(unit)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))


def _histogram(axes: Any, chart: Histogram) -> None:
    """How large a share of each party's values lies in each bin."""
    for colour, (name, counts) in zip(_COLOURS, chart.counts.items(), strict=False):
        total = sum(counts) or 1
        shares = [100 * count / total for count in counts]
        axes.stairs(shares, chart.edges, color=colour, label=name, linewidth=1.2)
    used = [
        place for counts in chart.counts.values() for place, count in enumerate(counts) if count
    ]
    axes.set_xscale("log")
    if used:
        axes.set_xlim(chart.edges[max(min(used) - 1, 0)], chart.edges[max(used) + 1])
    axes.set_ylim(bottom=0)
    _plain_ticks(axes.xaxis)
    axes.set_xlabel(chart.quantity)
    axes.set_ylabel("% of them")
    axes.legend()


def _plain_ticks(axis: Any) -> None:
    """1, 2 and 5 of each power of ten, written as plain numbers."""
    ticker: Any = import_module("matplotlib.ticker")
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(ticker.NullLocator())
    axis.set_major_formatter("{x:,.10g}")
