"""A Redis Cluster moves slots: a call is answered as ever, or refused before it has an effect."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from typing import Any
from zlib import crc32

import pytest
from redis.asyncio import Redis, RedisCluster
from redis.crc import key_slot

from mpauthx_async import (
    LoginPolicy,
    NewSession,
    RedisTokenStore,
    Session,
    SessionRef,
    StoreError,
    Subject,
    TokenStatus,
)
from mpauthx_async.stores.conformance.examples import until
from tests.helpers.outages import partial_answers, settled, until_true
from tests.helpers.redis_cluster import MovingSlot, RedisClusterServers, ask
from tests.helpers.redis_contents import bucket_key, dump, session_key, user_key
from tests.helpers.redis_server import RedisServer

HOUR = 3_600_000
BUCKET = 7
Call = Callable[[RedisTokenStore, "World"], Awaitable[Any]]


def in_one_bucket(count: int) -> list[str]:
    """Users whose keys are in one bucket, and so in one slot, whatever the sku."""
    names = (f"user-{i}" for i in range(100_000))
    found = (name for name in names if crc32(name.encode()) & 255 == BUCKET)
    return [next(found) for _ in range(count)]


def sku_of(name: str, primary: int = 0) -> str:
    """A sku whose users are kept on this primary of a new cluster."""
    skus = (f"{name.replace(' ', '-')}-{i}" for i in range(100))
    return next(sku for sku in skus if key_slot(f"{sku}:{BUCKET}".encode()) * 3 >> 14 == primary)


class World:
    """The users of a sku: alice with four living sessions and a dead one, bob, and two banned.

    One of the banned has living sessions, as when an operator writes a ban by hand; then all
    declared keys of a script exist. Of alice's sessions the second was rotated without a grace, and
    the third with one.
    """

    def __init__(self, sku: str) -> None:
        self.sku = sku
        self.alice, self.bob, self.carol, self.dave = (
            Subject(sku, name) for name in in_one_bucket(4)
        )
        self.of_alice = [self.ref(self.alice, i) for i in range(5)]
        self.of_dave = [self.ref(self.dave, i) for i in range(3)]
        self.of_bob = self.ref(self.bob, 0)

    def ref(self, subject: Subject, i: int) -> SessionRef:
        return SessionRef(*subject, f"{subject.user_id}-{i}".rjust(16, "A"), 0)

    def new(self, subject: Subject, policy: LoginPolicy) -> NewSession:
        """A session that has not begun yet."""
        return NewSession(self.ref(subject, 9), HOUR, policy, "sealed-9", "Redmi", "phone")

    async def begin(self, store: RedisTokenStore, redis: Redis | RedisCluster) -> None:
        kinds = ("phone", "tablet", "desktop")
        await store.issue(
            [
                NewSession(ref, HOUR, LoginPolicy(), f"sealed-{i}", f"device-{i}", kinds[i % 3])
                for i, ref in enumerate([*self.of_alice, *self.of_dave, self.of_bob])
            ]
        )
        await store.rotate(self.of_alice[1:2], ttl=HOUR, grace=0)
        await store.rotate(self.of_alice[2:3], ttl=HOUR, grace=HOUR)
        await store.revoke(self.of_alice[4:])
        await store.ban(self.carol, reason="spam", ttl=None)
        await redis.set(user_key("b", self.dave), json.dumps([1_700_000_000_000, "spam"]))

    def keys(self, kinds: Collection[str]) -> list[str]:
        subjects = self.alice, self.bob, self.carol, self.dave
        sessions = [*self.of_alice, self.of_bob, *self.of_dave]
        some = {self.of_alice[1], self.of_alice[3], self.of_dave[0]}
        keys = {
            "some sessions": [session_key(ref) for ref in sessions if ref in some],
            "other sessions": [session_key(ref) for ref in sessions if ref not in some],
            "users": [user_key("u", subject) for subject in subjects],
            "bans": [user_key("b", subject) for subject in subjects],
            "online": [bucket_key("o", self.alice)],
            "ends": [bucket_key("e", self.alice)],
        }
        return [key for kind in kinds for key in keys[kind]]


KINDS = ("some sessions", "other sessions", "users", "bans", "online", "ends")
MOVED = {
    "nothing": (),
    "all": KINDS,
    "sessions": ("some sessions", "other sessions"),
    "bucket sets": ("online", "ends"),
    "all but the sessions": ("users", "bans", "online", "ends"),
    "all but the bucket sets": ("some sessions", "other sessions", "users", "bans"),
    **{kind: (kind,) for kind in KINDS},
    **{f"all but {kind}": tuple(other for other in KINDS if other != kind) for kind in KINDS},
}

# Commands for one key are followed to wherever the key is.
ANSWERED: dict[str, Call] = {
    "lookup": lambda store, of: store.lookup(
        [*of.of_alice, of.of_bob, *of.of_dave, of.ref(of.bob, 9)]
    ),
    "bans": lambda store, of: store.bans([of.alice, of.bob, of.carol, of.dave]),
    "unban": lambda store, of: store.unban(of.carol),
    "unban who is not banned": lambda store, of: store.unban(of.alice),
    "online_count": lambda store, of: store.online_count(of.sku),
}
REFUSED: dict[str, Call] = {
    "issue": lambda store, of: store.issue([of.new(of.alice, LoginPolicy())]),
    "issue the only one": lambda store, of: store.issue(
        [of.new(of.alice, LoginPolicy(max_sessions=1))]
    ),
    "issue one of a kind": lambda store, of: store.issue(
        [of.new(of.alice, LoginPolicy(one_per_kind=True))]
    ),
    "issue a shared one": lambda store, of: store.issue(
        [of.new(of.alice, LoginPolicy(shared_token=True))]
    ),
    "issue to several": lambda store, of: store.issue(
        [of.new(who, LoginPolicy()) for who in (of.alice, of.bob, of.carol, of.dave)]
    ),
    "read": lambda store, of: store.read([*of.of_alice, of.of_bob, *of.of_dave]),
    "revoke": lambda store, of: store.revoke([*of.of_alice, of.of_dave[1]]),
    "sessions": lambda store, of: store.sessions(of.alice),
    "sessions of a banned user": lambda store, of: store.sessions(of.dave),
    "revoke_subject": lambda store, of: store.revoke_subject(of.alice),
    "revoke_subject of a banned user": lambda store, of: store.revoke_subject(of.dave),
    "revoke_subject but one": lambda store, of: store.revoke_subject(
        of.alice, spared=of.of_alice[1].nonce
    ),
    "forget_subject": lambda store, of: store.forget_subject(of.alice),
    "rotate": lambda store, of: store.rotate(of.of_alice, ttl=HOUR, grace=HOUR),
    "rotate of a banned user": lambda store, of: store.rotate(of.of_dave, ttl=HOUR, grace=HOUR),
    "end_reused": lambda store, of: store.end_reused(of.of_alice),
    "renew": lambda store, of: store.renew(of.of_alice, ttl=2 * HOUR),
    "ban": lambda store, of: store.ban(of.alice, reason="spam", ttl=None),
    "ban for a time": lambda store, of: store.ban(of.alice, reason="spam", ttl=HOUR),
    "ban anew": lambda store, of: store.ban(of.dave, reason="fraud", ttl=None),
    "sealed_keys": lambda store, of: store.sealed_keys(of.of_alice),
    "replace_sealed_key": lambda store, of: store.replace_sealed_key(of.of_bob, "another"),
}
CALLS: dict[str, Call] = {
    **ANSWERED,
    **REFUSED,
    "online": lambda store, of: store.online(of.sku, cursor=None, limit=10),
}


@pytest.fixture(scope="module")
def servers() -> Iterator[RedisClusterServers]:
    with RedisClusterServers() as servers:
        yield servers


@pytest.fixture
async def client(servers: RedisClusterServers) -> AsyncIterator[RedisCluster]:
    """A client of an empty cluster, whose nodes know no scripts."""
    servers.wait_until_whole()
    for node in servers.primaries:
        ask(node, "FLUSHALL")
        ask(node, "SCRIPT", "FLUSH")
    async with RedisCluster(host="127.0.0.1", port=servers.port) as client:
        yield client


@pytest.fixture
async def store(client: RedisCluster) -> AsyncIterator[RedisTokenStore]:
    async with RedisTokenStore(client) as store:
        yield store


def timeless(value: Any) -> str:
    """A value as a text, with the times of the two Redis servers left out."""
    return re.sub(r"\b1\d{12,15}\b", "TIME", repr(value))


async def contents(*servers: RedisServer) -> dict[str, str]:
    """All that these servers hold, with times left out; but who is online stays in order."""
    found: dict[str, str] = {}
    for server in servers:
        async with Redis(port=server.port) as redis:
            for key, value in (await dump(redis)).items():
                is_ordered = key.startswith("mpauthx:o:") or isinstance(value, str)
                found[key] = timeless(value if is_ordered else sorted(value.items()))
    return found


@pytest.mark.parametrize("moved", MOVED)
async def test_a_call_is_answered_as_ever_or_refused_without_an_effect(
    moved: str,
    servers: RedisClusterServers,
    client: RedisCluster,
    store: RedisTokenStore,
    redis: Redis,
    redis_server: RedisServer,
) -> None:
    worlds = {name: World(sku_of(name)) for name in CALLS}
    async with RedisTokenStore(redis) as model:
        for world in worlds.values():
            await world.begin(store, client)
            await world.begin(model, redis)
        slots = {
            name: MovingSlot(servers, bucket_key("o", world.alice))
            for name, world in worlds.items()
        }
        for name, slot in slots.items():
            slot.move(worlds[name].keys(MOVED[moved]))
        answered = await settled(call(store, worlds[name]) for name, call in CALLS.items())
        answers = dict(zip(CALLS, answered, strict=True))
        for slot in slots.values():
            slot.finish()
        refused = {name for name, answer in answers.items() if isinstance(answer, StoreError)}
        assert refused - {"online"} == REFUSED.keys()
        for name in refused:
            assert "is moving this slot to another node: try again" in str(answers[name])
            answers[name] = await CALLS[name](store, worlds[name])
        for name, call in CALLS.items():
            assert timeless(answers[name]) == timeless(await call(model, worlds[name])), name
        assert await contents(*servers.primaries) == await contents(redis_server)


async def test_a_slot_that_has_moved_is_asked_for_at_its_new_node(
    servers: RedisClusterServers, client: RedisCluster, store: RedisTokenStore
) -> None:
    world = World(sku_of("shop"))
    await world.begin(store, client)
    slot = MovingSlot(servers, bucket_key("o", world.alice))
    slot.finish()
    assert await store.unban(world.carol) is True
    await until_kept_on(slot.target, world, store)


async def test_calls_in_flight_are_answered_while_slots_are_refreshed(
    servers: RedisClusterServers, client: RedisCluster, store: RedisTokenStore
) -> None:
    moving, waiting = World(sku_of("kiosk")), World(sku_of("kiosk", primary=2))
    await moving.begin(store, client)
    await waiting.begin(store, client)
    slot = MovingSlot(servers, bucket_key("o", moving.alice))
    slot.finish()
    busy = servers.primaries[2]
    ask(busy, "CLIENT", "PAUSE", 60_000, "WRITE")
    try:
        unbanned = asyncio.ensure_future(store.unban(waiting.carol))
        await until_true(lambda: ask(busy, "INFO", "clients")["blocked_clients"] == 1)
        await store.lookup(moving.of_alice)
        await until_kept_on(slot.target, moving, store)
    finally:
        ask(busy, "CLIENT", "UNPAUSE")
    assert await unbanned is True


async def test_rotations_go_on_around_a_move_of_key_after_key(
    servers: RedisClusterServers, client: RedisCluster, store: RedisTokenStore
) -> None:
    world = World(sku_of("counter"))
    await world.begin(store, client)
    is_over = asyncio.Event()
    devices = [
        asyncio.ensure_future(rotate_until(is_over, store, ref))
        for ref in (world.of_alice[0], *world.of_dave)
    ]
    slot = MovingSlot(servers, bucket_key("o", world.alice))
    for key in world.keys(KINDS):
        await asyncio.to_thread(slot.move, [key])
        end, dead = await store.lookup([world.of_bob, world.of_alice[4]])
        assert end is not None
        assert end > 0
        assert dead == TokenStatus.revoked
    slot.finish()
    is_over.set()
    assert min(await asyncio.gather(*devices)) > 0


async def rotate_until(is_over: asyncio.Event, store: RedisTokenStore, ref: SessionRef) -> int:
    """Rotate a session again and again; returns how often. What was refused had no effect."""
    generation = 0
    is_last = False
    while not is_last:
        is_last = is_over.is_set()
        try:
            (session,) = await store.rotate([ref], ttl=HOUR, grace=0)
        except StoreError:
            is_last = False
            continue
        assert isinstance(session, Session)
        generation += 1
        assert session.ref.generation == generation
        ref = session.ref
    return generation


async def test_a_slot_at_a_node_that_is_down_fails_alone(
    cluster_servers: RedisClusterServers,
) -> None:
    gone, other = World(sku_of("shop")), World(sku_of("kiosk"))
    async with (
        RedisCluster(host="127.0.0.1", port=cluster_servers.port) as client,
        RedisTokenStore(client) as store,
    ):
        await gone.begin(store, client)
        await other.begin(store, client)
        slot = MovingSlot(cluster_servers, bucket_key("o", gone.alice))
        slot.move(gone.keys(KINDS))
        slot.target.stop(signal.SIGKILL)
        refs = [gone.of_alice[0], other.of_alice[0]]
        failure, revoked = await partial_answers(store.revoke(refs))
        assert isinstance(failure, StoreError)
        assert revoked is True


async def until_kept_on(server: RedisServer, world: World, store: RedisTokenStore) -> None:
    """Wait until the store knows where the users of a world are kept."""

    async def is_known() -> bool:
        nodes_of = store.sharding()
        assert nodes_of is not None
        return nodes_of([world.alice]) == {f"127.0.0.1:{server.port}"}

    await until(is_known)
