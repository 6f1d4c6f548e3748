"""The page that FastAPI makes of the schema, in Chromium: its Authorize button and its forms."""

import json
from typing import Annotated, Any

from fastapi import Security
from fastapi_offline import FastAPIOffline
from playwright.async_api import Page, expect

from mpauthx_async import Identity, MPAuthX, WeChatSimulator
from mpauthx_async.web.fastapi import MPAuthXGuard
from tests.web.apps import serve_asgi


def app(auth: MPAuthX) -> Any:
    guard = MPAuthXGuard(auth)
    app = FastAPIOffline(lifespan=guard.lifespan)  # FastAPI, with the page's scripts served locally
    guard.install(app)
    app.include_router(guard.router())

    @app.get("/hello")
    async def hello(user: Annotated[Identity, Security(guard)]) -> str:
        return user.user_id

    return app


class DocsPage:
    """The page, as somebody uses it who tries an API out."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._dialog = page.locator(".modal-ux")

    async def open(self, port: int) -> None:
        await self._page.goto(f"http://127.0.0.1:{port}/docs")

    async def authorize(self, token: str | None) -> None:
        await self._page.get_by_role("button", name="Authorize", exact=True).click()
        if token is None:
            await self._dialog.get_by_role("button", name="Remove authorization").click()
        else:
            await self._dialog.get_by_label("Value").fill(token)
            await self._dialog.get_by_role("button", name="Apply credentials").click()
        await self._dialog.get_by_role("button", name="Close", exact=True).click()

    async def execute(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Try an operation out; returns the status and the JSON that the page shows."""
        operation = self._page.locator(f".opblock-{method.lower()}").filter(
            has=self._page.locator(f'[data-path="{path}"]')
        )
        if not await operation.get_by_role("button", name="Execute").is_visible():
            await operation.locator(".opblock-summary-control").click()
            await operation.get_by_role("button", name="Try it out").click()
        else:
            await operation.get_by_role("button", name="Clear").click()
        if body is not None:
            await operation.locator("textarea.body-param__text").fill(json.dumps(body))
        await operation.get_by_role("button", name="Execute").click()
        response = operation.locator(".live-responses-table tbody .response")
        await expect(response).to_be_visible()
        status = await response.locator(".response-col_status").inner_text()
        shown = await response.locator(".highlight-code code").first.inner_text()
        return int(status.split()[0]), json.loads(shown)


async def test_logs_in_and_authorizes_and_logs_out(
    auth: MPAuthX, wx: WeChatSimulator, browser_page: Page
) -> None:
    docs = DocsPage(browser_page)
    async with serve_asgi(app(auth)) as port:
        await docs.open(port)
        status, body = await docs.execute("GET", "/me")
        assert (status, body["status_code"]) == (401, 6104)

        status, body = await docs.execute("POST", "/login", {"code": wx.login("bob")})
        assert status == 200
        await docs.authorize(body["response"])
        status, body = await docs.execute("GET", "/me")
        assert (status, body["response"]["user_id"]) == (200, "bob")
        assert await docs.execute("GET", "/hello") == (200, "bob")

        await docs.authorize(None)
        status, body = await docs.execute("GET", "/me")
        assert (status, body["response"]) == (401, None)


async def test_shows_why_a_token_is_refused(auth: MPAuthX, token: str, browser_page: Page) -> None:
    docs = DocsPage(browser_page)
    async with serve_asgi(app(auth)) as port:
        await docs.open(port)
        await docs.authorize(token)
        status, body = await docs.execute("POST", "/logout")
        assert (status, body["response"]) == (200, True)
        for path in ("/me", "/hello"):
            status, body = await docs.execute("GET", path)
            assert (status, body["response"]) == (401, {"status": "revoked"})
