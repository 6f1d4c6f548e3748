"""The flow of the koa scaffold's example page, run by node against the server in its place."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mpauthx_async import WeChatSimulator
from mpauthx_async.simulator import Fault
from tests.helpers.redis_server import RedisServer
from tests.helpers.serve_process import ServeProcess, environment_of, serving

PAGE = Path(__file__).with_name("koa_page.js")


async def run_page(server: ServeProcess, wx: WeChatSimulator, user: str) -> list[Any]:
    """What the page got: before the login, at the login, behind it, and both once more."""
    node = shutil.which("node")
    assert node, "These tests need node on PATH: apt-get install nodejs."
    process = await asyncio.create_subprocess_exec(
        *(node, str(PAGE), server.url, wx.url, user),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    got: list[Any] = json.loads(output)
    return got


@pytest.fixture
async def koa(
    wx: WeChatSimulator, server: RedisServer, tmp_path: Path
) -> AsyncIterator[ServeProcess]:
    environment = environment_of(wx, tokens=server.url)
    async with serving(tmp_path, "--compat", "koa", environment=environment) as koa:
        yield koa


async def test_the_page_gets_the_scaffolds_answers(koa: ServeProcess, wx: WeChatSimulator) -> None:
    refused, first, passed, second, passed_again = await run_page(koa, wx, "bob")
    assert refused == {"statusCode": 401, "data": {"error": "This request needs a token: log in."}}
    for answer, message in (
        (first, "登录成功, 用户信息入库成功"),
        (second, "登录成功，用户已入库"),
    ):
        token = answer["data"]["Token"]
        assert token.startswith("bob|default|")
        data = {"statusCode": 200, "message": message, "Token": token}
        assert answer == {"statusCode": 200, "data": data}
    for answer in (passed, passed_again):
        assert answer == {"statusCode": 200, "data": {"statusCode": 200, "message": "token有效"}}


async def test_the_page_gets_503_and_401_while_redis_is_down(
    koa: ServeProcess, wx: WeChatSimulator, server: RedisServer
) -> None:
    server.stop()
    got = await run_page(koa, wx, "bob")
    assert [answer["statusCode"] for answer in got] == [401, 503, 401, 503, 401]
    assert got[1]["data"] == {"error": "The service cannot answer."}  # the code is used up


async def test_every_failure_has_its_status_and_an_error(
    koa: ServeProcess, wx: WeChatSimulator, http: aiohttp.ClientSession
) -> None:
    async def ask(path: str, authorization: str | None = None, **query: str) -> tuple[int, Any]:
        headers = {} if authorization is None else {"authorization": authorization}
        async with http.get(koa.url + path, params=query, headers=headers) as answer:
            return answer.status, await answer.json()

    code = wx.login("bob")
    token = (await ask("/user/login", code=code))[1]["Token"]
    for query, status in (
        ({}, 400),
        ({"code": ""}, 400),
        ({"code": "undefined"}, 401),
        ({"code": code}, 401),  # is used up
        ({"code": wx.login("bob"), "encryptedData": "AAAA"}, 400),
        ({"code": wx.login("bob"), "encryptedData": "AAAA", "iv": "AAAA"}, 400),
    ):
        got = await ask("/user/login", **query)
        assert (got[0], list(got[1])) == (status, ["error"]), query
    for authorization, status in (
        (None, 401),
        ("Bearer", 401),
        (token, 401),
        (f"Basic {token}", 401),
        (f"Bearer {token[:-1]}", 401),
        (f"Bearer {token}", 200),
        (f"bearer {token}", 200),
        (f"BEARER {token}", 200),
    ):
        got = await ask("/home/test", authorization)
        key = "statusCode" if status == 200 else "error"
        assert (got[0], key in got[1]) == (status, True), authorization
    for fault, status in ((Fault.SYSTEM_BUSY, 503), (Fault.TOO_FREQUENT, 429), (Fault.HTML, 502)):
        wx.fail_next(fault, 10)
        got = await ask("/user/login", code=wx.login("bob"))
        assert (got[0], list(got[1])) == (status, ["error"]), fault
        wx.clear_faults()
    await wx.close()
    assert (await ask("/user/login", code="0" * 32))[0] == 503
