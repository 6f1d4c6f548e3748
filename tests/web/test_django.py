"""What is the Django middleware's own."""

from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest

from mpauthx_async import StoreError
from mpauthx_async.web.django import MPAuthXMiddleware
from tests.web.apps import configure_django


@pytest.fixture(autouse=True)
def settings() -> None:
    configure_django()


async def view(request: Any) -> Any:
    return request.mpauthx


async def test_needs_the_asgi_middleware_around_it() -> None:
    with pytest.raises(ImproperlyConfigured, match="Wrap the ASGI application"):
        await MPAuthXMiddleware(view)(HttpRequest())


async def test_leaves_other_errors_to_others() -> None:
    middleware = MPAuthXMiddleware(view)
    assert middleware.process_exception(HttpRequest(), ValueError("x")) is None
    assert middleware.process_exception(HttpRequest(), StoreError("x")).status_code == 503
