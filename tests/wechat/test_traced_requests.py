"""What an application's aiohttp session is told of the requests to WeChat: never a secret."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from mpauthx_async import (
    CodeSession,
    ConnectionFailedError,
    Connections,
    EmptyResponseError,
    InvalidResponseError,
    WeChatAPI,
    WeChatAPIError,
)
from tests.helpers.scripted_server import (
    APP_ID,
    APP_SECRET,
    PATH,
    SECRET_WORD,
    Act,
    Answer,
    Server,
    refused,
    success,
)
from tests.helpers.secret_search import everything_told, local_variables

CODE = "code-GEHEIM"
TOKEN = Answer('{"access_token": "token-GEHEIM", "expires_in": 7200}')
BEFORE_THE_ANSWER = ["on_request_start", "on_request_headers_sent"]


class Recorder:
    """KeyValueStore all that a session's traces are told, as it is told.

    Attributes:
        told: the names of the signals, and texts.
        sizes: of the chunks.
        gate: what `on_request_headers_sent` waits for.
    """

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.sizes: dict[str, int] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()
        self.config = aiohttp.TraceConfig()
        for name in (
            "on_request_start",
            "on_request_headers_sent",
            "on_request_chunk_sent",
            "on_response_chunk_received",
            "on_request_end",
            "on_request_exception",
        ):
            getattr(self.config, name).append(self._listener(name))

    @property
    def signals(self) -> list[str]:
        return [name for name, _ in self.told]

    @property
    def text(self) -> str:
        return "\n".join(text for _, text in self.told)

    def _listener(self, name: str) -> Callable[..., Awaitable[None]]:
        async def listen(_: aiohttp.ClientSession, __: SimpleNamespace, params: Any) -> None:
            self.told.append((name, repr(params) + _texts(params)))
            if hasattr(params, "chunk"):
                self.sizes[name] = len(params.chunk)
            if name == "on_request_headers_sent":
                self.reached.set()
                await self.gate.wait()

        return listen


def _texts(params: Any) -> str:
    response, error = getattr(params, "response", None), getattr(params, "exception", None)
    texts = [str(params.url), repr(params.url.query)]
    if response is not None:
        texts += [repr(response), repr(response.request_info), repr(response.real_url)]
    if error is not None:
        texts += [everything_told(error), local_variables(error, attributes=False)]
    return "\n".join(texts)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
async def ask(recorder: Recorder) -> AsyncIterator[Callable[..., WeChatAPI]]:
    """Make an API over a session of the application's, which is traced."""
    sessions: list[aiohttp.ClientSession] = []

    def make(host: str, **options: Any) -> WeChatAPI:
        http = aiohttp.ClientSession(trace_configs=[recorder.config], **options)
        sessions.append(http)
        connections = Connections(http=http)
        return WeChatAPI(
            app_id=APP_ID, app_secret=APP_SECRET, connections=connections, api_base=host
        )

    yield make
    for http in sessions:
        await http.close()


async def test_traces_answers_by_path(recorder: Recorder, ask: Callable[..., WeChatAPI]) -> None:
    async with Server(success()) as server:
        assert isinstance(await ask(server.url).code_to_session(CODE), CodeSession)
    assert SECRET_WORD in server.requests[0]
    assert recorder.signals == [*BEFORE_THE_ANSWER, "on_request_end"]
    assert recorder.text.count(f"{server.url}{PATH}") >= len(recorder.signals)
    assert SECRET_WORD not in recorder.text


async def test_a_body_that_is_sent_is_traced_by_its_size(
    recorder: Recorder, ask: Callable[..., WeChatAPI]
) -> None:
    async with Server(TOKEN, refused(40029)) as server:
        wechat = ask(server.url)
        assert await wechat.get_stable_token() == ("token-GEHEIM", 7200)
        with pytest.raises(WeChatAPIError):
            await wechat.get_phone_number(CODE, "token-GEHEIM")
    assert "access_token=token-GEHEIM" in server.requests[1]
    assert recorder.signals.count("on_request_chunk_sent") == 2
    assert recorder.sizes["on_request_chunk_sent"] == len(f'{{"code": "{CODE}"}}')
    assert SECRET_WORD not in recorder.text


@pytest.mark.parametrize("act", Act)
@pytest.mark.parametrize("posts", [False, True])
async def test_a_failure_is_traced_without_the_url_that_aiohttp_quotes(
    act: Act, posts: bool, recorder: Recorder, ask: Callable[..., WeChatAPI]
) -> None:
    async with Server(act) as server:
        wechat = ask(server.url, timeout=aiohttp.ClientTimeout(sock_read=0.2))
        with pytest.raises(ConnectionFailedError):
            await (wechat.get_stable_token() if posts else wechat.code_to_session(CODE))
        await server.asked.wait()
    assert recorder.signals[:2] == BEFORE_THE_ANSWER
    assert recorder.signals[-1] == "on_request_exception"
    assert SECRET_WORD not in recorder.text


async def test_a_call_that_is_cancelled_while_it_sends_is_traced_without_secrets(
    recorder: Recorder, ask: Callable[..., WeChatAPI]
) -> None:
    async with Server(success(), keep_alive=True) as server:
        wechat = ask(server.url)
        await wechat.code_to_session(CODE)  # from here on there is a connection
        recorder.gate.clear()
        recorder.reached.clear()
        call = asyncio.ensure_future(wechat.code_to_session(CODE))
        await recorder.reached.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await call
    assert recorder.signals[-1] == "on_request_exception"
    assert SECRET_WORD not in recorder.text
    assert SECRET_WORD not in local_variables(caught.value)


async def test_the_response_of_a_success_holds_no_secret_url(
    recorder: Recorder, ask: Callable[..., WeChatAPI]
) -> None:
    seen: list[aiohttp.ClientResponse] = []

    class Response(aiohttp.ClientResponse):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            seen.append(self)

    async with Server(Answer("")) as server:
        with pytest.raises(EmptyResponseError):
            await ask(server.url, response_class=Response).code_to_session(CODE)
    (response,) = seen
    urls = (response.url, response.real_url, response.request_info.url, response.history)
    assert SECRET_WORD not in repr((response, urls, response.request_info))


async def test_a_session_with_middlewares_of_its_own_serves(ask: Callable[..., WeChatAPI]) -> None:
    asked: list[object] = []

    async def middleware(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        asked.append(request)
        return await handler(request)

    async with Server(success()) as server:
        wechat = ask(server.url, middlewares=(middleware,), raise_for_status=True)
        assert (await wechat.code_to_session(CODE)).open_id == "bob"
    assert f"js_code={CODE}" in server.requests[0]
    assert asked == []  # ours take their place: they would see the request with its secrets


async def test_a_proxy_gets_whole_urls(recorder: Recorder, ask: Callable[..., WeChatAPI]) -> None:
    async with Server(success(openid="")) as proxy:
        with pytest.raises(InvalidResponseError):
            await ask("http://weixin.invalid", proxy=proxy.url).code_to_session(CODE)
    assert proxy.requests[0].startswith(f"GET http://weixin.invalid{PATH}?appid={APP_ID}&secret=")
    assert f"&js_code={CODE}&grant_type=authorization_code HTTP/1.1\r\n" in proxy.requests[0]
    assert SECRET_WORD not in recorder.text
