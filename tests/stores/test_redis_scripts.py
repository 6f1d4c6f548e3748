"""The Lua scripts of RedisTokenStore."""

from importlib.resources import files

import pytest
from redis.asyncio import Redis

from mpauthx_async.stores.redis.token_store import SCRIPTS, load_script

FOLDER = files("mpauthx_async.stores.redis") / "scripts"
TEXTS = {file.name: file.read_text("utf-8") for file in FOLDER.iterdir()}
MAX_LINES = 349


def test_each_operation_has_a_script_and_all_share_a_prelude() -> None:
    assert set(TEXTS) == {f"{name}.lua" for name in (*SCRIPTS, "prelude")}


@pytest.mark.parametrize("name", SCRIPTS)
async def test_a_script_compiles(name: str, redis: Redis) -> None:
    assert len(await redis.script_load(load_script(name))) == 40


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_begins_with_what_it_takes_and_returns(name: str) -> None:
    heading = TEXTS[f"{name}.lua"].split("\n\n")[0]
    for word in ("KEYS", "Returns"):
        assert word in heading


def test_the_scripts_are_short() -> None:
    lines = [line for text in TEXTS.values() for line in text.splitlines()]
    assert len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= 100
