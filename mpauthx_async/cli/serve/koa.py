"""The routes of the koa and mongo login scaffold, as its example page calls them."""

from collections.abc import Awaitable, Callable

from aiohttp import web

from ...errors import MPAuthXError
from ...service import MPAuthX
from ...web.aiohttp import headers_of, response_of
from ...web.answers import refusal
from ...web.credentials import token_of

__all__ = ["koa_routes"]

_NEW, _KNOWN = "登录成功, 用户信息入库成功", "登录成功，用户已入库"
_VALID = "token有效"


def koa_routes(auth: MPAuthX) -> list[web.RouteDef]:
    """Make `GET /user/login`, and `GET /home/test`, which wants a token.

    The session key, which the scaffold sent to the client, stays here.
    """
    return [
        web.get("/user/login", _answering(auth, _login)),
        web.get("/home/test", _answering(auth, _test)),
    ]


async def _login(auth: MPAuthX, request: web.Request) -> web.Response:
    query = request.query
    result = await auth.authorize(
        query.get("code", ""), query.get("encryptedData") or None, query.get("iv") or None
    )
    message = _NEW if result.is_new_user else _KNOWN
    return _json({"statusCode": 200, "message": message, "Token": result.token})


async def _test(auth: MPAuthX, request: web.Request) -> web.Response:
    await auth.authenticate(token_of(request.method, headers_of(request)))
    return _json({"statusCode": 200, "message": _VALID})


def _answering(
    auth: MPAuthX, act: Callable[[MPAuthX, web.Request], Awaitable[web.Response]]
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handler(request: web.Request) -> web.Response:
        try:
            return await act(auth, request)
        except MPAuthXError as error:
            return response_of(refusal(error, lambda _code, message, _details: {"error": message}))

    return handler


def _json(body: dict[str, object]) -> web.Response:
    return web.json_response(body, headers={"Cache-Control": "no-store"})
