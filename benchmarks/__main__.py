"""python -m benchmarks: run benchmarks, print what they found, keep it as JSON and as plots."""

import argparse
import asyncio
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from .apps import APPS
from .authorize import AUTHORIZE
from .forged import FORGED
from .http import HTTP
from .latency import LATENCY
from .loop_lag import LOOP_LAG
from .machine import OtherWork, machine_facts
from .measurement import Outcome, Settings
from .memory import MEMORY
from .near_cache import NEAR_CACHE
from .neighbours import NEIGHBOURS
from .padding import PADDING
from .page import write_page
from .progress import Progress
from .push_traffic import PUSH_TRAFFIC
from .report import save, save_plots, table
from .revocation import REVOCATION
from .scale import SCALE
from .sealing import SEALING
from .sql_users import SQL_USERS
from .validate import VALIDATE
from .waiting import WAITING

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        VALIDATE,
        NEAR_CACHE,
        FORGED,
        AUTHORIZE,
        LATENCY,
        LOOP_LAG,
        REVOCATION,
        HTTP,
        SCALE,
        MEMORY,
        SEALING,
        PADDING,
        NEIGHBOURS,
        WAITING,
        SQL_USERS,
        APPS,
        PUSH_TRAFFIC,
    )
}

_REPORT = "report"
_RESULTS = Path(__file__).parent / "results"
_DOCS = Path(__file__).parent.parent / "docs"
_CANCEL_AGAIN = 0.2  # seconds
_INTERRUPTED = 130  # the exit code after Ctrl-C, as in a shell


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line says; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.list:
        for benchmark in BENCHMARKS.values():
            print(f"{benchmark.name:<14}{benchmark.about}")
        return 0
    if options.names == [_REPORT]:
        try:
            print(write_page(_RESULTS, _DOCS, list(BENCHMARKS)))
        except FileNotFoundError as error:
            parser.error(str(error))
        return 0
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    settings = Settings(quick=options.quick, uvloop=options.uvloop)
    try:
        loop_factory = _uvloop() if settings.uvloop else None
    except ImportError:
        parser.error("--uvloop needs the package uvloop: pip install uvloop")
    # What ends a run in CI cleans up as Ctrl-C does: no server is left behind.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        outcomes = _run_all(options.names or list(BENCHMARKS), settings, options.json, loop_factory)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return _INTERRUPTED
    return 0 if settings.quick or all(outcome.holds for outcome in outcomes) else 1


def _run_all(
    names: Sequence[str],
    settings: Settings,
    file: Path | None,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] | None,
) -> list[Outcome]:
    facts = machine_facts()
    print(", ".join(f"{name} {value}" for name, value in facts.items()), file=sys.stderr)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    outcomes: list[Outcome] = []
    for name in names:
        others = OtherWork()
        with Progress(name) as progress, asyncio.Runner(loop_factory=loop_factory) as runner:
            outcome = runner.run(_run_one(name, settings, progress))
        outcome = replace(outcome, notes=[*outcome.notes, *filter(None, [others.note()])])
        results = file or _RESULTS / f"{name}{'-uvloop' if settings.uvloop else ''}.json"
        if no_plots := save_plots(results.parent, [outcome], settings):
            outcome = replace(outcome, notes=[*outcome.notes, no_plots])
        outcomes.append(outcome)
        print(table(outcome, settings), end="\n\n", flush=True)
        # After each, so that a later one that breaks off takes nothing with it.
        save(
            results,
            [outcome] if file is None else outcomes,
            settings,
            facts=facts,
            date=date,
            command=command,
        )
    return outcomes


async def _run_one(name: str, settings: Settings, progress: Progress) -> Outcome:
    running = asyncio.ensure_future(BENCHMARKS[name].run(settings, progress))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        # On Python 3.11 redis-py swallows a cancellation that meets it sending: ask again.
        while not running.done():
            running.cancel()
            await asyncio.wait([running], timeout=_CANCEL_AGAIN)
        # Ctrl-C ends the Redis servers too: what failed because of that is of no interest.
        await asyncio.gather(running, return_exceptions=True)
        raise


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop]:
    factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    return factory


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compares, within one run and in turn, what mpauthx_async does with what is "
        "done by hand and with the limit.",
        epilog="The exit code is 0 when everything ran and every bound holds, and 1 when a bound "
        "does not. With --quick, which is for noisy CI machines, bounds are shown but not "
        "enforced: it is 0 when everything ran.",
    )
    parser.add_argument(
        "names",
        metavar="NAME",
        nargs="*",
        help="which to run, by default all; or report alone: "
        "write docs/benchmarks.md from the last run of each",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a short run with fewer calls and tokens"
    )
    parser.add_argument(
        "--uvloop", action="store_true", help="use uvloop, which has to be installed"
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        help="where the figures go, all in one file; by default benchmarks/results/NAME.json",
    )
    parser.add_argument("--list", action="store_true", help="name the benchmarks and end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
