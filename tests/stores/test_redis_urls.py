"""URLs of every kind of Redis: what they name, and what is said of those that are wrong."""

import traceback
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

from mpauthx_async import ConfigurationError, Connections, RedisTokenStore
from mpauthx_async.stores import open_key_value_store, open_token_store
from mpauthx_async.stores.conformance import new_session
from tests.helpers.redis_server import RedisServer


def pool_of(url: str) -> Any:
    client = Connections(url).redis
    assert isinstance(client, Redis)
    return client.connection_pool


def sentinels_of(pool: Any) -> list[tuple[str, int]]:
    clients = [client.connection_pool.connection_kwargs for client in pool.sentinel_manager.clients]
    return [(settings["host"], settings["port"]) for settings in clients]


@pytest.mark.parametrize(
    ("url", "settings"),
    [
        ("redis://", {}),
        ("redis://db.example", {"host": "db.example"}),
        ("redis://db.example:6380/", {"host": "db.example", "port": 6380}),
        ("redis://db.example/3", {"db": 3}),
        ("redis://db.example?db=3&socket_timeout=0.5", {"db": 3, "socket_timeout": 0.5}),
        ("redis://[::1]:6380/3", {"host": "::1", "port": 6380, "db": 3}),
        ("redis://:+geh%2Feim%40%23%3F%3A%25@db.example", {"password": "+geh/eim@#?:%"}),
        ("redis://bob:g@heim@db.example", {"username": "bob", "password": "g@heim"}),
        ("rediss://db.example/3?ssl_cert_reqs=none", {"db": 3, "ssl_cert_reqs": "none"}),
        ("unix:///tmp/redis.sock?db=3", {"path": "/tmp/redis.sock", "db": 3}),
        ("unix://:geheim@/tmp/redis.sock", {"path": "/tmp/redis.sock", "password": "geheim"}),
    ],
)
async def test_takes_every_url_that_redis_py_documents(url: str, settings: dict[str, Any]) -> None:
    taken = pool_of(url).connection_kwargs
    assert {name: taken.get(name) for name in settings} == settings


@pytest.mark.parametrize(
    ("url", "sentinels", "name", "settings"),
    [
        ("redis+sentinel://a/shop", [("a", 26379)], "shop", {}),
        ("valkey+sentinel://a,b:7/shop", [("a", 26379), ("b", 7)], "shop", {}),
        (
            "REDIS+Sentinel://[::1]:7,[::2]/my.master-1/3",
            [("::1", 7), ("::2", 26379)],
            "my.master-1",
            {"db": 3},
        ),
        (
            "redis+sentinel://bob:g%2Fh@i@a,b/shop/",
            [("a", 26379), ("b", 26379)],
            "shop",
            {"username": "bob", "password": "g/h@i"},
        ),
        (
            "redis+sentinel://a/shop?db=2&socket_timeout=0.5",
            [("a", 26379)],
            "shop",
            {"db": 2, "socket_timeout": 0.5},
        ),
    ],
)
async def test_a_url_names_sentinels_and_their_primary(
    url: str, sentinels: list[tuple[str, int]], name: str, settings: dict[str, Any]
) -> None:
    pool = pool_of(url)
    assert sentinels_of(pool) == sentinels
    assert pool.service_name == name
    assert {key: pool.connection_kwargs.get(key) for key in settings} == settings
    assert issubclass(pool.connection_class, SentinelManagedConnection)
    assert not issubclass(pool.connection_class, SentinelManagedSSLConnection)


@pytest.mark.parametrize("scheme", ["rediss+sentinel", "valkeys+sentinel"])
async def test_tls_is_spoken_with_the_sentinels_too(scheme: str) -> None:
    pool = pool_of(f"{scheme}://a/shop?ssl_cert_reqs=none&sentinel_password=geheim")
    assert issubclass(pool.connection_class, SentinelManagedSSLConnection)
    (client,) = pool.sentinel_manager.clients
    settings = client.connection_pool.connection_kwargs
    assert settings["ssl_cert_reqs"] == "none"
    assert settings["password"] == "geheim"
    assert "password" not in pool.connection_kwargs


