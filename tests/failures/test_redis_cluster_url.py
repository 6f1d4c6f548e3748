"""A service on a Redis Cluster that its URL names, while the cluster changes under load."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from mpauthx_async import ConfigurationError, Connections, MPAuthX, StoreError, WeChatSimulator
from mpauthx_async.stores import open_token_store
from mpauthx_async.stores.conformance.examples import until
from tests.helpers.outages import until_true
from tests.helpers.redis_cluster import MovingSlot, RedisClusterServers
from tests.helpers.redis_contents import session_key
from tests.helpers.redis_server import catch_up
from tests.helpers.service_calls import log_in

DEAD = "127.0.0.1:1"  # nothing listens on this port


def url_of(servers: RedisClusterServers) -> str:
    """It names a node that is down first."""
    return f"redis+cluster://{DEAD},127.0.0.1:{servers.port}"


class Load:
    """Begins, checks and revokes sessions without end, and notes what was acknowledged."""

    def __init__(self, auth: MPAuthX) -> None:
        self._auth = auth
        self.living: list[str] = []
        self.revoked: list[str] = []
        self.failed: list[StoreError] = []

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        workers = [asyncio.create_task(self._work(number)) for number in range(8)]
        try:
            yield
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.wait(workers)
            assert all(worker.cancelled() for worker in workers), workers

    async def until_more(self, count: int) -> None:
        """Wait for so many more acknowledged sessions."""
        target = len(self.living) + count
        await until_true(lambda: len(self.living) >= target)

    async def judge(self) -> None:
        assert all(await asyncio.gather(*map(self._auth.is_token_valid, self.living)))
        assert not any(await asyncio.gather(*map(self._auth.is_token_valid, self.revoked)))

    async def _work(self, worker: int) -> None:
        number = 0
        while True:
            number += 1
            try:
                user = f"user-{worker}-{number}"
                token = (await self._auth.issue_session(open_id=user)).token
                if number % 4 == 0:
                    await self._auth.revoke(token)
                    self.revoked.append(token)
                else:
                    self.living.append(token)
            except StoreError as error:
                self.failed.append(error)
                await asyncio.sleep(0.05)


@pytest.fixture
async def auth(
    make: Callable[..., MPAuthX], cluster_servers: RedisClusterServers
) -> AsyncIterator[MPAuthX]:
    async with make(tokens=url_of(cluster_servers)) as service:
        yield service


async def test_a_failover_and_a_resharding_under_load_lose_nothing(
    auth: MPAuthX, cluster_servers: RedisClusterServers, wx: WeChatSimulator
) -> None:
    known = await log_in(auth, wx)
    app_token = await auth.access_token()
    load = Load(auth)
    async with load.at_work():
        await load.until_more(50)
        await asyncio.to_thread(cluster_servers.fail_over, 0)
        await load.until_more(50)
        await asyncio.to_thread(cluster_servers.fail_over, 0)  # back again
        await load.until_more(50)
        assert known.session is not None
        moving = await asyncio.to_thread(
            MovingSlot, cluster_servers, session_key(known.session.ref)
        )
        await load.until_more(50)
        await asyncio.to_thread(moving.finish)
        await load.until_more(50)
    await load.judge()
    assert all(error.retryable for error in load.failed)
    assert await auth.is_token_valid(known.response)
    assert await auth.access_token() == app_token
    assert (await auth.authorize_web(wx.web_login("bob"))).token
    await auth.check()


async def test_a_killed_primary_delays_only_its_users(
    auth: MPAuthX, cluster_servers: RedisClusterServers
) -> None:
    load = Load(auth)
    async with load.at_work():
        await load.until_more(50)
        acknowledged = list(load.living)
        await asyncio.to_thread(catch_up, cluster_servers.primaries[1])
        cluster_servers.primaries[1].stop(signal.SIGKILL)
        await load.until_more(200)

    async def are_all_valid() -> bool:
        try:
            return all(await asyncio.gather(*map(auth.is_token_valid, acknowledged)))
        except StoreError as error:
            load.failed.append(error)
            return False

    await until(are_all_valid)
    assert all(error.retryable for error in load.failed)


@pytest.mark.parametrize("scheme", ["redis+cluster", "valkeys+cluster"])
def test_a_near_cache_on_a_cluster_is_refused_with_the_reason(scheme: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Redis Cluster.*leave near_cache out"):
        open_token_store(f"{scheme}://a,b?near_cache=100", Connections())
