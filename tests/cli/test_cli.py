import asyncio
import signal
import sys

import aiohttp
import pytest
from redis.asyncio import Redis

from mpauthx_async import WeChatSimulator
from mpauthx_async.cli.demo import _Report
from mpauthx_async.cli.main import main
from tests.helpers.redis_server import RedisServer


async def command(*arguments: str) -> tuple[int | None, str, str]:
    """Run python -m mpauthx_async; returns its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "mpauthx_async",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_the_demo_shows_every_step_and_succeeds() -> None:
    code, out, err = await command("demo")
    assert code == 0, err
    assert "All 7 steps passed." in out
    assert "Band" in out
    assert "FAILED" not in out
    assert not err
    assert max(map(len, out.splitlines())) <= 100


async def test_the_demo_runs_on_redis_and_leaves_nothing_that_lasts(
    redis: Redis, redis_server: RedisServer
) -> None:
    code, out, err = await command("demo", "--redis", redis_server.url)
    assert code == 0, err
    assert "All 7 steps passed." in out
    lives = [await redis.ttl(key) for key in await redis.keys()]
    assert lives
    assert all(0 < life <= 60 for life in lives)


async def test_the_demo_says_that_redis_does_not_answer() -> None:
    code, _, err = await command("demo", "--redis", "redis://:a-password@127.0.0.1:1")
    assert code == 1
    assert err.startswith("error: Redis failed")
    assert "a-password" not in err


def test_a_check_that_fails_is_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = _Report()
    report.step("a step")
    report.check("right", True, True)
    assert report.failures == 0
    report.check("wrong", True, False)
    assert report.failures == 1
    assert "FAILED" in capsys.readouterr().out
    assert "FAILED" in report.summary()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_simulator_runs_alone_until_it_is_interrupted(number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mpauthx_async", "simulator", stdout=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(60):
            assert process.stdout is not None
            url = (await process.stdout.readline()).decode().split()[4]
            async with aiohttp.ClientSession() as http:
                answer = await http.post(f"{url}/simulator/login", json={"open_id": "bob"})
                assert len((await answer.json())["code"]) == 32
            process.send_signal(number)
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
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
