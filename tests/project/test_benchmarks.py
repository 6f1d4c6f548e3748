"""The measuring code of the benchmarks; nothing here times anything."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.garbage import GC_THRESHOLDS
from benchmarks.machine import OtherWork
from benchmarks.measurement import (
    Figure,
    Outcome,
    Party,
    Settings,
    Spread,
    WrongAnswer,
    above,
    histogram,
    in_turn,
    percentile,
    rate,
    ratio,
    shares,
    turns,
)
from benchmarks.progress import Progress
from benchmarks.report import save, table

ROOT = Path(__file__).parents[2]


def outcome(*figures: Figure) -> Outcome:
    rates = {"ours": Spread((1000.0, 3000.0, 2000.0)), "theirs": Spread((500.0, 1000.0, 1000.0))}
    return Outcome("validate", "3 rounds", rates, figures, ["Left out: nothing."])


def test_spread_has_the_median_and_both_ends() -> None:
    spread = Spread((3.0, 1.0, 10.0, 2.0))
    assert (spread.median, spread.least, spread.most) == (2.5, 1.0, 10.0)


def test_ratio_is_taken_round_by_round() -> None:
    slow_last_round = ratio(Spread((100.0, 80.0, 10.0)), Spread((50.0, 20.0, 5.0)))
    assert slow_last_round == Spread((2.0, 4.0, 2.0))


def test_ratio_needs_as_many_rounds_of_both() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio(Spread((1.0, 2.0)), Spread((1.0,)))


def test_the_zero_line_is_taken_off_round_by_round() -> None:
    assert above(Spread((5.0, 7.0)), Spread((1.0, 8.0))) == Spread((4.0, -1.0))


def test_percentile_is_the_least_value_that_the_share_does_not_exceed() -> None:
    numbers = [float(number) for number in range(1, 101)]
    values = {0.001: 1, 0.01: 1, 0.5: 50, 0.99: 99, 0.991: 100, 1.0: 100}
    assert {share: percentile(numbers, share) for share in values} == values


def test_percentile_of_a_single_value_is_that() -> None:
    assert {percentile([7.0], share) for share in (0.01, 0.5, 1.0)} == {7.0}


def test_histogram_counts_every_value_once_what_lies_outside_at_the_ends() -> None:
    values = [0.0, 0.01, 1.0, 1.05, 9.99, 10.0, 5000.0]

    found = histogram("ms", {"ours": values, "theirs": []}, range(2))

    assert len(found.edges) == 41
    assert (found.edges[0], found.edges[20], found.edges[40]) == (1.0, 10.0, 100.0)
    assert sum(found.counts["ours"]) == len(values)
    assert (found.counts["ours"][0], found.counts["ours"][19]) == (4, 1)
    assert (found.counts["ours"][20], found.counts["ours"][39]) == (1, 1)
    assert sum(found.counts["theirs"]) == 0


@pytest.mark.parametrize(
    ("at_least", "at_most", "holds"),
    [
        (None, None, None),
        (2.0, None, True),
        (2.1, None, False),
        (None, 2.0, True),
        (None, 1.9, False),
        (1.0, 3.0, True),
        (1.0, 1.5, False),
        (2.5, 3.0, False),
    ],
)
def test_bound_is_held_by_the_median(
    at_least: float | None, at_most: float | None, holds: bool | None
) -> None:
    figure = Figure("ratio", Spread((1.0, 2.0, 9.0)), at_least=at_least, at_most=at_most)
    assert figure.holds is holds


def test_outcome_holds_unless_a_bound_is_broken() -> None:
    free = Figure("free", Spread((1.0,)))
    kept = Figure("kept", Spread((1.0,)), at_least=1)
    broken = Figure("broken", Spread((1.0,)), at_least=2)

    assert outcome().holds
    assert outcome(free, kept).holds
    assert not outcome(kept, broken).holds


def party(name: str, ran: list[str]) -> Party[float]:
    """A party that notes its name, and measures how many there are."""

    async def measure() -> float:
        ran.append(name)
        return float(len(ran))

    return Party(name, measure)


async def test_parties_run_in_turn_after_a_warm_up_that_does_not_count() -> None:
    ran: list[str] = []
    parties = [party("a", ran), party("b", ran)]
    rates = await in_turn(parties, 2, Progress("test", io.StringIO()))
    assert ran == ["a", "b", "a", "b", "b", "a"]
    assert rates == {"a": Spread((3.0, 6.0)), "b": Spread((4.0, 5.0))}


async def test_every_second_round_goes_backwards() -> None:
    ran: list[str] = []
    await turns([party(name, ran) for name in "abc"], 4, Progress("test", io.StringIO()))
    assert "".join(ran) == "abc" + "abc" + "bac" + "cab" + "acb"


async def test_parties_may_give_more_than_a_number() -> None:
    measured = {"validate": 1.0, "revoke": 2.0}

    async def measure() -> dict[str, float]:
        return measured

    given = await turns([Party("a", measure)], 2, Progress("test", io.StringIO()))
    assert given == {"a": [measured] * 2}


async def test_every_call_of_every_caller_is_made() -> None:
    made: list[int] = []

    async def call(item: int) -> bool:
        made.append(item)
        return True

    assert await rate(call, shares(range(7), 3)) > 0
    assert sorted(made) == list(range(7))


@pytest.mark.parametrize("expected", [True, False])
async def test_wrong_answers_are_no_measurement(expected: bool) -> None:
    async def call(answer: bool) -> bool:
        return answer

    assert await rate(call, [[expected]], expected=expected) > 0
    with pytest.raises(ExceptionGroup) as caught:
        await rate(call, [[expected, not expected]], expected=expected)
    assert caught.group_contains(WrongAnswer)


def test_table_tells_which_bounds_hold_in_100_columns() -> None:
    many = Spread((1_234_567.0, 2_345_678.0))
    shown = table(
        outcome(
            Figure("x" * 46, many, at_least=300_000),
            Figure("too few", Spread((1.5,)), at_least=12),
            Figure("no more than", Spread((0.0,)), at_most=0),
        ),
        Settings(quick=True),
    )

    assert "≥ 300,000 yes" in shown
    assert "≥ 12 NO" in shown
    assert "≤ 0 yes" in shown
    assert "not enforced" in shown
    assert "Left out: nothing." in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_json_keeps_every_round(tmp_path: Path) -> None:
    file = tmp_path / "new" / "results.json"
    figure = Figure("ratio", Spread((2.0, 3.0)), at_least=2)

    run = {"facts": {"cpus": 2}, "date": "2026-11-21", "command": "python -m benchmarks"}
    save(file, [outcome(figure)], Settings(uvloop=True), **run)

    document = json.loads(file.read_text())
    (kept,) = document["benchmarks"]
    assert (document["loop"], document["machine"]) == ("uvloop", {"cpus": 2})
    assert kept["measured"]["ours"]["rounds"] == [1000, 3000, 2000]
    assert kept["measured"]["ours"]["median"] == 2000
    spread = {"median": 2.5, "least": 2, "most": 3, "rounds": [2, 3]}
    bounds = {"at_least": 2, "at_most": None, "holds": True}
    assert kept["figures"] == [{"name": "ratio", **spread, **bounds}]


@pytest.mark.parametrize(
    ("own", "note"),
    [
        (55.0, "Other processes took 5% of the CPUs meanwhile."),
        (20.0, "Other processes took 40% of the CPUs meanwhile: too much to trust the figures."),
        (None, ""),
    ],
)
def test_what_others_take_of_the_machine_is_noted(own: float | None, note: str) -> None:
    times = iter([(0.0, 0.0, 0.0), own and (100.0, 60.0, own)])  # in total, busy, our own
    assert OtherWork(lambda: next(times)).note() == note


def test_progress_is_plain_lines_where_there_is_no_terminal() -> None:
    stream = io.StringIO()

    with Progress("validate", stream) as progress:
        progress.say("round 1")
        progress.say("round 2")

    assert stream.getvalue() == "validate: round 1\nvalidate: round 2\n"


def benchmarks(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_benchmarks_are_listed() -> None:
    listed = [line.split()[0] for line in benchmarks("--list").stdout.splitlines()]
    assert " ".join(listed) == (
        "validate near_cache forged authorize latency loop_lag revocation http scale memory "
        "sealing padding neighbours waiting sql_users apps push_traffic"
    )


def test_an_unknown_benchmark_is_refused() -> None:
    refused = benchmarks("nonsense")
    assert refused.returncode == 2
    known = "validate, near_cache, forged, authorize"
    assert f"no benchmark nonsense; there are {known}" in refused.stderr


def test_the_documentation_recommends_what_the_benchmarks_set() -> None:
    thresholds = ", ".join(f"{threshold:_}" for threshold in GC_THRESHOLDS)
    assert f"gc.set_threshold({thresholds})" in (ROOT / "docs" / "operating.md").read_text("utf-8")
