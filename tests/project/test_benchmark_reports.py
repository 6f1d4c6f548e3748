"""What the benchmarks report: units, plots, the page; and what some of them reckon.

Nothing here times anything.
"""

import asyncio
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks.child_process import ChildProcess, Pipe
from benchmarks.http import Connection
from benchmarks.loop_lag import heartbeat
from benchmarks.measurement import (
    Figure,
    Histogram,
    Lines,
    Outcome,
    Settings,
    Spread,
    WrongAnswer,
    histogram,
)
from benchmarks.padding import attack
from benchmarks.page import write_page
from benchmarks.push_traffic import Pushed, on_paper
from benchmarks.report import number_text, save, save_plots, table
from benchmarks.scale import hundred_million_users, sizes_that_fit
from benchmarks.sessions import mget_calls, near

ROOT = Path(__file__).parents[2]
ORDER = ["revocation", "scale", "validate"]
ONCE = Spread((1.0, 3.0, 2.0))


def bars(**changes: Any) -> Outcome:
    settings: dict[str, Any] = {
        "benchmark": "validate",
        "setting": "3 rounds",
        "measured": {"ours | quick": ONCE, "theirs": Spread((0.5,))},
        "figures": [
            Figure("kept", ONCE, at_least=2),
            Figure("broken", ONCE, at_most=1),
            Figure("free", ONCE),
        ],
        "notes": ["Left out: nothing."],
    }
    return Outcome(**(settings | changes))


def lags() -> Outcome:
    chart = histogram("lag in ms", {"ours": [0.5, 1.5, 20.0], "theirs": []}, range(-1, 2))
    return bars(benchmark="revocation", unit="ms", chart=chart)


def lines() -> Outcome:
    return bars(
        benchmark="scale",
        chart=Lines("other sessions", [0, 1000], {"validate": [ONCE, ONCE], "revoke": [ONCE] * 2}),
    )


def keep(
    folder: Path, *outcomes: Outcome, cpus: int = 2, quick: bool = False, uvloop: bool = False
) -> None:
    for outcome in outcomes:
        save(
            folder / f"{outcome.benchmark}{'-uvloop' if uvloop else ''}.json",
            [outcome],
            Settings(quick=quick, uvloop=uvloop),
            facts={"cpus": cpus, "fastapi-users": None, "load before": [0.1, 0.2, 0.3]},
            date="2026-11-21",
            command=f"python -m benchmarks {outcome.benchmark}",
        )


def test_table_says_the_unit_and_wraps_long_texts() -> None:
    long = {"setting": "many words " * 20, "notes": ["a note " * 30]}
    shown = table(bars(unit="lag in ms", **long), Settings())

    assert "  lag in ms " in shown
    assert "calls a second" not in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert shown.count("a note") + shown.count("a\n    note") == 30


def test_numbers_have_as_many_digits_as_say_something() -> None:
    numbers = {0.0: "0", 0.0123: "0.012", -0.0123: "-0.012", 0.123: "0.12", 12.345: "12.35"}
    numbers |= {-1234.5: "-1,234", 2_000_000.4: "2,000,000"}
    assert {number: number_text(number) for number in numbers} == numbers


def test_json_keeps_unit_and_chart(tmp_path: Path) -> None:
    keep(tmp_path, lags(), lines(), bars())

    kept = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}
    charts = {stem: run["benchmarks"][0]["chart"] for stem, run in kept.items()}
    assert charts["validate"] is None
    assert kept["revocation"]["benchmarks"][0]["unit"] == "ms"
    counts = charts["revocation"]["counts"]["ours"]
    assert (sum(counts), len(charts["revocation"]["edges"])) == (3, len(counts) + 1)
    assert charts["scale"]["sizes"] == [0, 1000]
    assert [spread["median"] for spread in charts["scale"]["lines"]["revoke"]] == [2, 2]


if importlib.util.find_spec("matplotlib") is not None:  # it comes with the extra benchmark

    def test_plots_are_svg_that_names_parties_and_units(tmp_path: Path) -> None:
        assert save_plots(tmp_path / "new", [lags(), lines(), bars()], Settings()) == ""

        texts = {}
        for file in (tmp_path / "new").iterdir():
            root = ElementTree.fromstring(file.read_text())
            texts[file.name] = " ".join("".join(part.itertext()) for part in root.iter())
        assert sorted(texts) == ["revocation.svg", "scale.svg", "validate.svg"]
        assert "lag in ms" in texts["revocation.svg"]
        assert "other sessions" in texts["scale.svg"]
        assert "calls a second" in texts["scale.svg"]
        assert "theirs" in texts["validate.svg"]
        assert "calls a second" in texts["validate.svg"]

    def test_a_histogram_of_nothing_is_plotted_too(tmp_path: Path) -> None:
        nothing = Histogram("ms", [1.0, 10.0], {"ours": [0]})

        assert save_plots(tmp_path, [bars(chart=nothing)], Settings(uvloop=True)) == ""
        assert (tmp_path / "validate-uvloop.svg").exists()

