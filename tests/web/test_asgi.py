"""What is the ASGI middleware's own."""

import asyncio
from typing import Any

import httpx
import pytest
import websockets
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Route

from mpauthx_async import ClosedError, ConfigurationError, MPAuthX, UserNotFoundError
from mpauthx_async.web.asgi import MPAuthXMiddleware
from mpauthx_async.web.fastapi import MPAuthXGuard
from mpauthx_async.web.starlette import MPAuthXBackend
from tests.web.apps import FRAMEWORKS, World, serve_asgi
from tests.web.raw_client import bearer, send


async def user_id(request: Any) -> JSONResponse:
    return JSONResponse(request.state.mpauthx and request.state.mpauthx.user_id)


class Recorder:
    """An ASGI app that notes its scopes and answers with an empty body."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})


def scope(path: str, token: str | None = None, **more: Any) -> dict[str, Any]:
    headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
    request = {"type": "http", "method": "GET", "headers": headers}
    return {**request, "path": path, "raw_path": path.encode(), "query_string": b"", **more}


async def call(app: Any, scope: Any) -> list[Any]:
    """Call an app without a server; returns what it sent."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


async def test_hands_the_identity_to_the_app(auth: MPAuthX, token: str) -> None:
    app = Recorder()
    state = {"pool": 1}
    outer = scope("/", token, state=state)
    await call(MPAuthXMiddleware(app, auth), outer)
    (inner,) = app.scopes
    identity = inner["state"]["mpauthx"]
    assert identity == await auth.authenticate(token)
    assert inner["state"]["pool"] == 1
    assert inner["user"].mpauthx is inner["auth"].mpauthx is identity
    assert (inner["user"].identity, inner["user"].display_name) == ("bob", "bob")
    assert inner["auth"].scopes == ["authenticated"]
    assert state == {"pool": 1}  # servers may share it between requests
    assert "user" not in outer


async def test_an_excluded_path_has_no_identity(auth: MPAuthX, token: str) -> None:
    app = Recorder()
    await call(MPAuthXMiddleware(app, auth, exclude=("/",)), scope("/", token, user="forged"))
    (inner,) = app.scopes
    assert inner["state"]["mpauthx"] is None
    assert (inner["user"].is_authenticated, inner["user"].identity) == (False, "")
    assert inner["auth"].scopes == []


async def test_options_requests_need_no_token(auth: MPAuthX) -> None:
    app = Recorder()
    await call(MPAuthXMiddleware(app, auth), scope("/", method="OPTIONS"))
    assert len(app.scopes) == 1


@pytest.mark.parametrize(
    ("root_path", "path", "is_excluded"),
    [
        ("", "/about", True),
        ("/api", "/api/about", True),
        ("/api", "/about", True),
        ("/api", "/api", False),
        ("/api", "/apiabout", False),
        ("/api", "/api/api/about", False),
        ("/about", "/about/about", True),
        ("/about", "/about", False),
        ("/about", "/about/", False),
        ("/", "/about", True),
    ],
)
async def test_patterns_match_the_path_behind_root_path(
    auth: MPAuthX, root_path: str, path: str, is_excluded: bool
) -> None:
    app = Recorder()
    await call(MPAuthXMiddleware(app, auth, exclude=("/about",)), scope(path, root_path=root_path))
    assert bool(app.scopes) is is_excluded


@pytest.mark.parametrize("framework", ["starlette", "litestar", "quart", "django"])
async def test_a_path_that_frameworks_read_in_two_ways_is_not_excluded(
    world: World, framework: str
) -> None:
    # Litestar routes what stands behind the first "/api", wherever that is.
    transport = httpx.ASGITransport(FRAMEWORKS[framework](world), root_path="/api")
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as browser:
        for path in ("/public/x/api/hello", "/public/api/hello", "/public/apihello"):
            assert (await browser.get(path)).status_code == 401
        assert (await browser.get("/api/public/page")).text == "public"


