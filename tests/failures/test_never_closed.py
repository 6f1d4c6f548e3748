"""A service that is never closed lets the interpreter end, and is named in a warning."""

import asyncio
import gc
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from mpauthx_async import MPAuthX, WeChatSimulator
from tests.helpers.line_process import ROOT
from tests.helpers.service_calls import log_in

PATIENCE = 60  # seconds; a process that does not end takes for ever
PROGRAM = """
import asyncio, json, sys
from mpauthx_async import MPAuthX, WeChatOAuth

settings, code, how = json.loads(sys.argv[1])
if how == "web":
    settings.pop("users")
    service = WeChatOAuth(**settings)
else:
    service = MPAuthX(sku="shop", **settings)

async def use():
    if how == "web":
        return await service.get_access_token(code)
    service.subscribe(lambda event: None)
    result = await service.authorize(code)
    assert await service.is_token_valid(result.response)

if how == "unused":
    pass
elif how == "a loop that is never closed":  # as a server does that has no lifespan
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use())
else:
    asyncio.run(use())
print("done")
"""


def run(*given: object) -> tuple[str, str]:
    """What a process says that ends by itself, and its warnings."""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", PROGRAM, json.dumps(given)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("how", ["asyncio.run", "a loop that is never closed", "web"])
async def test_the_interpreter_ends_and_names_the_service(
    how: str, settings: dict[str, Any], wx: WeChatSimulator
) -> None:
    code, service = wx.login("bob"), f"MPAuthX {wx.app_id} sku=shop"
    if how == "web":
        settings["tokens"] = settings["tokens"].partition("?near_cache")[0]
        code, service = wx.web_login("bob"), f"WeChatOAuth {wx.app_id}"
    out, err = await asyncio.to_thread(run, settings, code, how)
    assert out == "done\n"
    assert f"ResourceWarning: <{service}> was never closed" in err
    assert wx.app_secret not in err
    assert "mpauthx_async/" not in err  # no traceback leads here


async def test_a_service_that_was_not_used_needs_no_closing(
    settings: dict[str, Any], wx: WeChatSimulator
) -> None:
    assert await asyncio.to_thread(run, settings, "", "unused") == ("done\n", "")


async def test_a_service_that_is_dropped_is_named_at_once_and_a_closed_one_not(
    make: Callable[..., MPAuthX], wx: WeChatSimulator
) -> None:
    async with make() as closed:
        await log_in(closed, wx)
    dropped = make()
    assert await dropped.is_token_valid("bob|shop|x") is False  # used, but nothing is connected
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del closed, dropped
        gc.collect()
    (warning,) = [one for one in caught if "was never closed" in str(one.message)]
    assert warning.category is ResourceWarning
    assert "<MPAuthX" in str(warning.message)