else:

    def test_without_matplotlib_there_is_a_note_and_no_plot(tmp_path: Path) -> None:
        assert "matplotlib is not installed" in save_plots(tmp_path, [bars()], Settings())
        assert list(tmp_path.iterdir()) == []


def test_the_page_compares_and_shows_the_plots(tmp_path: Path) -> None:
    results, docs = tmp_path / "results", tmp_path / "docs"
    keep(results, bars(), lags(), lines())
    (results / "scale.svg").write_text("<svg/>")

    page = write_page(results, docs, ORDER).read_text()

    heads = re.findall(r"^## (.*)$", page, re.MULTILINE)
    assert heads == ["The machine", "revocation", "scale", "validate"]
    assert "| kept | 2 | 1 – 3 |" in page
    assert "| free | 2 | 1 – 3 |" in page
    assert "≥" not in page
    assert "| ours \\| quick | 2 | 1 – 3 |" in page
    assert "| cpus | 2 |" in page
    assert "fastapi-users" not in page
    assert "by `python -m benchmarks scale`" in page
    assert "- Left out: nothing." in page
    assert "uick" not in page.replace("ours \\| quick", "")
    assert page.count("![") == 1
    assert (docs / "benchmarks-scale.svg").read_text() == "<svg/>"
    assert "](benchmarks-scale.svg)" in page


def test_page_tells_quick_runs_other_loops_and_machines_apart(tmp_path: Path) -> None:
    keep(tmp_path, bars(), quick=True)
    keep(tmp_path, bars(), uvloop=True, cpus=64)

    page = write_page(tmp_path, tmp_path, ORDER).read_text()

    assert page.count("A quick run, which proves nothing.") == 1
    assert "## validate-uvloop" in page
    assert "Event loop: uvloop." in page
    assert "Of validate-uvloop:\n" in page
    assert "| cpus | 64 |" in page