@pytest.mark.parametrize(
    "url",
    [
        "redis://user-geheim:geheim@localhost:6379/0",
        "redis+sentinel://bob:geheim@a/shop?sentinel_password=geheim",
    ],
)
async def test_a_password_is_in_no_repr(url: str) -> None:
    async with Connections(url) as connections:
        pool: Any = connections.redis.connection_pool  # type: ignore[union-attr]
        for part in (connections, connections.redis, pool, getattr(pool, "sentinel_manager", None)):
            assert "geheim" not in f"{part!r} {part!s}"


@pytest.mark.parametrize(
    ("url", "nodes", "settings"),
    [
        ("redis+cluster://a", ["a:6379"], {}),
        ("valkey+cluster://a:7,b/", ["a:7", "b:6379"], {}),
        (
            "redis+cluster://bob:geh%2Feim@a,b:8,c/0?client_name=x",
            ["a:6379", "b:8", "c:6379"],
            {"username": "bob", "password": "geh/eim", "client_name": "x"},
        ),
        (
            "rediss+cluster://a,b?ssl_cert_reqs=none",
            ["a:6379", "b:6379"],
            {"ssl_cert_reqs": "none"},
        ),
    ],
)
async def test_a_url_names_nodes_of_a_cluster(
    url: str, nodes: list[str], settings: dict[str, Any]
) -> None:
    client = Connections(url).redis
    assert isinstance(client, RedisCluster)
    assert sorted(client.nodes_manager.startup_nodes) == nodes
    for node in client.nodes_manager.startup_nodes.values():
        taken = node.connection_kwargs
        assert {key: taken.get(key) for key in settings} == settings
        assert 0 < taken["socket_timeout"] < 5
        assert 0 < taken["socket_connect_timeout"] < 5


def refusals(url: Any, *others: Callable[[str], object]) -> list[str]:
    """What all who refuse a URL say, which is never what it holds."""
    said = []
    for opened in (Connections, Connections().use_redis, *others):
        with pytest.raises(ConfigurationError) as caught:
            opened(url)
        error = caught.value
        assert error.__cause__ is error.__context__ is None
        told = f"{error!s} {error!r} {error.args!r} {vars(error)!r}"
        assert "geheim" not in told + "".join(traceback.format_exception_only(error))
        said.append(str(error))
    return said


OF_ONE_REDIS = [
    "",
    "localhost:6379",
    "http://:geheim@localhost",
    "sqlite:///geheim.db",
    "redis+geheim://localhost",
    "redis://localhost:geheim",
    "redis://localhost:99999",
    "redis://localhost:-1",
    "redis://[::1:geheim",
    "redis://localhost?socket_timeout=geheim",
    "redis://localhost?max_connections=geheim",
    "redis://localhost?max_connections=-1",
    "redis://localhost?health_check_interval=geheim",
    # A password that is not percent-encoded.
    "redis://:pass/geheim@localhost:6379/0",
    "redis://:pass#geheim@localhost:6379/0",
    "redis://:pass?geheim@localhost:6379/0",
    "redis://:pass[geheim@localhost:6379/0",
    "redis://:pass]geheim@localhost:6379/0",
    "redis://:geheim/word@localhost:6379/0",
    "redis://user:geheim#word@localhost:6379/0",
    "rediss://user:geheim?word@localhost:6379/0",
    "redis://:pass\N{ACCOUNT OF}geheim@localhost:6379/0",
    # A database that is not a number.
    "redis://:/geheim@localhost:6379/0",
    "redis://user:/geheim@localhost:6379/0",
    "redis://:2024/geheim@localhost:6379/0",
    "redis://:2024#geheim@localhost:6379/0",
    "redis://:2024?geheim@localhost:6379/0",
    "redis://localhost:6379/geheim",
    "redis:geheim@localhost",
    # What is not a text.
    None.__class__,
    7,
    b"redis://:geheim@localhost",
]
OF_SEVERAL = [
    "redis+sentinel://geheim",
    "redis+sentinel://geheim/",
    "redis+sentinel://geheim/3",
    "redis+sentinel:///geheim",
    "redis+sentinel://a,,geheim/shop",
    "redis+sentinel://a/shop/geheim",
    "redis+sentinel://a/shop/3/geheim",
    "redis+sentinel://a:geheim/shop",
    "redis+sentinel://:pass/geheim@a/shop",
    "redis+sentinel://:pass#geheim@a/shop",
    "redis+sentinel://:2024/geheim@a,b/shop",
    "redis+sentinel://a,b:geheim@c/shop#x",
    "redis+sentinal://geheim/shop",
    "redis+cluster://a/geheim",
    "redis+cluster://:pass/geheim@a",
    "redis+cluster://a,geheim:99999",
    "redis+cluster://a,",
    "redis+cluster://geheim/3",
    "unix+cluster://geheim",
    "redis++cluster://geheim",
    "valkey://:2024/geheim@localhost",
    "valkeys://localhost:geheim",
]
FORMS = {"redis://": OF_ONE_REDIS, "redis+sentinel://host,host/primary": OF_SEVERAL}


