"""A pytest plugin: fixtures for testing an app without WeChat. pytest finds it by itself.

- `wechat`: a WeChatSimulator, which serves HTTP in a thread of its own, so that it works for tests
  and apps with and without an event loop. It is reset for each test.
- `mpauthx`: an MPAuthX on it, with SQLite files in `tmp_path`. It needs pytest-asyncio, and is
  closed after the test.
- `mpauthx_settings`: the arguments of that MPAuthX; override it to change them.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

try:
    import pytest_asyncio
except ImportError:  # then only `mpauthx` is of no use
    _decorator: Any = pytest.fixture
else:
    _decorator = pytest_asyncio.fixture

if TYPE_CHECKING:
    from .service import MPAuthX
    from .simulator import WeChatSimulator

__all__ = ["mpauthx", "mpauthx_settings", "wechat"]


@pytest.fixture(scope="session")
def _wechat_server() -> "Iterator[WeChatSimulator]":
    from .simulator import WeChatSimulator  # only for tests that use it

    simulator = WeChatSimulator()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="WeChatSimulator", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(simulator.__aenter__(), loop).result()
        try:
            yield simulator
        finally:
            closing = simulator.__aexit__(None, None, None)
            asyncio.run_coroutine_threadsafe(closing, loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def wechat(_wechat_server: "WeChatSimulator") -> "WeChatSimulator":
    """A stand-in for WeChat's servers that knows nothing of earlier tests."""
    _wechat_server.reset()
    return _wechat_server


@pytest.fixture
def mpauthx_settings(wechat: "WeChatSimulator", tmp_path: Path) -> dict[str, Any]:
    """The arguments of the fixture `mpauthx`."""
    return {
        "app_id": wechat.app_id,
        "app_secret": wechat.app_secret,
        "api_base": wechat.url,
        "sku": "test",
        "users": f"sqlite:///{tmp_path}/mpauthx-users.db",
        "tokens": f"sqlite:///{tmp_path}/mpauthx-tokens.db",
    }


async def mpauthx(mpauthx_settings: dict[str, Any]) -> "AsyncIterator[MPAuthX]":
    """A service on the fixture `wechat`, closed after the test."""
    from .service import MPAuthX  # a project that does not use it need not load it

    async with MPAuthX(**mpauthx_settings) as auth:
        yield auth


mpauthx = _decorator(mpauthx)
