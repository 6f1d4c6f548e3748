"""check: whether the stores can serve now."""

import asyncio
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from redis.asyncio import Redis, RedisCluster

from mpauthx_async import ConfigurationError, MPAuthX, RedisTokenStore, SessionRef, StoreError
from mpauthx_async.stores import readiness
from mpauthx_async.stores.redis.server_checks import check_server
from tests.helpers.memory_stores import MemoryTokens, MemoryUsers
from tests.helpers.redis_proxy import RedisProxy
from tests.helpers.redis_server import RedisServer

Make = Callable[..., MPAuthX]


async def failure(auth: MPAuthX) -> str:
    with pytest.raises(StoreError) as caught:
        await auth.check()
    return str(caught.value)


async def test_passes_on_a_cluster(make: Make, cluster: RedisCluster) -> None:
    async with make(tokens=RedisTokenStore(cluster)) as auth:
        await auth.check()


async def test_passes_with_stores_of_ones_own(make: Make) -> None:
    async with make(users=MemoryUsers(), tokens=MemoryTokens()) as auth:
        await auth.check()


async def test_names_the_token_store_whose_server_is_down(make: Make, server: RedisServer) -> None:
    async with make(tokens=server.url) as auth:
        await auth.check()
        server.stop()
        assert "token store cannot serve" in await failure(auth)
        server.start()
        await auth.check()


async def test_names_the_user_store_whose_file_does_not_open(make: Make, tmp_path: Path) -> None:
    async with make(users=f"sqlite:///{tmp_path}/missing/users.db") as auth:
        told = await failure(auth)
    assert "user store cannot serve" in told
    assert "missing/users.db" in told


async def test_a_store_that_hangs_fails_in_time(
    make: Make, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with make(tokens=server.url) as auth:
        await auth.check()  # from now on the users' file is open
        assert (readiness._OWN_TIMEOUT, readiness._TIMEOUT) == (1.5, 2)
        monkeypatch.setattr(readiness, "_TIMEOUT", 60)
        with server.hanging():
            told = await failure(auth)
    assert "token store cannot serve. Redis failed (TimeoutError: no answer in time)." in told
    assert "its URL begins with rediss" in told


async def test_a_custom_store_that_hangs_is_named_by_its_class(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "_TIMEOUT", 0.05)
    async with make(users=Hanging(), tokens=MemoryTokens()) as auth:
        told = await failure(auth)
    assert "user store cannot serve. Hanging did not answer within 0.05 seconds" in told


async def test_a_hanging_sql_server_is_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "_TIMEOUT", 60)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+asyncpg://bob:Xy-s3cret@127.0.0.1:{silent.getsockname()[1]}/shop"
        async with make(users=url, tokens=MemoryTokens()) as auth:
            told = await failure(auth)
    assert "user store cannot serve. The database shop at 127.0.0.1:" in told
    assert "(postgresql+asyncpg) did not answer in time" in told
    assert "s3cret" not in told


@pytest.mark.parametrize(
    ("user", "path", "advice"),
    [
        (":wr0ng@", "/0", "the user and the password"),
        ("nobody:wr0ng@", "/0", "the user and the password"),
        ("", "/99", "fewer databases"),
    ],
)
async def test_what_only_the_operator_can_mend_is_not_retryable(
    make: Make, server: RedisServer, admin: Redis, user: str, path: str, advice: str
) -> None:
    if user:
        await admin.config_set("requirepass", "r1ght")
    async with make(tokens=f"redis://{user}127.0.0.1:{server.port}{path}") as auth:
        with pytest.raises(StoreError, match=advice) as caught:
            await auth.check()
    assert not caught.value.retryable


class Broken(MemoryTokens):
    async def lookup(self, refs: Sequence[SessionRef]) -> Sequence[int | None]:
        raise OSError("the disk of tokens is gone")


class Hanging(MemoryUsers):
    async def check(self) -> None:
        await asyncio.Event().wait()


class Unready(MemoryUsers):
    async def check(self) -> None:
        raise StoreError("It is being migrated.")


async def test_a_custom_store_is_read_or_checked(make: Make) -> None:
    async with make(users=MemoryUsers(), tokens=Broken()) as auth:
        assert "token store cannot serve" in await failure(auth)
    async with make(users=Unready(), tokens=MemoryTokens()) as auth:
        assert await failure(auth) == "The user store cannot serve. It is being migrated."


async def test_a_replica_cannot_serve(make: Make, server: RedisServer, admin: Redis) -> None:
    await admin.replicaof("127.0.0.1", "1")
    async with make(tokens=server.url) as auth:
        assert "leads to a replica" in await failure(auth)


@pytest.mark.parametrize("version", ["6.0.20", "5.0.14"])
async def test_a_server_that_is_too_old_is_a_configuration_error(
    make: Make, redis_server: RedisServer, version: str
) -> None:
    async with RedisProxy(redis_server) as proxy, make(tokens=proxy.url) as auth:
        await auth.check()
        info = f"redis_version:{version}\r\nrole:master\r\n".encode()
        proxy.instead = b"$%d\r\n%s\r\n" % (len(info), info)
        with pytest.raises(ConfigurationError, match=rf"Redis {version} is too old"):
            await auth.check()


def test_a_server_that_tells_neither_version_nor_role_is_taken_as_it_is() -> None:
    check_server({"proxy_mode": 1}, None)


async def test_passes_for_many_at_once(auth: MPAuthX) -> None:
    await asyncio.gather(*(auth.check() for _ in range(50)))
