"""No token is in a frame of an error that an adapter raises, nor in what it logs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import product
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from mpauthx_async import MPAuthX
from mpauthx_async.web.asgi import MPAuthXMiddleware
from mpauthx_async.web.authenticator import Service
from mpauthx_async.web.fastapi import MPAuthXGuard
from mpauthx_async.web.starlette import MPAuthXBackend
from tests.helpers.secret_search import local_variables

Ask = Callable[[HTTPConnection], Awaitable[Any]]

ADAPTERS: dict[str, Callable[[Service], Ask]] = {
    "guard": MPAuthXGuard,
    "optional": lambda auth: MPAuthXGuard(auth).optional,
    "cookie": lambda auth: MPAuthXGuard(auth, cookies=True),
    "backend": lambda auth: MPAuthXBackend(auth).authenticate,
}


def connection(*headers: tuple[bytes, bytes]) -> HTTPConnection:
    return HTTPConnection({"type": "http", "method": "POST", "path": "/", "headers": headers})


@pytest.mark.parametrize(
    ("adapter", "trouble"),
    [("cookie", "cross-site"), *product(ADAPTERS, ("revoked", "closed", "two headers"))],
)
async def test_no_token_is_in_an_error(
    auth: MPAuthX, token: str, adapter: str, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    headers = [(b"authorization", f"Bearer {token}".encode())]
    if trouble == "revoked":
        await auth.revoke(token)
    if trouble == "closed":
        await auth.close()
    if trouble == "two headers":
        headers *= 2
    if trouble == "cross-site":
        headers = [(b"cookie", f"__Host-mpauthx={token}".encode())]
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its frames are what counts
        await ADAPTERS[adapter](auth)(connection(*headers))
    for told in (local_variables(caught.value), str(caught.value), caplog.text):
        assert token.rpartition("|")[2] not in told


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("failure", [RuntimeError("The app failed."), asyncio.CancelledError()])
async def test_no_token_is_in_an_error_of_the_function_that_picks_a_service(
    adapter: str, failure: BaseException
) -> None:
    async def pick(connection: object) -> MPAuthX:
        raise failure

    ask = ADAPTERS[adapter](pick)
    with pytest.raises(type(failure)) as caught:
        await ask(connection((b"authorization", b"Bearer a|secret")))
    assert "a|secret" not in local_variables(caught.value)


async def test_no_token_is_in_an_error_that_passes_the_middleware(
    auth: MPAuthX, token: str
) -> None:
    async def fail(*_: object) -> None:
        raise ValueError("The app failed.")

    headers = [(b"authorization", f"Bearer {token}".encode())]
    asked: dict[str, tuple[str, Any]] = {"GET": ("/x", receive), "POST": ("/auth/rotate", fail)}
    for method, (path, send) in asked.items():
        scope = {"type": "http", "method": method, "path": path, "headers": headers}
        middleware = MPAuthXMiddleware(fail, auth, prefix="/auth")
        with pytest.raises(ValueError, match="failed") as caught:
            await middleware(scope, receive, send)
        assert token.rpartition("|")[2] not in local_variables(caught.value)
        assert "access_token" not in local_variables(caught.value)


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b""}