async def test_serves_behind_a_root_path(auth: MPAuthX, token: str) -> None:
    app = MPAuthXMiddleware(
        Starlette(routes=[Route("/about", user_id)]), auth, exclude=("/about",), prefix="/auth"
    )
    async with serve_asgi(app, root_path="/api") as port:
        assert (await send(port, "GET", "/about")).status == 200
        assert (await send(port, "GET", "/auth/me", bearer(token))).status == 200


async def test_errors_of_the_app_become_answers(auth: MPAuthX, token: str) -> None:
    async def misconfigured(_: Any) -> Any:
        raise ConfigurationError("a detail for the operator alone")

    app = Starlette(routes=[Route("/", misconfigured)])
    app.add_middleware(MPAuthXMiddleware, auth=auth)
    async with serve_asgi(app) as port:
        reply = await send(port, "GET", "/", bearer(token))
    assert (reply.status, reply.json()["status_code"]) == (503, 6101)
    assert b"detail" not in reply.body


async def test_an_answer_that_has_begun_is_not_begun_again(auth: MPAuthX, token: str) -> None:
    async def breaks(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ConfigurationError("in the middle")

    with pytest.raises(ConfigurationError, match="in the middle"):
        await call(MPAuthXMiddleware(breaks, auth), scope("/", token))


async def test_a_function_picks_the_service(
    auth: MPAuthX, token: str, game: MPAuthX, of_game: str
) -> None:
    async def pick(scope: Any) -> MPAuthX:
        return game if scope["path"].startswith("/game/") else auth

    app = MPAuthXMiddleware(Starlette(routes=[Route("/game/me", user_id)]), pick)
    async with serve_asgi(app) as port:
        assert (await send(port, "GET", "/game/me", bearer(of_game))).json() == "bob"
        assert (await send(port, "GET", "/game/me", bearer(token))).status == 401
    assert await game.is_token_valid(of_game)  # it was not closed with the server


async def test_an_error_that_two_requests_share_disturbs_neither(auth: MPAuthX) -> None:
    error = UserNotFoundError("There is no such user.")
    reached, gate, sent = asyncio.Event(), asyncio.Event(), []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    async def slow(message: Any) -> None:
        reached.set()
        await gate.wait()
        sent.append(message["type"])

    middleware = MPAuthXMiddleware(app, auth, exclude=["/slow", "/stream"])
    answering = asyncio.create_task(middleware(scope("/slow"), None, slow))
    await reached.wait()
    with pytest.raises(UserNotFoundError):
        await call(middleware, scope("/stream"))
    gate.set()
    await answering
    assert sent == ["http.response.start", "http.response.body"]


async def test_auth_has_to_be_a_service() -> None:
    with pytest.raises(ConfigurationError, match="auth must be"):
        MPAuthXMiddleware(Recorder(), "redis://localhost")  # type: ignore[arg-type]


@pytest.mark.parametrize("prefix", ["auth", "/", "/auth/", 5])
async def test_a_prefix_that_no_path_has_is_refused(auth: MPAuthX, prefix: Any) -> None:
    with pytest.raises(ConfigurationError, match="prefix must be"):
        MPAuthXMiddleware(Recorder(), auth, prefix=prefix)
    with pytest.raises(ConfigurationError, match="prefix must be"):
        MPAuthXGuard(auth).router(prefix=prefix)


async def test_a_server_without_denial_responses_closes_a_websocket(auth: MPAuthX) -> None:
    sent = await call(MPAuthXMiddleware(Recorder(), auth), {**scope("/ws"), "type": "websocket"})
    assert sent == [{"type": "websocket.close", "code": 1008}]


async def test_a_websocket_is_told_why_at_its_handshake(auth: MPAuthX) -> None:
    async with serve_asgi(MPAuthXMiddleware(Recorder(), auth)) as port:
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
            await websockets.connect(f"ws://127.0.0.1:{port}/ws")
    response = refused.value.response
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert b'"status_code": 6104' in response.body


async def test_render_changes_every_body(auth: MPAuthX, token: str) -> None:
    def render(code: int, text: str, response: object) -> dict[str, object]:
        return {"ok": code == 1, "data": response}

    app = MPAuthXMiddleware(Recorder(), auth, prefix="", render=render)
    async with serve_asgi(app) as port:
        assert (await send(port, "GET", "/x")).json() == {"ok": False, "data": None}
        me = (await send(port, "GET", "/me", bearer(token))).json()
    assert me["ok"]
    assert me["data"]["user_id"] == "bob"


class Lifespan:
    """A server's end of a lifespan."""

    def __init__(self) -> None:
        self.events = iter(["lifespan.startup", "lifespan.shutdown"])
        self.sent: list[str] = []

    async def receive(self) -> Any:
        return {"type": next(self.events)}

    async def send(self, message: Any) -> None:
        self.sent.append(message["type"])


async def no_lifespan(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("Only HTTP is served here.")


async def leaves_at_startup(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    raise ValueError("Only HTTP is served here.")


async def only_starts(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "lifespan.startup.complete"})


async def ends_without_a_word(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()


async def returns_at_once(scope: Any, receive: Any, send: Any) -> None:
    return


@pytest.mark.parametrize(
    "app",
    [
        *(no_lifespan, leaves_at_startup, returns_at_once, only_starts, ends_without_a_word),
        Starlette(),
    ],
)
async def test_closes_the_service_after_any_lifespan_of_the_app(auth: MPAuthX, app: Any) -> None:
    server = Lifespan()
    await MPAuthXMiddleware(app, auth)({"type": "lifespan"}, server.receive, server.send)
    assert server.sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(Exception, match="closed"):
        await auth.online_count()


async def fails_at_startup(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed"})
    raise ValueError("no database")


async def crashes_at_shutdown(scope: Any, receive: Any, send: Any) -> None:
    await only_starts(scope, receive, send)
    raise ValueError("no queue")


@pytest.mark.parametrize(
    ("app", "sent"),
    [(fails_at_startup, "startup.failed"), (crashes_at_shutdown, "startup.complete")],
)
async def test_an_app_that_fails_does_so_and_closes_the_service(
    auth: MPAuthX, app: Any, sent: str
) -> None:
    server = Lifespan()
    with pytest.raises(ValueError, match=r"no database|no queue"):
        await MPAuthXMiddleware(app, auth)({"type": "lifespan"}, server.receive, server.send)
    assert server.sent == [f"lifespan.{sent}"]
    with pytest.raises(ClosedError):
        await auth.online_count()


class TestStarlettesOwnMiddleware:
    @pytest.fixture
    def app(self, auth: MPAuthX) -> Starlette:
        @requires("authenticated", status_code=401)
        async def private(request: Any) -> JSONResponse:
            return JSONResponse(request.user.identity)

        async def public(request: Any) -> JSONResponse:
            return JSONResponse(request.user.is_authenticated)

        app = Starlette(routes=[Route("/private", private), Route("/public", public)])
        backend = MPAuthXBackend(auth)
        app.add_middleware(AuthenticationMiddleware, backend=backend, on_error=backend.on_error)
        return app

    async def test_requires_protects_an_endpoint(self, app: Starlette, token: str) -> None:
        async with serve_asgi(app) as port:
            assert (await send(port, "GET", "/private", bearer(token))).json() == "bob"
            assert (await send(port, "GET", "/private")).status == 401
            assert (await send(port, "GET", "/public")).json() is False

    async def test_a_token_that_is_not_good_is_refused(self, app: Starlette) -> None:
        async with serve_asgi(app) as port:
            reply = await send(port, "GET", "/public", bearer("forged"))
        assert reply.status == 401
        assert reply.header("www-authenticate") == 'Bearer error="invalid_token"'

    async def test_an_internal_error_reveals_no_details(self, auth: MPAuthX, token: str) -> None:
        app = Starlette()
        app.add_middleware(AuthenticationMiddleware, backend=MPAuthXBackend(auth))  # no on_error
        await auth.close()
        async with serve_asgi(app) as port:
            reply = await send(port, "GET", "/public", bearer(token))
        assert reply.body == b"The service cannot answer."

    async def test_the_operators_fault_is_not_the_clients(
        self, app: Starlette, auth: MPAuthX, token: str
    ) -> None:
        await auth.close()
        async with serve_asgi(app) as port:
            assert (await send(port, "GET", "/public", bearer(token))).status == 503
