import signal

import aiohttp
import pytest
from redis.asyncio import Redis

from mpauthx_async import WeChatSimulator
from mpauthx_async.cli.demo import _Report
from mpauthx_async.cli.main import main
from tests.helpers.command_line import ended, started
from tests.helpers.redis_server import RedisServer


async def test_the_demo_shows_every_step_and_succeeds() -> None:
    outcome = await ended("demo")
    assert outcome.code == 0, outcome.err
    assert "All 7 steps passed." in outcome.out
    assert "Band" in outcome.out
    assert "FAILED" not in outcome.out
    assert not outcome.err
    assert max(map(len, outcome.out.splitlines())) <= 100


async def test_the_demo_runs_on_redis_and_leaves_nothing_that_lasts(
    redis: Redis, redis_server: RedisServer
) -> None:
    outcome = await ended("demo", "--redis", redis_server.url)
    assert outcome.code == 0, outcome.err
    assert "All 7 steps passed." in outcome.out
    lives = [await redis.ttl(key) for key in await redis.keys()]
    assert lives
    assert all(0 < life <= 60 for life in lives)


async def test_the_demo_says_that_redis_does_not_answer() -> None:
    outcome = await ended("demo", "--redis", "redis://:a-password@127.0.0.1:1")
    assert outcome.code == 1
    assert outcome.err.startswith("error: Redis failed")
    assert "a-password" not in outcome.err


def test_a_check_that_fails_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    report = _Report()
    report.step("a step")
    report.check("right", True, True)
    assert report.failures == 0
    report.check("wrong", True, False)
    assert report.failures == 1
    assert "FAILED" in capsys.readouterr().out
    assert "FAILED" in report.summary()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_simulator_runs_alone_until_it_is_interrupted(
    http: aiohttp.ClientSession, number: signal.Signals
) -> None:
    async with started("simulator") as process:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().split()[4]
        async with http.post(f"{url}/simulator/login", json={"open_id": "bob"}) as answer:
            assert len((await answer.json())["code"]) == 32
        process.send_signal(number)
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert WeChatSimulator().app_secret in out.decode()


@pytest.mark.parametrize(
    "arguments", [[], ["unknown"], ["demo", "--unknown"], ["doctor", "--token", "x"]]
)
def test_an_invalid_command_prints_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m mpauthx_async" in capsys.readouterr().err
