"""What is the FastAPI guard's own."""

import re
from typing import Annotated, Any

import httpx
import pytest
import websockets
from fastapi import Depends, FastAPI, HTTPException, Request, Security, WebSocket

from mpauthx_async import ConfigurationError, Identity, MPAuthX, StoreError
from mpauthx_async.web.fastapi import MPAuthXGuard
from tests.web.apps import serve_asgi
from tests.web.raw_client import bearer


@pytest.fixture
def guard(auth: MPAuthX) -> MPAuthXGuard:
    return MPAuthXGuard(auth)


@pytest.fixture
def app(guard: MPAuthXGuard) -> FastAPI:
    app = FastAPI()
    guard.install(app)
    app.include_router(guard.router(prefix="/auth"))

    @app.get("/hello")
    async def hello(user: Annotated[Identity, Security(guard)]) -> str:
        return user.user_id

    @app.get("/maybe")
    async def maybe(user: Annotated[Identity | None, Security(guard.optional)]) -> str | None:
        return user and user.user_id

    return app


def client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://app")


async def test_the_schema_has_the_authorize_button(app: FastAPI) -> None:
    schema = app.openapi()
    scheme = {"type": "http", "scheme": "bearer"}
    scheme["description"] = "The token that POST /login gave."
    assert schema["components"]["securitySchemes"] == {"MPAuthX": scheme}
    ours = ("login", "me", "logout", "rotate", "sessions", "sessions/{session_id}")
    assert schema["paths"].keys() == {"/hello", "/maybe", *(f"/auth/{path}" for path in ours)}
    for path, methods in schema["paths"].items():
        for operation in methods.values():
            wanted = None if path == "/auth/login" else [{"MPAuthX": []}]
            assert operation.get("security") == wanted, path


async def test_the_schema_has_bodies_and_refusals(app: FastAPI) -> None:
    login = app.openapi()["paths"]["/auth/login"]["post"]
    body = login["requestBody"]["content"]["application/json"]["schema"]
    assert list(body["properties"]) == ["code", "encryptedData", "iv", "device", "deviceKind"]
    assert body["required"] == ["code"]
    refusals = {"400", "401", "403", "408", "413", "429", "502", "503"}
    assert login["responses"].keys() == {"200"} | refusals
    models = app.openapi()["components"]["schemas"]
    assert models["_Me"]["required"] == ["user_id", "session_id", "sku"]


async def test_the_schema_has_the_parameters_of_each_path(guard: MPAuthXGuard) -> None:
    app = FastAPI()
    app.include_router(guard.router(prefix="/{app}"))
    for path, methods in app.openapi()["paths"].items():
        for told in methods.values():
            names = [parameter["name"] for parameter in told["parameters"]]
            assert "".join(f"{{{name}}}" for name in names) == re.sub(r"[^{}]+(?![^{]*})", "", path)


async def test_a_custom_envelope_leaves_the_models_out(auth: MPAuthX) -> None:
    app = FastAPI()
    guard = MPAuthXGuard(auth, render=lambda code, text, response: [code])
    app.include_router(guard.router())
    assert set(app.openapi()["paths"]["/login"]["post"]["responses"]) == {"200"}
    async with client(app) as browser:
        assert (await browser.get("/me")).json() == [6104]


async def test_optional_is_none_without_a_token(app: FastAPI, token: str) -> None:
    async with client(app) as browser:
        assert (await browser.get("/maybe")).json() is None
        assert (await browser.get("/maybe", headers=bearer(token))).json() == "bob"
        assert (await browser.get("/maybe", headers=bearer("forged"))).status_code == 401


async def test_optional_is_none_with_a_cookie_that_is_not_valid(auth: MPAuthX, token: str) -> None:
    app, guard = FastAPI(), MPAuthXGuard(auth, cookies=True)
    guard.install(app)

    @app.get("/maybe")
    async def maybe(user: Annotated[Identity | None, Security(guard.optional)]) -> str | None:
        return user and user.user_id

    cookie = [("Cookie", f"__Host-mpauthx={token}")]
    async with client(app) as browser:
        assert (await browser.get("/maybe", headers=cookie)).json() == "bob"
        await auth.revoke(token)
        dead = await browser.get("/maybe", headers=cookie)
        assert (dead.status_code, dead.json()) == (200, None)
        assert (await browser.get("/maybe", headers=cookie + bearer(token))).status_code == 401


async def test_one_request_authenticates_once(auth: MPAuthX, token: str) -> None:
    calls = []

    def pick(connection: Any) -> MPAuthX:
        calls.append(connection)
        return auth

    app, guard = FastAPI(), MPAuthXGuard(pick)
    current_user = Annotated[Identity, Security(guard)]

    async def admin(user: current_user) -> Identity:  # type: ignore[valid-type]
        return user

    @app.get("/", dependencies=[Depends(admin)])
    async def endpoint(user: current_user) -> str:  # type: ignore[valid-type]
        return user.user_id  # type: ignore[attr-defined,no-any-return]

    async with client(app) as browser:
        assert (await browser.get("/", headers=bearer(token))).json() == "bob"
    assert len(calls) == 1


async def test_a_function_picks_the_service(auth: MPAuthX, game: MPAuthX, of_game: str) -> None:
    services = {"shop": auth, "game": game}
    guard = MPAuthXGuard(lambda connection: services[connection.path_params["app"]])
    app = FastAPI(lifespan=guard.lifespan)
    guard.install(app)
    app.include_router(guard.router(prefix="/{app}"))
    async with app.router.lifespan_context(app), client(app) as browser:
        me = await browser.get("/game/me", headers=bearer(of_game))
        assert me.json()["response"]["sku"] == "game"
        assert (await browser.get("/shop/me", headers=bearer(of_game))).status_code == 401
    assert await auth.online_count() == 0  # both are open


async def test_dependencies_hold_for_all_routes(guard: MPAuthXGuard) -> None:
    def limit(request: Request) -> None:
        raise HTTPException(429)

    app = FastAPI()
    app.include_router(guard.router(dependencies=[Depends(limit)]))
    async with client(app) as browser:
        for method, path in (("POST", "/login"), ("GET", "/me"), ("DELETE", "/sessions/x")):
            assert (await browser.request(method, path)).status_code == 429


async def test_other_errors_of_endpoints_are_left_to_fastapi(app: FastAPI) -> None:
    @app.get("/other")
    async def other() -> None:
        raise HTTPException(418)

    async with client(app) as browser:
        assert (await browser.get("/other")).status_code == 418


async def test_an_error_after_the_handshake_closes_the_websocket(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    errors = {"store": StoreError("x"), "configuration": ConfigurationError("Mend the websocket.")}

    @app.websocket("/ws/{kind}")
    async def ws(websocket: WebSocket, kind: str) -> None:
        await websocket.accept()
        raise errors[kind]

    async with serve_asgi(app) as port:
        for kind, code in (("store", 1013), ("configuration", 1011)):
            async with websockets.connect(f"ws://127.0.0.1:{port}/ws/{kind}") as websocket:
                with pytest.raises(websockets.exceptions.ConnectionClosed):
                    await websocket.recv()
                assert websocket.close_code == code
    assert "Mend the websocket." in caplog.text  # nobody else is told


async def test_tests_may_override_the_guard(app: FastAPI, guard: MPAuthXGuard) -> None:
    app.dependency_overrides[guard] = lambda: Identity("alice", "session", "shop", "token")
    async with client(app) as browser:
        assert (await browser.get("/hello")).json() == "alice"
