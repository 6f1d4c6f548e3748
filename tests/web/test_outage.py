"""An endpoint under load while Redis is stopped and started again.

It takes a few rounds of requests; OUTAGE_SECONDS=60 in the environment makes it a whole minute.
"""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator

import aiohttp
import pytest

from mpauthx_async import MPAuthX, StatusCode, WeChatSimulator
from tests.helpers.redis_server import RedisServer

USERS = 20
ROUNDS = 2  # answers to each client, of each phase
SECONDS = float(os.environ.get("OUTAGE_SECONDS", "0"))
NORMAL = {"good": 200, "dead": 401, "forged": 401}


log = logging.getLogger(__name__)


class Load:
    """Clients that ask without a pause, and how they are answered.

    Each answer is the one that its token gets, or a 503 in our form; whatever else fails the test.
    """

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self._answers: Counter[tuple[str, int]] = Counter()
        self._of_client: list[list[int]] = []
        self._answered = asyncio.Event()

    async def client(self, kind: str, user_id: str, token: str) -> None:
        statuses: list[int] = []
        self._of_client.append(statuses)
        while True:
            status = await self._ask(user_id, token)
            assert status in (NORMAL[kind], 503)
            statuses.append(status)
            self._answers[kind, status] += 1
            self._answered.set()

    async def rounds(self, count: int) -> None:
        """Until each client has had so many answers."""
        wanted = [(statuses, len(statuses) + count) for statuses in self._of_client]
        while any(len(statuses) < number for statuses, number in wanted):
            await self._next_answer()

    async def phase(self, name: str) -> Counter[tuple[str, int]]:
        """What is answered in a few rounds, and in a third of SECONDS."""
        self._answers.clear()
        await asyncio.sleep(SECONDS / 3)
        await self.rounds(ROUNDS)
        log.info("%s: %s", name, dict(self._answers))
        return self._answers.copy()

    async def until_normal(self) -> None:
        """Until the last answer to each client is no 503."""
        while any(statuses[-1] == 503 for statuses in self._of_client):
            await self._next_answer()

    async def _next_answer(self) -> None:
        self._answered.clear()
        await self._answered.wait()

    async def _ask(self, user_id: str, token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        async with self._http.get("/hello", headers=headers) as answer:
            body = await answer.json()
            if answer.status == 200:
                assert body == {"user_id": user_id}
            elif answer.status == 401:
                assert body["status_code"] == StatusCode.invalid_token
            else:
                assert body["status_code"] == StatusCode.database_related_error
                assert answer.headers["Retry-After"] == "1"
            return answer.status


@pytest.fixture
def persistent() -> Iterator[RedisServer]:
    """A Redis that still has its sessions after a restart."""
    with RedisServer(appendonly="yes", appendfsync="always") as server:
        yield server


@pytest.fixture(params=["", "?near_cache=1000"], ids=["without", "near cache"])
async def auth(
    request: pytest.FixtureRequest, make: Callable[..., MPAuthX], persistent: RedisServer
) -> AsyncIterator[MPAuthX]:
    async with make(tokens=persistent.url + request.param) as auth:
        yield auth


@pytest.fixture
async def tokens(auth: MPAuthX, wx: WeChatSimulator) -> list[tuple[str, str, str]]:
    """A good and a revoked token of each user, and a forged one: its kind, its user, and it."""
    tokens = [("forged", "user-0", "user-0|shop|" + "A" * 43)]
    for user_id in (f"user-{number}" for number in range(USERS)):
        tokens.append(("good", user_id, (await auth.authorize(wx.login(user_id))).token))
        tokens.append(("dead", user_id, (await auth.authorize(wx.login(user_id))).token))
        await auth.revoke(tokens[-1][2])
    return tokens


@pytest.mark.parametrize("framework", ["fastapi", "aiohttp", "starlette"], indirect=True)
async def test_answers_503_while_redis_is_down_and_200_before_and_after(
    tokens: list[tuple[str, str, str]], port: int, persistent: RedisServer
) -> None:
    async with (
        asyncio.timeout(120 + SECONDS),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http,
        asyncio.TaskGroup() as group,
    ):
        load = Load(http)
        clients = [group.create_task(load.client(*token)) for token in tokens]
        await asyncio.sleep(0)  # they begin
        assert set(await load.phase("before")) == set(NORMAL.items())

        await asyncio.to_thread(persistent.stop)
        await load.rounds(2)  # the second of them was asked of no Redis
        outage = {("good", 503), ("dead", 503), ("forged", 401)}
        assert set(await load.phase("without Redis")) == outage

        await asyncio.to_thread(persistent.start)
        await load.until_normal()
        assert set(await load.phase("after")) == set(NORMAL.items())
        for client in clients:
            client.cancel()
