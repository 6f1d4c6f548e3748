"""The playground over HTTP: what it answers, to whom, and how it ends."""

import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientSession
from redis.asyncio import Redis

from mpauthx_async import WeChatSimulator
from mpauthx_async.cli.main import main
from mpauthx_async.cli.playground import server as playground_server
from mpauthx_async.cli.playground.server import serve_playground
from mpauthx_async.cli.playground.tab import Tab
from mpauthx_async.simulator import server as simulator_server
from tests.helpers.command_line import Outcome, ended, started
from tests.helpers.redis_server import RedisServer
from tests.helpers.serve_process import answer_to

FILES = ("", "style.css", "script.js", "icon.svg")
STORIES = (
    *(("login", "phone"), ("call", "phone"), ("login", "laptop"), ("call", "phone")),
    *(("copy", "thief"), ("rotate", "laptop"), ("rotate", "thief"), ("forge", "laptop")),
    *(("login", "phone"), ("logout", "phone"), ("ban", "operator"), ("login", "phone")),
    *(("unban", "operator"), ("login", "phone"), ("forget", "operator")),
)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with serve_playground() as url:
        yield url


class Page:
    """A tab without a browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def act(self, action: str, device: str, **changes: Any) -> list[dict[str, Any]]:
        """Press a button; returns the messages up to the last one."""
        wish = {"action": action, "device": device, "policy": "one", "life": "300", **changes}
        await self.socket.send_json(wish)
        messages = [await self.socket.receive_json()]
        while messages[-1]["type"] not in ("end", "failed"):
            messages.append(await self.socket.receive_json())
        return messages


@asynccontextmanager
async def open_page(http: ClientSession, url: str) -> AsyncIterator[Page]:
    async with http.ws_connect(f"{url}tab", origin=url.rstrip("/")) as socket:
        assert (await socket.receive_json())["type"] == "state"
        yield Page(socket)


async def test_every_file_forbids_foreign_and_inline_code(url: str, http: ClientSession) -> None:
    for name in FILES:
        async with http.get(url + name) as answer:
            assert answer.status == 200
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Cache-Control"] == "no-store"
            assert "http://" not in (await answer.text()).replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        *(("Host", host) for host in ("evil.example", "127.0.0.1:1", "127.0.0.1")),
        *(("Origin", site) for site in ("http://evil.example", "null", "http://localhost:1")),
    ],
)
@pytest.mark.parametrize("path", ["", "tab", "missing"])
async def test_refuses_a_foreign_host_and_origin(
    url: str, http: ClientSession, path: str, header: str, value: str
) -> None:
    async with http.get(url + path, headers={header: value}) as answer:
        assert answer.status == 403
        assert "openId" not in await answer.text()


async def test_refuses_a_websocket_without_an_origin(url: str, http: ClientSession) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await http.ws_connect(f"{url}tab")
    assert caught.value.status == 403


async def test_a_request_that_cannot_be_parsed_is_refused_without_a_traceback(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    for head in ("GET / HTTP/9.9.9", "GET / HTTP/1.1\r\nHost: a\r\nHost: b"):
        assert (await answer_to(url, f"{head}\r\n\r\n")).startswith("HTTP/1.0 400 ")
    assert not caplog.records


async def test_answers_to_localhost(url: str, http: ClientSession) -> None:
    host = url.removeprefix("http://").rstrip("/").replace("127.0.0.1", "localhost")
    headers = {"Host": host, "Origin": f"http://{host}"}
    async with http.get(url, headers=headers) as answer:
        assert answer.status == 200
    async with http.ws_connect(f"{url}tab", headers=headers) as socket:
        assert (await socket.receive_json())["type"] == "state"


async def test_no_answer_holds_a_secret(
    http: ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    session_keys: list[str] = []
    make = simulator_server.new_session_key

    def new_session_key() -> str:
        session_keys.append(make())
        return session_keys[-1]

    monkeypatch.setattr(simulator_server, "new_session_key", new_session_key)
    told = ""
    async with serve_playground() as url:
        for name in (*FILES, "missing", "tab"):
            async with http.get(url + name) as answer:
                told += f"{answer.headers}{await answer.text()}"
        async with open_page(http, url) as page:
            for action, device in STORIES:
                told += json.dumps(await page.act(action, device))
    assert len(session_keys) == 5
    assert "UserForgotten" in told
    for secret in (WeChatSimulator().app_secret, *session_keys):
        assert secret not in told


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        '{"action": "login"}',
        '{"action": ["login"], "device": {}, "policy": [], "life": 5}',
        '{"action": "login", "device": "thief", "policy": "one", "life": "300"}',
        '{"action": "rotate", "device": "phone", "policy": "one", "life": "300"}',
        '{"action": "ban", "device": "phone", "policy": "one", "life": "300"}',
        '{"action": "login", "device": "phone", "policy": "none", "life": "300"}',
        '{"action": "login", "device": "phone", "policy": "one", "life": "999999"}',
        "[" * 1000,
    ],
)
async def test_a_message_that_no_button_sends_is_refused(
    url: str, http: ClientSession, text: str
) -> None:
    async with open_page(http, url) as page:
        await page.socket.send_str(text)
        assert (await page.socket.receive_json())["type"] == "failed"
        assert (await page.act("login", "phone"))[-1]["type"] == "end"


async def test_a_message_that_is_too_long_ends_its_tab_alone(url: str, http: ClientSession) -> None:
    async with open_page(http, url) as page, open_page(http, url) as other:
        await page.socket.send_str("x" * 2000)
        closed = await page.socket.receive()
        assert closed.type is aiohttp.WSMsgType.CLOSE
        assert closed.data == aiohttp.WSCloseCode.MESSAGE_TOO_BIG
        assert (await other.act("login", "phone"))[-1]["type"] == "end"


async def test_takes_no_message_before_the_answers_to_the_last_are_sent(
    url: str, http: ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsent: list[int] = []
    act = playground_server._act

    async def watched(tab: Tab, text: str, send: Any) -> None:
        unsent.append(send.__self__.qsize())
        await act(tab, text, send)

    monkeypatch.setattr(playground_server, "_act", watched)
    async with open_page(http, url) as page:
        for _ in range(100):
            await page.socket.send_str("")
        for _ in range(100):
            assert (await page.socket.receive_json())["type"] == "failed"
    assert unsent == [0] * 100


async def test_refuses_more_tabs_than_it_can_serve(
    url: str, http: ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpauthx_async.cli.playground.server._MAX_TABS", 1)
    origin = url.rstrip("/")
    async with open_page(http, url), http.ws_connect(f"{url}tab", origin=origin) as socket:
        refused = await socket.receive()
    assert refused.data == aiohttp.WSCloseCode.TRY_AGAIN_LATER
    assert refused.extra == "Too many tabs: close one."


async def test_a_user_is_erased_from_redis_when_the_tab_closes(
    redis: Redis, redis_server: RedisServer, http: ClientSession
) -> None:
    async with serve_playground(redis_url=redis_server.url) as url, open_page(http, url) as page:
        await page.act("login", "phone")
        last = await page.act("ban", "operator")
        assert last[-1]["state"]["ban"]["reason"] == "spam"
        assert await redis.exists(*await redis.keys())
    # What stays are the dead sessions, so that a copied token still tells why it died.
    lives = [await redis.ttl(key) for key in await redis.keys()]
    assert all(0 < life <= 300 for life in lives)


async def test_says_that_a_store_does_not_answer(http: ClientSession) -> None:
    with RedisServer() as server:
        async with serve_playground(redis_url=server.url) as url, open_page(http, url) as page:
            await page.act("login", "phone")
            server.stop()
            (*_, failed) = await page.act("call", "phone")
            assert failed["type"] == "failed"
            assert "Redis" in failed["message"]
            async with http.ws_connect(f"{url}tab", origin=url.rstrip("/")) as late:
                assert "Redis" in (await late.receive_json())["message"]
                assert (await late.receive()).type is aiohttp.WSMsgType.CLOSE


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_serves_until_it_is_interrupted(
    http: ClientSession, number: signal.Signals
) -> None:
    async with started("demo", "--web") as process:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().split()[4]
        assert url.startswith("http://127.0.0.1:")
        async with open_page(http, url) as page:
            await page.act("login", "phone")
            process.send_signal(number)
            closed = await page.socket.receive()
            assert closed.data == aiohttp.WSCloseCode.GOING_AWAY
            assert closed.extra == "The playground has ended: run it again."
        _, err = await process.communicate()
    assert process.returncode == 0
    assert not err


async def test_a_port_that_is_taken_is_an_error_that_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        outcome = await ended("demo", "--web", "--port", port)
    fault = (
        f"error: The playground cannot listen on port {port} (Address already in use). Choose "
        "another with --port, or leave --port out for a free one.\n"
    )
    assert outcome == Outcome(1, "", fault)


async def test_a_redis_that_does_not_answer_is_an_error_before_the_page_opens() -> None:
    outcome = await ended("demo", "--web", "--redis", "redis://:a-password@127.0.0.1:1")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("error: The token store cannot serve. Redis failed")
    assert "a-password" not in outcome.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--port", "8080"], "--port only with --web"),
        (["--web", "--port", "65536"], "from 0 to 65535"),
        (["--web", "--port", "-1"], "--port"),
        (["--web", "--port", "http"], "from 0 to 65535"),
    ],
)
def test_refuses_invalid_arguments(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["demo", *arguments])
    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err
