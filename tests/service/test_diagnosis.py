"""What is said of a Redis, a proxy or a certificate that is not as it should be."""

import asyncio
import re
import ssl
from pathlib import Path

import pytest
import trustme
from redis.asyncio import Redis, RedisCluster
from redis.exceptions import NoPermissionError

from mpauthx_async import ConnectionFailedError, Connections, RedisTokenStore, StoreError
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.redis.keys import session_keys
from tests.helpers.redis_cluster import RedisClusterServers, ask
from tests.helpers.redis_proxy import RedisProxy
from tests.helpers.redis_server import RedisServer
from tests.helpers.scripted_server import asking

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "redis-in-production.md"
(RULE,) = re.findall(r"ACL SETUSER mpauthx .*", GUIDE.read_text("utf-8"))
PASSWORD = "a-password-of-redis"


def url_of(server: RedisServer) -> str:
    return f"redis://mpauthx:{PASSWORD}@127.0.0.1:{server.port}/0"


async def set_user(admin: Redis, rule: str = RULE) -> None:
    await admin.execute_command(*rule.replace(">PASSWORD", f">{PASSWORD}").split())


@pytest.mark.parametrize(
    "command", ["GET another", "SET another 1", "KEYS *", "FLUSHALL", "CONFIG GET *", "SHUTDOWN"]
)
async def test_the_user_of_the_guide_may_do_nothing_else(
    server: RedisServer, admin: Redis, command: str
) -> None:
    await set_user(admin)
    async with Redis.from_url(url_of(server)) as client:
        with pytest.raises(NoPermissionError):
            await client.execute_command(*command.split())


async def test_a_command_that_is_not_allowed_is_named(server: RedisServer, admin: Redis) -> None:
    await set_user(admin, f"{RULE} -mget")
    async with RedisTokenStore(url_of(server)) as store:
        with pytest.raises(StoreError, match=r"'mget'.*documentation has an ACL rule"):
            await store.lookup([new_session("bob").ref])


async def test_recognizes_a_server_without_resp3(redis_server: RedisServer) -> None:
    async with RedisProxy(redis_server) as proxy:
        proxy.instead = b"-ERR unknown command `HELLO`, with args beginning with: `3`\r\n"
        async with RedisTokenStore(f"{proxy.url}?protocol=3") as store:
            with pytest.raises(StoreError, match=r"add \?protocol=2 to its URL"):
                await store.lookup([new_session("bob").ref])


@pytest.mark.parametrize(("policy", "warnings"), [("volatile-lru", 1), ("noeviction", 0)])
async def test_an_evicting_policy_is_warned_of_once(
    server: RedisServer, admin: Redis, caplog: pytest.LogCaptureFixture, policy: str, warnings: int
) -> None:
    await admin.config_set("maxmemory", "100mb")
    await admin.config_set("maxmemory-policy", policy)
    async with Connections(server.url) as connections:
        for _ in range(2):
            async with RedisTokenStore(connections) as store:
                await store.lookup([new_session("bob").ref])
    assert caplog.text.count(f"maxmemory-policy {policy}") == warnings


def port_of(client: RedisCluster, key: str) -> int:
    return int(client.get_node_from_key(key).port)


async def test_an_evicting_node_of_a_cluster_is_warned_of_once(
    cluster_servers: RedisClusterServers, caplog: pytest.LogCaptureFixture
) -> None:
    evicting, hung, refusing = cluster_servers.primaries
    for node in cluster_servers.primaries:
        ask(node, "CONFIG", "SET", "maxmemory", "100mb")
    ask(evicting, "CONFIG", "SET", "maxmemory-policy", "volatile-lru")
    ask(refusing, "ACL", "SETUSER", "default", "-info")
    async with (
        RedisCluster(host="127.0.0.1", port=cluster_servers.port) as client,
        Connections(redis=client) as connections,
    ):
        await client.initialize()
        refs = [new_session(user_id).ref for user_id in "abcdefghijklmnop"]
        ref = next(ref for ref in refs if port_of(client, session_keys(ref)[0]) == evicting.port)
        with hung.hanging():
            for _ in range(2):
                async with RedisTokenStore(connections) as store:
                    await store.lookup([ref])
    assert caplog.text.count("maxmemory-policy volatile-lru") == 1


async def test_a_proxy_of_the_environment_is_said_to_be_ignored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("https_proxy", "http://user:secret@proxy.example:3128")
    async with Connections() as connections:
        assert connections.http is connections.http
    assert caplog.text.count("HTTPS_PROXY is set and ignored") == 1
    assert "secret" not in caplog.text


@pytest.fixture
async def strangers_server() -> asyncio.Server:
    """A TLS server whose certificate is of an authority that nobody knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    return await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)


async def test_an_unknown_certificate_of_wechat_is_named(strangers_server: asyncio.Server) -> None:
    port = strangers_server.sockets[0].getsockname()[1]
    async with strangers_server, asking(f"https://127.0.0.1:{port}") as wechat:
        with pytest.raises(ConnectionFailedError, match="certificate does not verify") as caught:
            await wechat.code_to_session("code")
    assert caught.value.sent is False


async def test_recognizes_a_wechat_server_without_tls() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, asking(f"https://127.0.0.1:{port}") as wechat:
        with pytest.raises(ConnectionFailedError, match="TLS handshake with WeChat failed"):
            await wechat.code_to_session("code")


async def test_an_unknown_certificate_of_redis_is_named(strangers_server: asyncio.Server) -> None:
    port = strangers_server.sockets[0].getsockname()[1]
    async with strangers_server, RedisTokenStore(f"rediss://127.0.0.1:{port}/0") as store:
        with pytest.raises(StoreError, match="certificate does not verify"):
            await store.lookup([new_session("bob").ref])
