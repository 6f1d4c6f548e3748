"""The machine that a run is made on, and how busy others keep it meanwhile."""

import os
import platform
import resource
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeAlias

from tests.helpers.redis_server import find_redis_server

__all__ = ["OtherWork", "cpu_time", "machine_facts"]

_PACKAGES = (
    "redis",
    "hiredis",
    "aiohttp",
    "aiosqlite",
    "pycryptodome",
    "uvloop",
    "fastapi",
    "fastapi-users",
    "uvicorn",
)
_STAT = Path("/proc/stat")
_TOO_MUCH = 0.1
_CPUTime: TypeAlias = tuple[float, float, float]


def machine_facts() -> dict[str, object]:
    """What a reader needs to judge the figures by."""
    found = subprocess.run(
        [find_redis_server(), "--version"], capture_output=True, text=True, check=True
    )
    return {
        "cpus": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "redis-server": found.stdout.split("v=")[-1].split(" ")[0],
        **{name: _version(name) for name in _PACKAGES},
        "load before": [round(load, 2) for load in os.getloadavg()],
    }


class OtherWork:
    """Counts, from when it is made, the CPU time that processes other than ours take.

    Where parties need different numbers of CPUs, what others take distorts even their ratios: a
    party that keeps two busy loses more by it than one that keeps one busy.

    Args:
        measured: what `cpu_time` returns.
    """

    def __init__(self, measured: Callable[[], _CPUTime | None] | None = None) -> None:
        self._cpu_time = measured or cpu_time
        self._before = self._cpu_time()

    def note(self) -> str:
        """Tell their share, once all processes started here have ended; empty off Linux."""
        before, after = self._before, self._cpu_time()
        if before is None or after is None:
            return ""
        total, busy, own = (end - begin for begin, end in zip(before, after, strict=True))
        share = max(0.0, (busy - own) / total)
        verdict = ": too much to trust the figures" if share > _TOO_MUCH else ""
        return f"Other processes took {share:.0%} of the CPUs meanwhile{verdict}."


def cpu_time() -> _CPUTime | None:
    """Seconds of all CPUs: in total, not idle, and of this process with its ended children.

    None where that is not known.
    """
    if not _STAT.exists():
        return None
    ticks = [int(text) for text in _STAT.read_text().split("\n", 1)[0].split()[1:9]]
    total, idle = sum(ticks), ticks[3] + ticks[4]
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    hertz = os.sysconf("SC_CLK_TCK")
    own = sum(part.ru_utime + part.ru_stime for part in usage)
    return total / hertz, (total - idle) / hertz, own


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
