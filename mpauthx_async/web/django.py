"""MPAuthXMiddleware: gives Django's views the Identity.

Authentication is that of `mpauthx_async.web.asgi.MPAuthXMiddleware` around Django's ASGI
application: Django reads a request's whole body before any of its own middlewares is asked.
"""

from collections.abc import Awaitable, Callable
from typing import Any

try:
    from asgiref.sync import markcoroutinefunction
    from django.core.exceptions import ImproperlyConfigured
    from django.http import HttpResponse
except ImportError as _error:
    raise ImportError("mpauthx_async.web.django needs Django: pip install django") from _error

from ..errors import MPAuthXError
from .answers import Answer
from .asgi import MPAuthXMiddleware as AroundDjango
from .errors import NoTokenError

__all__ = ["MPAuthXMiddleware"]


class MPAuthXMiddleware:
    """Sets `request.mpauthx` to the Identity; None if the path is excluded from login.

    Errors of this package that a view raises become answers. Add it to settings.MIDDLEWARE as
    "mpauthx_async.web.django.MPAuthXMiddleware". On paths that need a login it refuses OPTIONS, so
    list a middleware that answers CORS preflight requests before it.

    Args:
        get_response: the rest of the app.
    """

    async_capable = True
    sync_capable = False

    def __init__(self, get_response: Callable[[Any], Awaitable[Any]]) -> None:
        self._get_response = get_response
        markcoroutinefunction(self)

    async def __call__(self, request: Any) -> Any:
        """Serve a request.

        Raises:
            ImproperlyConfigured: the ASGI application is not wrapped in the middleware of
                `mpauthx_async.web.asgi`.
        """
        outer = _outer(request)
        if outer is None:
            raise ImproperlyConfigured(
                "Wrap the ASGI application: MPAuthXMiddleware(get_asgi_application(), auth), from "
                "mpauthx_async.web.asgi."
            )
        # OPTIONS is never asked for a login, and a view does for it what it does for GET.
        if request.method == "OPTIONS" and outer.requires_login(request.scope):
            return _response(outer.refusal(NoTokenError("OPTIONS is not served here.")))
        request.mpauthx = request.scope["state"]["mpauthx"]
        return await self._get_response(request)

    def process_exception(self, request: Any, exception: Exception) -> Any:
        """Make the answer of an error of this package; None for any other."""
        outer = _outer(request)
        if outer is None or not isinstance(exception, MPAuthXError):
            return None
        return _response(outer.refusal(exception))


def _outer(request: Any) -> AroundDjango | None:
    """The middleware around Django's ASGI application; None without one."""
    outer: AroundDjango | None = getattr(request, "scope", {}).get("mpauthx")
    return outer


def _response(answer: Answer) -> HttpResponse:
    return HttpResponse(answer.body, status=answer.status, headers=dict(answer.headers))
