"""A headless Chromium for tests, driven by playwright."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from playwright.async_api import BrowserContext, Page, async_playwright

PATIENCE = 60_000  # milliseconds that stand for ever

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_ARGUMENTS = (
    "--no-sandbox",  # Chromium's sandbox refuses to run as root
    "--disable-dev-shm-usage",  # a container's /dev/shm is too small
    # Names that are not the loopback's resolve to nothing, so no request leaves the machine.
    "--host-resolver-rules=" + ", ".join(["MAP * ~NOTFOUND", *(f"EXCLUDE {h}" for h in _LOOPBACK)]),
)


def find_chromium() -> str:
    """The path of the browser; raises RuntimeError, which says what to install."""
    for path in filter(None, map(shutil.which, _NAMES)):
        return path
    raise RuntimeError(
        "There is no Chromium. Install one: 'apt-get install chromium' or "
        "'brew install --cask google-chrome', and have it on PATH as "
        f"{', '.join(_NAMES[:-1])} or {_NAMES[-1]}."
    )


@asynccontextmanager
async def open_page() -> AsyncIterator[Page]:
    """Open a page in a browser of its own.

    Raises:
        AssertionError: at the end, if a page raised an error that it did not catch, or asked a
            host other than the loopback for something.
        RuntimeError: if there is no browser.
    """
    async with async_playwright() as playwright:
        path = find_chromium()
        browser = await playwright.chromium.launch(executable_path=path, args=list(_ARGUMENTS))
        try:
            context = await browser.new_context()
            context.set_default_timeout(PATIENCE)
            faults = _watch(context)
            yield await context.new_page()
            assert not faults, "The page caused " + "; ".join(faults)
        finally:
            await browser.close()


def _watch(context: BrowserContext) -> list[str]:
    """Collect what no page of a context may do."""
    faults: list[str] = []

    def check(url: str) -> None:
        # data: and blob: have no host
        if urlsplit(url).hostname not in (None, *_LOOPBACK):
            faults.append(f"a request to {url}")

    def watch_websockets(page: Page) -> None:
        page.on("websocket", lambda websocket: check(websocket.url))

    context.on("request", lambda request: check(request.url))
    context.on("page", watch_websockets)
    context.on("weberror", lambda error: faults.append(f"an uncaught {error.error}"))
    return faults
