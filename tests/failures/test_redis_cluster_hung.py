"""A node of a Redis Cluster hangs: whoever is kept on the others does not notice."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from typing import Any, ClassVar

import pytest
from redis.asyncio import Connection, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.crc import key_slot

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
from mpauthx_async.stores.redis import database, token_store
from mpauthx_async.stores.redis.keys import bucket_of
from tests.helpers.outages import partial_answers, settled, until_true
from tests.helpers.redis_cluster import RedisClusterServers, ask
from tests.helpers.redis_contents import session_key
from tests.helpers.redis_server import RedisServer, catch_up
from tests.helpers.service_calls import log_in

HOUR = 3_600_000
HANGING = 1  # which primary
UsersOn = Callable[[int, int], list[str]]
PATIENCE = 90.0  # seconds, for which no call about a node that hangs ends by itself


@pytest.fixture(scope="module")
def servers() -> Iterator[RedisClusterServers]:
    """A cluster in which no replica takes the place of a primary that hangs for a while."""
    with RedisClusterServers() as servers:
        for node in (*servers.primaries, *servers.replicas):
            ask(node, "CONFIG", "SET", "cluster-node-timeout", 600_000)
        yield servers


@pytest.fixture
async def client(servers: RedisClusterServers) -> AsyncIterator[RedisCluster]:
    async with RedisCluster(host="127.0.0.1", port=servers.port, socket_timeout=PATIENCE) as client:
        await client.flushall(target_nodes=RedisCluster.PRIMARIES)
        yield client


@pytest.fixture
def wait_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, a call that hangs has not ended before the node goes on."""
    for module in (database, token_store):
        monkeypatch.setattr(module, "MAX_WAIT_SECONDS", PATIENCE)


@pytest.fixture
async def auth(make: Callable[..., MPAuthX], client: RedisCluster) -> AsyncIterator[MPAuthX]:
    async with make(users="sqlite:///:memory:", tokens=RedisTokenStore(client)) as service:
        yield service


@pytest.fixture
def users_on(servers: RedisClusterServers, client: RedisCluster) -> UsersOn:
    """Gives so many users who are kept on a primary."""

    def users_on(primary: int, count: int) -> list[str]:
        names = (f"user-{i}" for i in range(10_000))
        port = servers.primaries[primary].port
        found = (name for name in names if _port_of(client, name) == port)
        return [next(found) for _ in range(count)]

    return users_on


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


@pytest.mark.usefixtures("wait_long")
class TestService:
    async def test_calls_for_users_on_other_nodes_are_answered(
        self, servers: RedisClusterServers, users_on: UsersOn, auth: MPAuthX, wx: WeChatSimulator
    ) -> None:
        stuck = users_on(HANGING, 8)
        well = users_on(0, 4) + users_on(2, 4)
        logins = {user: await log_in(auth, wx, user) for user in (*stuck, *well)}
        with servers.primaries[HANGING].hanging():
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
        for answer in await settled(hung):
            assert not isinstance(answer, Exception) or isinstance(answer, MPAuthXError), answer

    async def test_only_a_user_with_an_id_on_the_hung_node_waits(
        self, servers: RedisClusterServers, users_on: UsersOn, auth: MPAuthX, wx: WeChatSimulator
    ) -> None:
        (open_id,) = users_on(HANGING, 1)
        first, second = users_on(0, 2)
        for union_id in (None, first):
            await log_in(auth, wx, open_id, union_id=union_id)
        with servers.primaries[HANGING].hanging():
            linked = [
                asyncio.ensure_future(log_in(auth, wx, open_id, union_id=first)),
                asyncio.ensure_future(auth.refresh_token(first)),
            ]
            for _ in range(3):
                await log_in(auth, wx, second)
                await auth.refresh_token(second)
            assert not any(call.done() for call in linked)
        for answer in await settled(linked):
            assert isinstance(answer, (AuthResult, StoreError))

    async def test_close_waits_for_logins_that_hang(
        self, servers: RedisClusterServers, users_on: UsersOn, auth: MPAuthX, wx: WeChatSimulator
    ) -> None:
        stuck = users_on(HANGING, 5)
        (well,) = users_on(0, 1)
        await log_in(auth, wx, well)
        with servers.primaries[HANGING].hanging():
            hung = [asyncio.ensure_future(log_in(auth, wx, user)) for user in stuck]
            await log_in(auth, wx, well)
            closing = asyncio.ensure_future(auth.close())
            await asyncio.sleep(0)
        await closing
        assert all(login.done() for login in hung)
        for answer in await settled(hung):
            assert isinstance(answer, (AuthResult, StoreError))


