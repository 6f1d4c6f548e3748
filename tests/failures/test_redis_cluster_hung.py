"""A node of a Redis Cluster hangs: whoever is kept on the others does not notice."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode

from mpauthx_async import (
    AuthResult,
    MPAuthX,
    MPAuthXError,
    NewSession,
    PartialStoreError,
    RedisTokenStore,
    Session,
    StoreError,
    Subject,
    TokenStatus,
    WeChatSimulator,
)
from mpauthx_async.stores import RedisKeyValueStore
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.conformance.examples import until
from mpauthx_async.stores.redis import database
from mpauthx_async.stores.redis.keys import bucket_of
from tests.helpers.redis_cluster import RedisClusterServers, ask
from tests.helpers.redis_server import RedisServer
from tests.helpers.service_calls import log_in

HOUR = 3_600_000
HANGING = 1  # which primary


@pytest.fixture(scope="module")
def servers() -> Iterator[RedisClusterServers]:
    """A cluster in which no replica takes the place of a primary that hangs for a while."""
    with RedisClusterServers() as servers:
        for node in (*servers.primaries, *servers.replicas):
            ask(node, "CONFIG", "SET", "cluster-node-timeout", 600_000)
        yield servers


@pytest.fixture
async def client(servers: RedisClusterServers) -> AsyncIterator[RedisCluster]:
    async with RedisCluster(host="127.0.0.1", port=servers.port) as client:
        await client.flushall(target_nodes=RedisCluster.PRIMARIES)
        yield client


def service_on(client: RedisCluster, wx: WeChatSimulator) -> MPAuthX:
    return MPAuthX(
        app_id=wx.app_id,
        app_secret=wx.app_secret,
        sku="shop",
        users="sqlite:///:memory:",
        tokens=RedisTokenStore(client),
        api_base=wx.url,
    )


@pytest.fixture
async def auth(client: RedisCluster, wx: WeChatSimulator) -> AsyncIterator[MPAuthX]:
    async with service_on(client, wx) as service:
        yield service


@contextmanager
def hanging(server: RedisServer) -> Iterator[None]:
    server.pause()
    try:
        yield
    finally:
        server.resume()


def users_on(client: RedisCluster, server: RedisServer, count: int) -> list[str]:
    """Users who are kept on this node."""
    names = (f"user-{i}" for i in range(10_000))
    found = (name for name in names if _port_of(client, name) == server.port)
    return [next(found) for _ in range(count)]


def _port_of(client: RedisCluster, user: str) -> int:
    node = client.get_node_from_key(bucket_of("shop", user))
    assert node is not None
    return int(node.port)


def calls(
    auth: MPAuthX, wx: WeChatSimulator, login: AuthResult
) -> list[Callable[[], Awaitable[Any]]]:
    """Each kind of call about one user, in an order in which all succeed."""
    user, token = login.user.id, login.token
    return [
        lambda: auth.is_token_valid(token),
        lambda: auth.authenticate(token),
        lambda: auth.token_status(token),
        lambda: auth.session(token),
        lambda: auth.sessions(user),
        lambda: auth.ban_of(user),
        lambda: auth.unban(user),
        lambda: decrypt(auth, wx, login),
        lambda: auth.rotate(token),
        lambda: log_in(auth, wx, user),
        lambda: auth.refresh_token(user),
        lambda: auth.revoke_session(user, "A" * 16),
        lambda: auth.revoke_user(user),
        lambda: auth.ban(user, seconds=1),
    ]


async def decrypt(auth: MPAuthX, wx: WeChatSimulator, login: AuthResult) -> None:
    sealed = wx.seal(login.user.open_id, {"openGId": "group"})
    opened = await auth.decrypt(login.token, sealed.encrypted_data, sealed.iv)
    assert opened["openGId"] == "group"


class TestService:
    async def test_calls_about_others_are_answered_meanwhile(
        self,
        servers: RedisClusterServers,
        client: RedisCluster,
        auth: MPAuthX,
        wx: WeChatSimulator,
    ) -> None:
        stuck = users_on(client, servers.primaries[HANGING], 8)
        well = users_on(client, servers.primaries[0], 4) + users_on(client, servers.primaries[2], 4)
        logins = {user: await log_in(auth, wx, user) for user in (*stuck, *well)}
        with hanging(servers.primaries[HANGING]):
            hung = [
                asyncio.ensure_future(call())
                for user in stuck
                for call in calls(auth, wx, logins[user])
            ]
            await asyncio.sleep(0)
            for _ in range(2):
                for user in well:
                    for call in calls(auth, wx, await log_in(auth, wx, user)):
                        await call()
                    await auth.unban(user)
            assert not any(call.done() for call in hung)
        # Those are answered now, in whatever order: a user may be banned, or a token rotated.
        for answer in await asyncio.gather(*hung, return_exceptions=True):
            assert not isinstance(answer, Exception) or isinstance(answer, MPAuthXError), answer

    async def test_a_person_on_two_nodes_waits_alone(
        self,
        servers: RedisClusterServers,
        client: RedisCluster,
        auth: MPAuthX,
        wx: WeChatSimulator,
    ) -> None:
        (open_id,) = users_on(client, servers.primaries[HANGING], 1)
        first, second = users_on(client, servers.primaries[0], 2)
        for union_id in (None, first):
            await log_in(auth, wx, open_id, union_id=union_id)
        with hanging(servers.primaries[HANGING]):
            linked = [
                asyncio.ensure_future(log_in(auth, wx, open_id, union_id=first)),
                asyncio.ensure_future(auth.refresh_token(first)),
            ]
            for _ in range(3):
                await log_in(auth, wx, second)
                await auth.refresh_token(second)
            assert not any(call.done() for call in linked)
        for answer in await asyncio.gather(*linked, return_exceptions=True):
            assert isinstance(answer, (AuthResult, StoreError))

    async def test_logins_that_hang_are_waited_for_at_the_end(
        self, servers: RedisClusterServers, client: RedisCluster, wx: WeChatSimulator
    ) -> None:
        auth = service_on(client, wx)
        stuck = users_on(client, servers.primaries[HANGING], 5)
        (well,) = users_on(client, servers.primaries[0], 1)
        await log_in(auth, wx, well)
        with hanging(servers.primaries[HANGING]):
            hung = [asyncio.ensure_future(log_in(auth, wx, user)) for user in stuck]
            await log_in(auth, wx, well)
            closing = asyncio.ensure_future(auth.close())
            await asyncio.sleep(0)
        await closing
        assert all(login.done() for login in hung)
        for answer in await asyncio.gather(*hung, return_exceptions=True):
            assert isinstance(answer, (AuthResult, StoreError))


@pytest.fixture
def wait_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "MAX_WAIT_SECONDS", 0.5)


@pytest.mark.usefixtures("wait_briefly")
class TestBatch:
    async def test_only_items_of_that_node_fail(
        self, servers: RedisClusterServers, client: RedisCluster
    ) -> None:
        store = RedisTokenStore(client)
        known = [new_session(f"user-{i}") for i in range(60)]
        await store.issue(known)
        refs = [new.ref for new in known]
        subjects = [new.ref.subject for new in known]
        stuck = [_port_of(client, ref.user_id) == servers.primaries[HANGING].port for ref in refs]
        assert 5 < sum(stuck) < 55
        with hanging(servers.primaries[HANGING]):
            for name, answers in {
                "lookup": await _partial(store.lookup(refs)),
                "read": await _partial(store.read(refs)),
                "sealed_keys": await _partial(store.sealed_keys(refs)),
                "bans": await _partial(store.bans(subjects)),
                "renew": await _partial(store.renew(refs, ttl=HOUR)),
                "rotate": await _partial(store.rotate(refs, ttl=HOUR, grace=HOUR)),
                "end_reused": await _partial(store.end_reused(refs)),
                "issue": await _partial(store.issue(_again(known))),
                "revoke": await _partial(store.revoke(refs)),
            }.items():
                failed = [isinstance(answer, StoreError) for answer in answers]
                assert failed == stuck, name
                assert len({id(one) for one in answers if isinstance(one, StoreError)}) == sum(
                    stuck
                )
        ends = await store.lookup(refs)
        assert {end for end, was_stuck in zip(ends, stuck, strict=True) if not was_stuck} == {
            TokenStatus.revoked
        }

    async def test_records_elsewhere_are_kept_meanwhile(
        self, servers: RedisClusterServers, client: RedisCluster
    ) -> None:
        records = RedisKeyValueStore(client)
        await records.save("known", "text", 60)  # the slots are known from here on
        failed = 0
        with hanging(servers.primaries[HANGING]):
            for i in range(12):
                try:
                    await records.save(f"record-{i}", "text", 60)
                except StoreError:
                    failed += 1
                    continue
                assert await records.get(f"record-{i}") == "text"
                async with records.lock(f"record-{i}"):
                    assert not await records.add(f"record-{i}", "other", 60)
        assert 0 < failed < 12


async def _partial(batch: Awaitable[Sequence[Any]]) -> Sequence[Any]:
    with pytest.raises(PartialStoreError) as caught:
        await batch
    return caught.value.answers


def _again(known: Sequence[NewSession]) -> list[NewSession]:
    return [new_session(new.ref.user_id) for new in known]


class TestClientThatMeetsIt:
    async def test_at_its_first_call(self, servers: RedisClusterServers) -> None:
        nodes = [ClusterNode("127.0.0.1", node.port) for node in servers.primaries]
        nodes.insert(0, nodes.pop(HANGING))
        client = RedisCluster(startup_nodes=nodes)
        store = RedisTokenStore(client)
        with hanging(servers.primaries[HANGING]):
            # The first call may spend its time on the node that hangs.
            await until(lambda: _can_say_that_nobody_is_banned(store))
        await store.close()
        await client.aclose()

    async def test_when_it_asks_for_the_slots(
        self, servers: RedisClusterServers, client: RedisCluster
    ) -> None:
        """A connection that is lost lets it ask for them, and it does not wait for that node."""
        store = RedisTokenStore(client)
        (well,) = users_on(client, servers.primaries[0], 1)
        new = new_session(well)
        await store.issue([new])
        with hanging(servers.primaries[HANGING]):
            for _ in range(10):
                ask(servers.primaries[0], "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                (end,) = await store.lookup([new.ref])
                assert end is not None
                assert end > 0


async def test_a_node_that_has_left_is_forgotten(
    servers: RedisClusterServers, client: RedisCluster
) -> None:
    store = RedisTokenStore(client)
    await store.lookup([new_session().ref])
    nodes, known = store._database.nodes, client.nodes_manager.nodes_cache
    assert nodes is not None
    before = set(known)
    known["127.0.0.1:1"] = ClusterNode("127.0.0.1", 1)
    await nodes.learn_slots()
    assert set(known) == before
    assert await store.lookup([new_session().ref]) == [None]


async def _can_say_that_nobody_is_banned(store: RedisTokenStore) -> bool:
    subjects = [Subject("shop", f"user-{i}") for i in range(60)]
    try:
        await store.bans(subjects)
    except PartialStoreError as error:
        return None in error.answers
    except StoreError:
        return False
    raise AssertionError("A node hangs, and yet all were answered.")


@pytest.mark.parametrize("patience", ["our own", "the client's"])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_when_a_replica_takes_its_place_its_users_are_answered_again(
    cluster_servers: RedisClusterServers, monkeypatch: pytest.MonkeyPatch, patience: str
) -> None:
    """Whichever ends first: our time for a call, or the client's socket_timeout."""
    if patience == "our own":
        monkeypatch.setattr(database, "MAX_WAIT_SECONDS", 0.5)
    socket_timeout = 30 if patience == "our own" else 0.5
    for node in (*cluster_servers.primaries, *cluster_servers.replicas):
        ask(node, "CONFIG", "SET", "cluster-require-full-coverage", "no")  # so no other node tells
    async with RedisCluster(
        host="127.0.0.1", port=cluster_servers.port, socket_timeout=socket_timeout
    ) as client:
        store = RedisTokenStore(client)
        known = [new_session(f"user-{i}") for i in range(30)]
        await store.issue(known)
        await client.wait(1, 5000, target_nodes=RedisCluster.PRIMARIES)  # replicated

        async def all_are_answered() -> bool:
            asked = [store.lookup([new.ref]) for new in known]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            failed = [answer for answer in answers if isinstance(answer, BaseException)]
            assert {type(failure) for failure in failed} <= {StoreError}
            assert [None] not in answers
            return not failed

        with hanging(cluster_servers.primaries[HANGING]):
            await until(all_are_answered)
            assert all(isinstance(one, Session) for one in await store.issue(_again(known)))
