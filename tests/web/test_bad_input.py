"""What no client should send, to each adapter: clear refusals, and nothing let through."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from itertools import product
from typing import Any

import pytest

from mpauthx_async import MPAuthX, WeChatSimulator
from mpauthx_async.web import requests
from tests.helpers.redis_server import RedisServer
from tests.web.apps import World, serving
from tests.web.raw_client import Reply, bearer, login_body, send

# Litestar and Quart stand behind the same middleware as Starlette and Django.
pytestmark = pytest.mark.parametrize(
    "framework", ["starlette", "fastapi", "aiohttp", "django"], indirect=True
)

ENVELOPE = {"status_code", "status_message", "response"}
MALFORMED_CODES = (
    *(b"9" * 10_000, b"null", b'""', b"1", b"true", b'["abc"]', b'{"a": 1}', b'"\\ud800"'),
    b'"%s"' % (b"x" * 600),
)
MALFORMED_OPTIONS = (
    b'"encryptedData": 1, "iv": "x"',
    b'"encryptedData": "x"',
    b'"encryptedData": "%s", "iv": "x"' % (b"x" * 20_000),
    *(b'"iv": "x"', b'"device": 1', b'"device": "a\\nb"', b'"deviceKind": []'),
)
MALFORMED_LOGINS = [
    *(b"", b"code=abc", b"{", b"[]", b'"code"', b"1", b"null", b"\xff\xfe", b"[" * 60_000, b"{}"),
    *(b'{"code": %s}' % code for code in MALFORMED_CODES),
    *(b'{"code": "abc", %s}' % options for options in MALFORMED_OPTIONS),
]
BEGUN_REQUESTS = [
    "POST /log",
    "POST /login HTTP/1.1\nHost: x\nContent-Length: 50\n\n{",
    "POST /login HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n1\n{\n",
    "POST /count HTTP/1.1\nHost: x\nContent-Length: 50\n\n{",
    "GET /ws HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: websocket\n"
    "Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\n\n",
]
# uvicorn logs it as an error, whoever refused it.
WEBSOCKET_REFUSED = "ASGI callable returned without completing handshake."
WANT_A_LOGIN = [
    *(("GET", "/hello"), ("GET", "/me"), ("GET", "/sessions"), ("DELETE", "/sessions/x")),
    *(("POST", "/rotate"), ("POST", "/logout")),
]
TRICKS = [
    *("/public/../hello", "/public/%2e%2e/hello", "/public%2f..%2fhello", "/public/..%2Fhello"),
    *("/public/..%5chello", "/public/%2fhello", "/public/%252e%252e/hello", "/login/../hello"),
    *("/login/../me", "/me/../hello", "//hello", "/hello/", "/hello%2f", "/%68ello"),
    *("/hello;x=/public/page", "/hello?/public/page", "/hello%3f/public/page"),
]


def authorization(value: str | bytes) -> list[tuple[str, str | bytes]]:
    return [("Authorization", value)]


def assert_refused(reply: Reply, status: int, challenge: str | None) -> None:
    assert reply.status == status, reply.body
    assert reply.header("www-authenticate") == challenge
    assert reply.header("cache-control") == "no-store"
    assert reply.json().keys() == ENVELOPE


async def test_no_header_is_a_401_without_an_error_code(port: int) -> None:
    for method, path in WANT_A_LOGIN:
        assert_refused(await send(port, method, path), 401, "Bearer")


async def test_no_token_is_a_401_without_an_error_code(port: int) -> None:
    for value in ("", "Bearer", "Bearer ", "bearer   "):
        assert_refused(await send(port, "GET", "/hello", authorization(value)), 401, "Bearer")


async def test_another_scheme_is_a_401_without_an_error_code(port: int, token: str) -> None:
    for scheme in ("Basic", "Digest", "Token", "Bearer2", "Bearer\t"):
        reply = await send(port, "GET", "/hello", authorization(f"{scheme} {token}"))
        assert_refused(reply, 401, "Bearer")


async def test_the_scheme_is_in_any_case(port: int, token: str) -> None:
    for scheme in ("Bearer", "bearer", "BEARER", "bEaReR"):
        reply = await send(port, "GET", "/hello", authorization(f"{scheme} {token}"))
        assert (reply.status, reply.json()) == (200, {"user_id": "bob"})


async def test_two_headers_are_a_400(port: int, token: str) -> None:
    twice = bearer(token) * 2
    for method, path in WANT_A_LOGIN:
        reply = await send(port, method, path, twice)
        assert_refused(reply, 400, 'Bearer error="invalid_request"')


async def test_a_forged_token_is_a_401(port: int) -> None:
    shapely = "bob|shop|" + "A" * 43
    for token in ("forged", "a|b|c", "a b", "x" * 80, shapely, "Bearer", '"', "null"):
        reply = await send(port, "GET", "/hello", bearer(token))
        assert_refused(reply, 401, 'Bearer error="invalid_token"')
        assert reply.json()["response"] == {"status": "unknown"}


async def test_a_token_that_is_not_ascii_is_a_401(port: int) -> None:
    for value in ("Bearer 微信".encode(), b"Bearer \xff\xfe", "Bearer \xe9".encode()):
        for path in ("/hello", "/me"):
            reply = await send(port, "GET", path, authorization(value))
            assert_refused(reply, 401, 'Bearer error="invalid_token"')


async def test_a_megabyte_of_token_is_refused(port: int) -> None:
    try:
        reply = await send(port, "GET", "/hello", authorization("Bearer " + "x" * 1_000_000))
    except (ConnectionError, asyncio.IncompleteReadError):
        pass  # the server hung up before it was asked anything
    else:
        assert reply.status in (400, 401, 431)
    assert (await send(port, "GET", "/hello")).status == 401  # it still serves


async def test_a_malformed_login_is_a_400(port: int) -> None:
    for body in MALFORMED_LOGINS:
        reply = await send(port, "POST", "/login", [("Content-Type", "application/json")], body)
        assert_refused(reply, 400, None)
        assert reply.json()["status_code"] == 6001


async def test_more_fields_than_we_know_are_ignored(port: int, wx: WeChatSimulator) -> None:
    body = json.dumps({"code": wx.login("bob"), "user_id": "eve", "token": 1, "extra": {}})
    reply = await send(port, "POST", "/login", body=body.encode())
    assert reply.json()["response"].startswith("bob|shop|")


async def test_a_body_that_says_it_is_10_megabytes_is_refused_unread(port: int) -> None:
    reply = await send(port, "POST", "/login", [("Content-Length", "10000000")], b"{")
    assert_refused(reply, 413, None)


async def test_a_body_of_10_megabytes_is_refused(port: int) -> None:
    reply = await send(port, "POST", "/login", body=b" " * 10_000_000)
    assert_refused(reply, 413, None)


async def test_an_invalid_content_length_is_refused(port: int) -> None:
    for length in ("-1", "1e3", "0x10", "65537", "9" * 5_000, "1, 2"):
        reply = await send(port, "POST", "/login", [("Content-Length", length)], b"{}")
        assert reply.status in (400, 413), length


async def endless(chunk: bytes, pause: float = 0) -> AsyncIterator[bytes]:
    while True:
        yield chunk
        await asyncio.sleep(pause)


async def test_a_body_that_never_ends_is_refused(port: int) -> None:
    reply = await send(port, "POST", "/login", body=endless(b" " * 4096))
    assert_refused(reply, 413, None)


async def test_a_body_that_comes_in_drops_is_refused(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "_MAX_BODY_SECONDS", 0.3)
    reply = await send(port, "POST", "/login", body=endless(b" ", pause=0.02))
    assert_refused(reply, 408, None)


async def test_a_body_that_never_ends_is_not_read_without_a_token(port: int) -> None:
    for path in ("/count", "/logout", "/rotate"):
        reply = await send(port, "POST", path, body=endless(b" " * 4096))
        assert_refused(reply, 401, "Bearer")


async def test_a_body_that_never_comes_is_refused(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "_MAX_BODY_SECONDS", 0.05)
    reply = await send(port, "POST", "/login", [("Content-Length", "100")], b"{")
    assert_refused(reply, 408, None)


async def test_no_path_trick_reaches_a_protected_endpoint(port: int) -> None:
    for path in TRICKS:
        reply = await send(port, "GET", path)
        assert reply.status in (301, 307, 308, 401, 404), path
        assert b"user_id" not in reply.body


async def test_another_spelling_of_a_public_path_is_not_public(framework: str, port: int) -> None:
    if framework == "fastapi":
        return  # there each endpoint declares whether it needs a login
    for path in ("//public/page", "/public//page", "/public%2fpage", "/PUBLIC/page"):
        assert_refused(await send(port, "GET", path), 401, "Bearer")


async def test_another_spelling_of_a_route_gives_no_token(port: int, wx: WeChatSimulator) -> None:
    for path in ("//login", "/login/", "/login%2f", "/./login", "/LOGIN"):
        reply = await send(port, "POST", path, body=login_body(wx))
        assert b"bob|shop|" not in reply.body


async def test_other_methods_require_a_login_too(port: int) -> None:
    for method, path in product(("PUT", "PATCH", "BREW"), ("/hello", "/public/page")):
        assert (await send(port, method, path)).status in (400, 401, 404, 405)


class TestAClientThatHangsUp:
    """The next one is answered, and nothing is logged as an error."""

    @pytest.fixture
    async def port(
        self, framework: str, world: World, token: str, caplog: pytest.LogCaptureFixture
    ) -> AsyncIterator[int]:
        async with serving(framework, world) as port:
            yield port
            reply = await send(port, "GET", "/hello", bearer(token))
            assert reply.status == 200
        # The server has ended, and with it what it had begun.
        records = [*caplog.get_records("call"), *caplog.get_records("teardown")]
        errors = [each.getMessage() for each in records if each.levelno >= logging.ERROR]
        assert set(errors) <= {WEBSOCKET_REFUSED}

    async def connect(self, port: int, request: str) -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request.replace("\n", "\r\n").encode())
        await writer.drain()
        return writer

    async def test_hanging_up_during_a_request_disturbs_nothing(self, port: int) -> None:
        for begun in BEGUN_REQUESTS:
            for how in ("close", "abort"):
                writer = await self.connect(port, begun)
                getattr(writer.transport, how)()

    async def test_hanging_up_before_the_answer_disturbs_nothing(
        self, port: int, world: World, token: str
    ) -> None:
        head = f"GET /late HTTP/1.1\nHost: x\nAuthorization: Bearer {token}\n\n"
        writer = await self.connect(port, head)
        await world.checked.wait()
        writer.transport.abort()
        world.go_on.set()


class TestWhenTheStoreDies:
    @pytest.fixture
    async def auth(
        self, make: Callable[..., MPAuthX], server: RedisServer
    ) -> AsyncIterator[MPAuthX]:
        """A service on a Redis of its own."""
        async with make(tokens=server.url) as service:
            yield service

    def assert_later(self, reply: Reply, retry_after: str | None = "1") -> None:
        assert_refused(reply, 503, None)
        assert reply.header("retry-after") == retry_after
        assert reply.json()["status_code"] == 6000
        assert b"edis" not in reply.body  # what the client need not know

    async def test_a_request_is_503_if_the_store_is_down(
        self, port: int, token: str, server: RedisServer
    ) -> None:
        server.stop()
        for path in ("/hello", "/me", "/sessions"):
            self.assert_later(await send(port, "GET", path, bearer(token)))

    async def test_a_login_is_503_if_the_store_is_down(
        self, port: int, wx: WeChatSimulator, server: RedisServer
    ) -> None:
        server.stop()
        reply = await send(port, "POST", "/login", body=login_body(wx))
        self.assert_later(reply, retry_after=None)  # the code is used up

    @pytest.mark.parametrize(
        ("method", "path", "call"),
        [("GET", "/sessions", "sessions"), ("DELETE", "/sessions/{}", "revoke_session")],
    )
    async def test_a_route_is_503_if_the_store_dies_after_the_check(
        self,
        port: int,
        auth: MPAuthX,
        token: str,
        server: RedisServer,
        method: str,
        path: str,
        call: str,
    ) -> None:
        living = getattr(auth, call)
        path = path.format((await auth.authenticate(token)).session_id)

        async def dying(*args: Any) -> Any:
            server.stop()
            return await living(*args)

        setattr(auth, call, dying)
        self.assert_later(await send(port, method, path, bearer(token)))

    async def test_an_endpoint_is_503_if_the_store_dies_after_the_check(
        self, port: int, world: World, token: str, server: RedisServer
    ) -> None:
        asking = asyncio.create_task(send(port, "GET", "/late", bearer(token)))
        await world.checked.wait()
        server.stop()
        world.go_on.set()
        self.assert_later(await asking)


async def test_an_operator_error_is_a_503(framework: str, world: World, token: str) -> None:
    await world.auth.close()
    async with serving(framework, world) as port:
        for reply in (
            await send(port, "GET", "/hello", bearer(token)),
            await send(port, "POST", "/login", body=json.dumps({"code": "abc"}).encode()),
        ):
            assert_refused(reply, 503, None)
            assert reply.header("retry-after") is None
            assert reply.json()["status_code"] == 6100


async def test_picking_no_service_is_the_operators_fault(framework: str, token: str) -> None:
    pick: Any = {}.get  # an app that is not there
    async with serving(framework, World(lambda _: pick("shop"))) as port:
        for path in ("/hello", "/me"):
            reply = await send(port, "GET", path, bearer(token))
            assert_refused(reply, 503, None)
            assert reply.json()["status_code"] == 6101


async def test_no_answer_shows_a_token_that_was_sent(port: int, token: str) -> None:
    for path in ("/hello", "/me"):
        reply = await send(port, "GET", path, authorization(f"Bearer {token}x"))
        assert reply.status == 401
        assert token.encode() not in reply.body
