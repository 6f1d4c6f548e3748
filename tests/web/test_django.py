"""What is the Django middleware's own."""

from typing import Any

import httpx
import pytest
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest

from mpauthx_async import MPAuthX, StoreError
from mpauthx_async.web.django import MPAuthXMiddleware
from tests.web.apps import World, configure_django, django_app


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
    assert middleware.process_exception(HttpRequest(), StoreError("x")) is None  # not wrapped


async def test_an_error_of_a_view_is_rendered_as_any_other(auth: MPAuthX, token: str) -> None:
    world = World(auth, {"render": lambda code, text, response: [code]})
    world.late = fails  # type: ignore[method-assign]
    transport = httpx.ASGITransport(django_app(world))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as browser:
        late = await browser.get("/late", headers={"Authorization": f"Bearer {token}"})
    assert (late.status_code, late.json()) == (503, [6000])


async def test_options_reach_no_view_that_requires_a_login(auth: MPAuthX) -> None:
    world = World(auth)
    transport = httpx.ASGITransport(django_app(world))
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as browser:
        assert (await browser.options("/count")).status_code == 401
        assert (await browser.options("/nowhere")).status_code == 401


async def fails(user_id: str) -> int:
    raise StoreError(user_id)
