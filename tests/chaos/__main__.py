"""Chaos by hand: `python -m tests.chaos --minutes 60`."""

import argparse
import asyncio
import logging
import re
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

from tests.chaos.faults import draw
from tests.chaos.rounds import Verdict, play_round
from tests.chaos.worlds import WORLDS, open_world


async def main(options: argparse.Namespace) -> int:
    """Play rounds in each world in turn until the time is up; returns how many failed."""
    logging.getLogger("mpauthx_async").addHandler(logging.NullHandler())
    seed, failed = options.seed, 0
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        worlds = [
            await stack.enter_async_context(open_world(kind, options.users, folder))
            for kind in options.world or WORLDS
        ]
        deadline = time.monotonic() + options.minutes * 60
        while time.monotonic() < deadline:
            for world in worlds:
                faults = draw(world, Random(seed), options.faults)
                verdict = await play_round(world, seed, faults)
                names = " ".join(fault.__name__ for fault in faults)
                calls = verdict.outcomes.total()
                print(f"{world.kind} seed {seed}: {calls} calls, {names}")
                if options.verbose:
                    print(f"  {dict(sorted(verdict.outcomes.items()))}")
                    print(f"  writes may be lost in {world.windows}")
                for violation in verdict.violations[:20]:
                    print(f"  {violation}")
                if options.verbose:
                    _print_history(verdict)
                sys.stdout.flush()
                failed += bool(verdict.violations)
            seed += 1
    print(f"{failed} rounds failed.")
    return failed


def _print_history(verdict: Verdict) -> None:
    """All calls about the persons that the violations name."""
    named = set(re.findall(r"\w+\((\d+)\)", " ".join(verdict.violations[:20])))
    for call in sorted(verdict.calls, key=lambda call: call.begin):
        if str(call.person) in named:
            print(f"    {call}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first round")
    parser.add_argument("--world", action="append", choices=list(WORLDS), help="by default all")
    parser.add_argument(
        "--users", default="postgresql", choices=["postgresql", "mariadb", "sqlite"]
    )
    parser.add_argument("--faults", type=int, default=10, help="of each round")
    parser.add_argument("--verbose", action="store_true", help="print how calls ended")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(min(asyncio.run(main(_options())), 1))
