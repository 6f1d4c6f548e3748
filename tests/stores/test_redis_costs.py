"""What RedisTokenStore costs: commands that do not grow with its users, and memory."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import count, islice
from zlib import crc32

import pytest
from redis.asyncio import Redis

from mpauthx_async import LoginPolicy, NewSession, RedisTokenStore, SessionRef, Subject
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.conformance.examples import HOUR, LARGEST, SOLE, begin, until
from mpauthx_async.stores.redis.commands import load_script
from tests.helpers.redis_server import RedisServer

FEW, MANY = 10, 30_000  # many fill each bucket with more than a page takes of it
BATCH = 1_000
DAY = 24 * HOUR
LONGER = 2 * HOUR  # than what lives: else what is written would depend on the millisecond
BUCKETS = 256
PAGE = 100
Costs = dict[str, int]
Use = Callable[[RedisTokenStore, list[SessionRef]], Awaitable[object]]


def login(policy: LoginPolicy) -> Use:
    return lambda store, refs: store.issue(
        [new_session(refs[0].user_id, ttl=LONGER, policy=policy)]
    )


OPERATIONS: dict[str, Use] = {
    "issue": login(LoginPolicy()),
    "issue, two at most": login(LoginPolicy(max_sessions=2)),
    "issue, one only": login(SOLE),
    "issue, one per kind": login(LoginPolicy(one_per_kind=True)),
    "issue, shared": login(LoginPolicy(shared_token=True)),
    "issue, banned": lambda store, refs: ban_and_log_in(store, refs[0].subject),
    "lookup": lambda store, refs: store.lookup(refs),
    "read": lambda store, refs: store.read(refs),
    "sealed_keys": lambda store, refs: store.sealed_keys(refs),
    "replace_sealed_key": lambda store, refs: store.replace_sealed_key(refs[0], "A" * 59),
    "revoke": lambda store, refs: store.revoke(refs[:1]),
    "revoke the last": lambda store, refs: store.revoke(refs),
    "sessions": lambda store, refs: store.sessions(refs[0].subject),
    "revoke_subject": lambda store, refs: store.revoke_subject(refs[0].subject),
    "revoke_subject but one": lambda store, refs: store.revoke_subject(
        refs[0].subject, spared=refs[1].nonce
    ),
    "rotate": lambda store, refs: store.rotate(refs, ttl=LONGER, grace=HOUR),
    "end_reused": lambda store, refs: rotate_and_reuse(store, refs[0]),
    "renew": lambda store, refs: store.renew(refs, ttl=DAY),
    "ban": lambda store, refs: store.ban(refs[0].subject, reason="spam", ttl=HOUR),
    "unban": lambda store, refs: store.unban(refs[0].subject),
    "bans": lambda store, refs: store.bans([ref.subject for ref in refs]),
    "online_count": lambda store, refs: store.online_count("shop"),
}
PAGES = ["first page", "next page"]
OF_MORE_THAN_A_USERS_OWN = {"keys", "scan", "hscan", "sscan", "zscan", "smembers"}


@pytest.fixture(scope="module")
def few() -> Iterator[dict[str, Costs]]:
    with RedisServer() as server:
        yield asyncio.run(all_costs(server.url, FEW))


@pytest.fixture(scope="module")
def many() -> Iterator[dict[str, Costs]]:
    with RedisServer() as server:
        yield asyncio.run(all_costs(server.url, MANY))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_sends_as_many_commands_among_30_000_users_as_among_10(
    operation: str, few: dict[str, Costs], many: dict[str, Costs]
) -> None:
    assert sum(few[operation].values()) > 0
    assert many[operation] == few[operation]


@pytest.mark.parametrize("operation", PAGES)
def test_a_page_of_who_is_online_sends_a_bounded_number_of_commands(
    operation: str, few: dict[str, Costs], many: dict[str, Costs]
) -> None:
    of_each_bucket = PAGE // 64 + 8 + 1
    for costs in (few[operation], many[operation]):
        assert costs["evalsha"] == 1
        assert costs["zrevrangebyscore"] == BUCKETS
        assert costs.get("zscore", 0) <= of_each_bucket * BUCKETS
        assert set(costs) <= {"evalsha", "time", "zrevrangebyscore", "zscore"}


async def test_pages_pass_the_dead_who_are_not_cleared_away_yet_in_bounded_steps(
    redis: Redis,
) -> None:
    store = RedisTokenStore(redis)
    dead = list(islice(mates("bob"), 300))
    await begin(store, new_session("bob"))
    await begin(store, *(new_session(name, ttl=500) for name in dead))

    async def are_dead() -> bool:
        return await store.online_count("shop") == 1

    await until(are_dead)
    users: list[str] = []
    cursor = None
    while not users:
        await redis.config_resetstat()
        page = await store.online("shop", cursor=cursor, limit=8)
        costs, cursor = await sent(redis), page.cursor
        users += page.user_ids
        assert costs["zrevrangebyscore"] == BUCKETS
        assert costs["zscore"] <= 9
    assert (users, cursor) == (["bob"], None)


def test_no_command_reads_more_than_one_users_keys(many: dict[str, Costs]) -> None:
    sent = {command for costs in many.values() for command in costs}
    assert {"evalsha", "mget", "hget"} <= sent
    assert not OF_MORE_THAN_A_USERS_OWN & sent


@pytest.fixture
async def full(redis: Redis) -> list[SessionRef]:
    """The sessions of a user who has as many as a policy allows, each rotated once."""
    store = RedisTokenStore(redis)
    batch = [new_session(policy=LARGEST, ttl=DAY + i, device="x" * 64) for i in range(1000)]
    refs = [session.ref for session in await begin(store, *batch)]
    await store.rotate(refs[:-1], ttl=DAY, grace=0)
    return [ref._replace(generation=1) for ref in refs[:-1]] + refs[-1:]


SAME_FOR_ALL: dict[str, Use] = {
    "lookup": lambda store, refs: store.lookup(refs[:1]),
    "read": lambda store, refs: store.read(refs[:1]),
    "sealed_keys": lambda store, refs: store.sealed_keys(refs[:1]),
    "replace_sealed_key": lambda store, refs: store.replace_sealed_key(refs[0], "A" * 59),
    "rotate": lambda store, refs: store.rotate(refs[:1], ttl=2 * DAY, grace=HOUR),
    "renew": lambda store, refs: store.renew(refs[:1], ttl=3 * DAY),
    "end_reused": lambda store, refs: store.end_reused([refs[1]._replace(generation=0)]),
    "revoke": lambda store, refs: store.revoke(refs[2:3]),
}


async def test_calls_for_one_session_send_as_many_commands_however_many_its_user_has(
    redis: Redis, full: list[SessionRef]
) -> None:
    store = RedisTokenStore(redis)
    for name in {"issue", *SAME_FOR_ALL} - {"lookup", "sealed_keys"}:
        await redis.script_load(load_script(name).text)
    begun = await begin(store, *(new_session("bob", ttl=DAY + i) for i in range(4)))
    few = [session.ref for session in begun]
    await store.rotate(few[:-1], ttl=DAY, grace=0)
    few[:-1] = [ref._replace(generation=1) for ref in few[:-1]]
    for name, use in SAME_FOR_ALL.items():
        costs = []
        for refs in (few, full):
            await redis.config_resetstat()
            await use(store, refs)
            costs.append(await sent(redis))
        assert costs[0] == costs[1], name
        assert "hgetall" not in costs[1]


def logins(refs: list[SessionRef], policy: LoginPolicy) -> list[NewSession]:
    return [new_session(ref.user_id, policy=policy, device=ref.nonce[0]) for ref in refs]


@pytest.mark.parametrize(
    "use",
    [
        lambda store, refs: store.issue(logins(refs, LARGEST)),
        lambda store, refs: store.issue(logins(refs, SOLE)),
        lambda store, refs: store.issue(logins(refs, LoginPolicy(one_per_kind=True))),
        lambda store, refs: store.issue(logins(refs, LoginPolicy(shared_token=True))),
        lambda store, refs: store.revoke(refs),
        lambda store, refs: store.rotate(refs, ttl=HOUR, grace=0),
        lambda store, refs: store.end_reused([ref._replace(generation=0) for ref in refs[:-1]]),
    ],
    ids=["issue", "issue, sole", "issue, kinds", "issue, shared", "revoke", "rotate", "end_reused"],
)
async def test_a_batch_reads_the_sessions_of_a_user_at_most_once(
    redis: Redis, full: list[SessionRef], use: Use
) -> None:
    store = RedisTokenStore(redis)
    await redis.config_resetstat()
    await use(store, full[-500:])
    costs = await sent(redis)
    assert costs.get("hgetall", 0) <= 1
    assert sum(costs.values()) <= 500 * 20


async def test_a_session_takes_at_most_700_bytes(server: RedisServer) -> None:
    # It grows in steps: up to 128 users of a bucket, 32,768 in all, it is less, because Redis packs
    # small sets; where a table of keys has just doubled, it is a tenth more for a moment. This many
    # take as much as the 100,000 of the benchmark.
    users = 50_000
    assert await memory_of(server.url, users) / users <= 700


async def memory_of(url: str, users: int) -> int:
    """By how many bytes that many sessions of as many users let Redis grow."""
    async with RedisTokenStore(url) as store, Redis.from_url(url) as admin:
        await store.issue([new_session("warm-up")])
        await store.revoke_subject(Subject("shop", "warm-up"))
        before = (await admin.info("memory"))["used_memory"]
        await fill(store, users, sealed_key="A" * 43)
        return int((await admin.info("memory"))["used_memory"]) - int(before)


async def all_costs(url: str, others: int) -> dict[str, Costs]:
    """What each operation costs for a user who has two sessions, among others."""
    async with RedisTokenStore(url) as store, Redis.from_url(url) as admin:
        for use in OPERATIONS.values():  # so that Redis has the scripts
            await use(store, await two_sessions(store, "warm-up"))
            await store.unban(Subject("shop", "warm-up"))
        await store.online("shop", cursor=None, limit=PAGE)
        await admin.flushdb()
        await fill(store, others)
        costs = {}
        for name, use in OPERATIONS.items():
            # The keys of the bucket outlive this user's sessions, in each case.
            mate = next(mates(name))
            await begin(store, new_session(mate, ttl=2 * DAY), new_session(mate))
            refs = await two_sessions(store, name)
            await admin.config_resetstat()
            await use(store, refs)
            costs[name] = await sent(admin)
        cursor = None
        for name in PAGES:
            await admin.config_resetstat()
            page = await store.online("shop", cursor=cursor, limit=PAGE)
            costs[name], cursor = await sent(admin), page.cursor
        return costs


async def two_sessions(store: RedisTokenStore, user_id: str) -> list[SessionRef]:
    begun = await begin(store, new_session(user_id), new_session(user_id))
    return [session.ref for session in begun]


async def ban_and_log_in(store: RedisTokenStore, subject: Subject) -> None:
    await store.ban(subject, reason="spam", ttl=None)
    await store.issue([new_session(subject.user_id)])


async def rotate_and_reuse(store: RedisTokenStore, ref: SessionRef) -> None:
    await store.rotate([ref], ttl=LONGER, grace=0)
    assert list(await store.end_reused([ref])) == [True]


async def fill(store: RedisTokenStore, users: int, sealed_key: str | None = None) -> None:
    """Let that many users log in, with ids as long as WeChat's openIds."""
    names = (f"o{number:027}" for number in range(users))
    while batch := list(islice(names, BATCH)):
        await begin(store, *(new_session(name, ttl=DAY, sealed_key=sealed_key) for name in batch))


def mates(user_id: str) -> Iterator[str]:
    """Other users whose sessions stand in the same bucket."""
    bucket = crc32(user_id.encode()) & 255
    names = (f"mate-{number}" for number in count())
    return (name for name in names if crc32(name.encode()) & 255 == bucket)


async def sent(admin: Redis) -> Costs:
    """How often each command was run since CONFIG RESETSTAT, within scripts too."""
    stats = await admin.info("commandstats")
    calls = {name.removeprefix("cmdstat_"): stat["calls"] for name, stat in stats.items()}
    return {name: number for name, number in calls.items() if not name.startswith("config")}