@pytest.fixture
def wait_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "MAX_WAIT_SECONDS", 2.0)


@pytest.mark.usefixtures("wait_briefly")
class TestBatch:
    async def test_only_items_on_the_hung_node_fail(
        self, servers: RedisClusterServers, client: RedisCluster
    ) -> None:
        store = RedisTokenStore(client)
        known = [new_session(f"user-{i}") for i in range(60)]
        await store.issue(known)
        refs = [new.ref for new in known]
        subjects = [new.ref.subject for new in known]
        stuck = [_port_of(client, ref.user_id) == servers.primaries[HANGING].port for ref in refs]
        assert 5 < sum(stuck) < 55
        with servers.primaries[HANGING].hanging():
            reads = {
                "lookup": store.lookup(refs),
                "read": store.read(refs),
                "sealed_keys": store.sealed_keys(refs),
                "bans": store.bans(subjects),
                "renew": store.renew(refs, ttl=HOUR),
            }
            answered = dict(
                zip(reads, await asyncio.gather(*map(partial_answers, reads.values())), strict=True)
            )
            answered["rotate"] = await partial_answers(store.rotate(refs, ttl=HOUR, grace=HOUR))
            answered["end_reused"] = await partial_answers(store.end_reused(refs))
            answered["issue"] = await partial_answers(store.issue(_again(known)))
            answered["revoke"] = await partial_answers(store.revoke(refs))
            for name, answers in answered.items():
                assert [isinstance(answer, StoreError) for answer in answers] == stuck, name
                assert len({id(one) for one in answers if isinstance(one, StoreError)}) == sum(
                    stuck
                )
        ends = await store.lookup(refs)
        assert {end for end, was_stuck in zip(ends, stuck, strict=True) if not was_stuck} == {
            TokenStatus.revoked
        }

    async def test_only_items_that_have_moved_to_that_node_fail(
        self, servers: RedisClusterServers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The client takes the first primary for the holder of its slots, and is told otherwise."""
        monkeypatch.setattr(database, "MAX_WAIT_SECONDS", 20.0)
        target = servers.primaries[HANGING].port
        async with RedisCluster(host="127.0.0.1", port=servers.port, socket_timeout=2.0) as client:
            store = RedisTokenStore(client)
            known = [new_session(f"user-{i}") for i in range(60)]
            begun = await store.issue(known)
            refs = [new.ref for new in known]
            stuck = [_port_of(client, ref.user_id) == target for ref in refs]
            slots = client.nodes_manager.slots_cache
            first = next(nodes for nodes in slots.values() if nodes[0].port == servers.port)
            slots.update({slot: first for slot, (node, *_) in slots.items() if node.port == target})
            with servers.primaries[HANGING].hanging():
                answers = await partial_answers(store.lookup(refs))
        assert sum(stuck) > 10
        for session, answer, was_stuck in zip(begun, answers, stuck, strict=True):
            assert isinstance(answer, StoreError) if was_stuck else answer == session.expires_at

    async def test_records_on_other_nodes_are_saved(
        self, servers: RedisClusterServers, client: RedisCluster
    ) -> None:
        records = RedisKeyValueStore(client)
        await records.save("known", "text", 60)  # the slots are known from here on
        failed = 0
        with servers.primaries[HANGING].hanging():
            for i in range(6):
                try:
                    await records.save(f"record-{i}", "text", 60)
                    assert await records.get(f"record-{i}") == "text"
                    async with records.lock(f"record-{i}"):
                        assert not await records.add(f"record-{i}", "other", 60)
                except StoreError:  # also of a node that is merely slow
                    failed += 1
        assert 0 < failed < 6


def _again(known: Sequence[NewSession]) -> list[NewSession]:
    return [new_session(new.ref.user_id) for new in known]


class TestClientThatMeetsIt:
    async def test_a_new_client_connects_to_other_nodes(self, servers: RedisClusterServers) -> None:
        nodes = [ClusterNode("127.0.0.1", node.port) for node in servers.primaries]
        nodes.insert(0, nodes.pop(HANGING))
        client = RedisCluster(startup_nodes=nodes)
        store = RedisTokenStore(client)
        with servers.primaries[HANGING].hanging():
            # The first call may spend its time on the node that hangs.
            await until(lambda: _can_say_that_nobody_is_banned(store))
        await store.close()
        await client.aclose()

    async def test_slots_are_learned_from_another_node(
        self, servers: RedisClusterServers, client: RedisCluster, users_on: UsersOn
    ) -> None:
        """A connection that is lost lets it ask for them, and it does not wait for that node."""
        store = RedisTokenStore(client)
        (well,) = users_on(0, 1)
        new = new_session(well)
        await store.issue([new])
        with servers.primaries[HANGING].hanging():
            for _ in range(10):
                ask(servers.primaries[0], "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                (end,) = await store.lookup([new.ref])
                assert end is not None
                assert end > 0


async def test_forgets_a_node_that_left(servers: RedisClusterServers, client: RedisCluster) -> None:
    store = RedisTokenStore(client)
    await store.lookup([new_session().ref])
    nodes, known = store._database.nodes, client.nodes_manager.nodes_cache
    assert nodes is not None
    before = set(known)
    known["127.0.0.1:1"] = ClusterNode("127.0.0.1", 1)
    await nodes.learn_slots()
    assert set(known) == before
    assert await store.lookup([new_session().ref]) == [None]


class _Delayed(Connection):
    """A connection that is not opened before a test lets it."""

    may_open: ClassVar[asyncio.Event]

    async def _connect(self) -> None:
        await self.may_open.wait()
        await super()._connect()


async def test_a_connection_to_a_node_that_has_left_meanwhile_is_closed(
    client: RedisCluster, redis_server: RedisServer
) -> None:
    store = RedisTokenStore(client)
    ref = new_session("alice").ref
    await store.lookup([ref])
    nodes, manager = store._database.nodes, client.nodes_manager
    assert nodes is not None
    _Delayed.may_open = asyncio.Event()
    left = ClusterNode("127.0.0.1", redis_server.port, connection_class=_Delayed)
    manager.nodes_cache[left.name] = left
    manager.slots_cache[key_slot(session_key(ref).encode())] = [left]
    answer = asyncio.ensure_future(store.lookup([ref]))
    await until_true(lambda: len(left._connections) == 1)
    await nodes.learn_slots()
    assert left.name not in manager.nodes_cache
    _Delayed.may_open.set()
    assert await answer == [None]
    await store.close()
    assert not left._connections[0].is_connected


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
@pytest.mark.usefixtures("collected")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_users_are_answered_once_a_replica_takes_over(
    cluster_servers: RedisClusterServers, monkeypatch: pytest.MonkeyPatch, patience: str
) -> None:
    """Whichever ends first: our time for a call, or the client's socket_timeout."""
    if patience == "our own":
        monkeypatch.setattr(database, "MAX_WAIT_SECONDS", 2.0)
    socket_timeout = 30 if patience == "our own" else 2.0
    for node in (*cluster_servers.primaries, *cluster_servers.replicas):
        ask(node, "CONFIG", "SET", "cluster-require-full-coverage", "no")  # so no other node tells
    async with RedisCluster(
        host="127.0.0.1", port=cluster_servers.port, socket_timeout=socket_timeout
    ) as client:
        store = RedisTokenStore(client)
        known = [new_session(f"user-{i}") for i in range(30)]
        await store.issue(known)
        for primary in cluster_servers.current_primaries():
            await asyncio.to_thread(catch_up, primary)

        async def all_are_answered() -> bool:
            answers = await settled(store.lookup([new.ref]) for new in known)
            failed = [answer for answer in answers if isinstance(answer, BaseException)]
            assert {type(failure) for failure in failed} <= {StoreError}
            assert [None] not in answers
            return not failed

        with cluster_servers.primaries[HANGING].hanging():
            await all_are_answered()
            await asyncio.to_thread(cluster_servers.wait_for_takeover, HANGING)
            await until(all_are_answered)
            assert all(isinstance(one, Session) for one in await store.issue(_again(known)))