def test_page_needs_results(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_page(tmp_path, tmp_path / "docs", ORDER)
    assert not (tmp_path / "docs").exists()


def test_only_sizes_that_fit_side_by_side_are_filled() -> None:
    sizes = (0, 10_000, 1_000_000, 5_000_000)

    assert sizes_that_fit(sizes, math.inf) == list(sizes)
    assert sizes_that_fit(sizes, 1.2e9) == [0, 10_000, 1_000_000]
    assert sizes_that_fit(sizes, 0) == [0]


def test_what_a_hundred_million_users_need_is_reckoned() -> None:
    load, redis, processes = hundred_million_users(100_000, 1_000, 450)

    assert "347,222 checks and 1,157 logins a second" in load
    assert "45 GB at 450 bytes a session, 4 shards" in redis
    assert "7 for checks through Redis and 3 for logins" in processes


def test_what_redis_pushes_to_a_thousand_processes_is_reckoned() -> None:
    begun = Pushed(own=40, slope=0.5, bytes=60)
    ended = Pushed(own=35, slope=0.2, bytes=100) - Pushed(own=30, slope=0.1, bytes=60)

    *_, last, full = on_paper("at once", begun + ended)

    assert last == "at once, 1,000 listeners: 1,000 MB a second, 645% of a CPU."
    assert "full at 92 listeners" in full
    *_, full = on_paper("at once", Pushed(own=120, slope=0.5, bytes=60))
    assert "full without any listener" in full


async def test_heartbeats_that_a_held_up_loop_missed_count_each() -> None:
    times = iter([100.0, 100.45, 100.62])
    beats: list[Callable[[], None]] = []

    def call_later(delay: float, beat: Callable[[], None]) -> asyncio.Handle:
        beats.append(beat)
        return asyncio.Handle(beat, (), asyncio.get_running_loop())

    with heartbeat(0.1, lambda: next(times), call_later) as found:
        beats[0]()
        beats[1]()

    assert found == pytest.approx([0.35, 0.25, 0.15, 0.05, 0.12, 0.02])
    assert len(beats) == 3


class _Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def write(self, data: Any) -> None:
        self.sent.append(data)

    def close(self) -> None:
        pass


def answer(status: str, body: str = "{}") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def connected(status: int = 200) -> tuple[Connection, _Transport]:
    connection, transport = Connection(status), _Transport()
    connection.connection_made(transport)
    return connection, transport


async def test_a_connection_sends_its_next_request_after_each_whole_answer() -> None:
    connection, transport = connected()
    done = connection.ask([b"one", b"two"])
    assert transport.sent == [b"one"]
    for byte in answer("200 OK"):
        assert transport.sent == [b"one"]
        connection.data_received(bytes([byte]))
    assert transport.sent == [b"one", b"two"]
    assert not done.done()
    connection.data_received(answer("200 OK"))

    assert transport.sent == [b"one", b"two"]
    assert done.done()
    await done


async def test_a_connection_can_be_asked_again() -> None:
    connection, transport = connected()
    for request in (b"one", b"two"):
        done = connection.ask([request])
        connection.data_received(answer("200 OK"))
        await done

    assert transport.sent == [b"one", b"two"]
    assert connection.answers == 2


@pytest.mark.parametrize("is_closed", [True, False])
async def test_an_unexpected_response_is_not_measured(is_closed: bool) -> None:
    connection, _ = connected()
    done = connection.ask([b"one", b"two"])

    if is_closed:
        connection.connection_lost(None)
    else:
        connection.data_received(answer("401 Unauthorized"))

    with pytest.raises(WrongAnswer):
        await done


@pytest.mark.parametrize("was_open", [True, False])
async def test_without_a_connection_nothing_is_measured(was_open: bool) -> None:
    connection = Connection()
    if was_open:
        connection.connection_made(_Transport())
        connection.connection_lost(None)

    with pytest.raises(WrongAnswer):
        await connection.ask([b"one"])


@pytest.mark.parametrize("header", ["", "content-length: 0\r\n"])
async def test_a_connection_reads_answers_of_any_case_and_without_a_body(header: str) -> None:
    connection, _ = connected(204)
    done = connection.ask([b"one"])
    connection.data_received(f"HTTP/1.1 204 No Content\r\n{header}\r\n".encode())
    await done


async def echo(pipe: Pipe, *words: str) -> None:
    """What a ChildProcess runs below."""
    pipe.send((os.getpid(), words))
    while True:
        pipe.send((await asyncio.to_thread(pipe.recv)).upper())


async def fail(_: Pipe) -> None:
    """Likewise."""
    raise EOFError  # which ends it quietly


async def test_a_child_process_says_something_answers_and_ends() -> None:
    with ChildProcess(echo, "a", "b") as child:
        pid, words = child.said
        child.send("again")
        assert await child.receive() == "AGAIN"

    assert words == ("a", "b")
    assert pid != os.getpid()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_child_process_that_ends_before_it_is_ready_is_told() -> None:
    with pytest.raises(EOFError), ChildProcess(fail):
        pass


async def test_mgets_are_counted_from_what_redis_tells() -> None:
    told = iter([{"cmdstat_mget": {"calls": 7, "usec": 9}}, {}])

    class Told:
        async def info(self, section: str) -> Any:
            assert section == "commandstats"
            return next(told)

    redis: Any = Told()
    assert [await mget_calls(redis) for _ in range(2)] == [7, 0]
    assert near("redis://localhost:6379/0") == "redis://localhost:6379/0?near_cache=100000"


def test_table_without_figures_has_no_empty_heads() -> None:
    shown = table(bars(measured={}, figures=[]), Settings(uvloop=True))

    assert shown.splitlines() == ["validate: 3 rounds; uvloop", "", "  Left out: nothing."]


def test_report_is_made_by_the_command_line(tmp_path: Path) -> None:
    """In a copy, for the command knows its folders by where it stands."""
    for part in ("benchmarks/*.py", "tests/__init__.py", "tests/helpers/*.py"):
        for file in ROOT.glob(part):
            copy = tmp_path / file.relative_to(ROOT)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(file.read_bytes())

    command = [sys.executable, "-m", "benchmarks", "report"]
    report = partial(subprocess.run, command, cwd=tmp_path, capture_output=True, text=True)
    refused = report()
    assert refused.returncode == 2
    assert "There are no results" in refused.stderr

    keep(tmp_path / "benchmarks" / "results", bars())
    made = report()
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip() == str(tmp_path / "docs" / "benchmarks.md")
    assert "## validate" in (tmp_path / "docs" / "benchmarks.md").read_text()


def attack_on(time_of: Callable[[int], float]) -> Any:
    return attack([(number % 2 == 0, time_of(number)) for number in range(4000)])


def test_an_attack_tells_classes_apart_whose_times_do_not_overlap() -> None:
    found = attack_on(lambda number: 5000.0 + number % 2 * 3000 + number % 7)
    assert (found.singly, found.by_hundreds) == (1, 1)
    assert found.apart == pytest.approx(3.0)
    assert found.noise == pytest.approx(0.004)


def test_an_attack_on_the_slower_class_of_right_padding_works_as_well() -> None:
    found = attack_on(lambda number: 8000.0 - number % 2 * 3000)
    assert (found.singly, found.by_hundreds, found.apart) == (1, 1, 3)


def test_an_attack_on_equal_times_is_a_guess() -> None:
    found = attack_on(lambda number: 5000.0 + number // 2 % 100)
    assert (found.singly, found.by_hundreds, found.apart) == (0.5, 0.5, 0)