@pytest.mark.parametrize(("form", "url"), [(form, url) for form in FORMS for url in FORMS[form]])
def test_rejects_an_invalid_url_without_quoting_it(form: str, url: Any) -> None:
    for said in refusals(url):
        assert form in said


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost?password=pass&geheim=1",
        "redis://:pass?geheim=1@localhost:6379/0",
        "redis://:2024?geheim=1@localhost:6379/0",
        "unix://:pass?geheim=1@/tmp/redis.sock",
        "redis://localhost?pass%20geheim=1",
        f"redis://localhost?{'geheim' * 10}=1",
    ],
)
def test_a_piece_of_a_password_is_not_named_as_an_option(url: str) -> None:
    for said in refusals(url):
        assert "redis://" in said
        assert "option" not in said


@pytest.mark.parametrize(
    ("url", "option"),
    [
        ("redis://localhost?max_conections=3", "max_conections"),
        ("redis://:geheim@localhost?max_conections=3", "max_conections"),
        ("rediss://:geheim@db.example:6380/2?db=3&socket_timout=geheim", "socket_timout"),
        ("unix://:geheim@/tmp/redis.sock?sokcet_timeout=geheim", "sokcet_timeout"),
        ("unix:///tmp/redis.sock?sokcet_timeout=geheim", "sokcet_timeout"),
        ("redis://localhost?ssl=geheim", "ssl"),
        ("redis://localhost?retry=geheim", "retry"),
        ("redis://localhost?protocol=7", "protocol"),
        ("redis://localhost?protocol=geheim", "protocol"),
        ("redis://localhost?db=geheim", "db"),
        ("rediss://localhost?ssl_cert_reqs=geheim", "ssl_cert_reqs"),
        ("redis://localhost?near_cahce=100000&db=3", "near_cahce"),
        ("redis+sentinel://:geheim@a,b/shop?socket_timout=geheim", "socket_timout"),
        ("redis+sentinel://a/shop/3?db=3&sentinel_user=geheim", "sentinel_user"),
        ("rediss+sentinel://a/shop?ssl_cert_reqs=geheim", "ssl_cert_reqs"),
        ("redis+sentinel://a/shop?near_cahce=100", "near_cahce"),
        ("redis+cluster://:geheim@a,b?max_conections=3", "max_conections"),
        ("redis+cluster://a?db=3", "db"),
        ("rediss+cluster://a?ssl_cert_reqs=geheim", "ssl_cert_reqs"),
        ("valkey://a?socket_timout=geheim", "socket_timout"),
    ],
)
def test_a_refused_option_is_named_without_its_value(url: str, option: str) -> None:
    for said in refusals(
        url,
        lambda url: open_token_store(url, Connections()),
        lambda url: open_key_value_store(url, Connections()),
    ):
        assert f"the option {option!r}" in said


@pytest.mark.usefixtures("redis")  # empty
@pytest.mark.parametrize("scheme", ["valkey", "VALKEY", "redis"])
async def test_every_store_takes_valkeys_scheme(scheme: str, redis_server: RedisServer) -> None:
    url = redis_server.url.replace("redis", scheme)
    session = new_session("bob")
    async with RedisTokenStore(url) as store, Connections() as connections:
        await store.issue([session])
        other = open_token_store(url, connections)
        assert await connections.redis.ping() is True
        assert await other.lookup([session.ref]) != [None]
        records = open_key_value_store(url, connections)
        await records.save("valkey", "text", 60)
        assert await records.get("valkey") == "text"
