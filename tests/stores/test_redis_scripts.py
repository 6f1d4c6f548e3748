"""The Lua scripts of RedisTokenStore."""

from importlib.resources import files

import pytest
from redis.asyncio import Redis

from mpauthx_async.stores.redis.commands import load_script

FOLDER = files("mpauthx_async.stores.redis") / "scripts"
TEXTS = {file.name: file.read_text("utf-8") for file in FOLDER.iterdir()}
SHARED = {"prelude.lua", "login_policy.lua"}
SCRIPTS = sorted(name.removesuffix(".lua") for name in set(TEXTS) - SHARED)
MAX_LINES = 353


@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_script_compiles(name: str, redis: Redis) -> None:
    assert (await redis.script_load(load_script(name).text)) == load_script(name).sha


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_begins_with_what_it_takes_and_returns(name: str) -> None:
    heading = TEXTS[f"{name}.lua"].split("\n\n")[0]
    for word in ("KEYS", "Returns"):
        assert word in heading


def test_the_scripts_are_short() -> None:
    lines = [line for text in TEXTS.values() for line in text.splitlines()]
    assert len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= 100
