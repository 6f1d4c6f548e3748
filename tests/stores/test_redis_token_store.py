"""What RedisTokenStore keeps in Redis, for how long, and whose connections it uses."""

import json
from collections.abc import Callable
from typing import Any
from zlib import crc32

import pytest
from redis.asyncio import Redis, RedisCluster

from mpauthx_async import ClosedError, Connections, RedisTokenStore, Session, TokenStatus
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.conformance.examples import (
    ALICE,
    HOUR,
    SOLE,
    begin,
    end_of,
    is_about,
    listed,
    rotated,
    statuses,
    until,
)
from tests.helpers.redis_contents import bucket_key, details, dump, session_key, user_key
from tests.helpers.redis_server import RedisServer

DAY = 24 * HOUR
KEY = "tiihtNczf5v6AKRyjwEUhQ=="
DETAILS, ONLINE, ENDS = user_key("u", ALICE), bucket_key("o", ALICE), bucket_key("e", ALICE)
BUCKET = crc32(b"alice") & 255
MATES = [
    name for name in map("mate-{}".format, range(60_000)) if crc32(name.encode()) & 255 == BUCKET
]
"""Users whose sessions stand in the same bucket as Alice's."""


@pytest.fixture
async def store(redis: Redis) -> RedisTokenStore:
    return RedisTokenStore(redis)


async def ttl_of(redis: Redis, key: str) -> int:
    """For how long a key lives on, in milliseconds."""
    left: int = await redis.pttl(key)
    return left


async def end_of_key(redis: Redis, key: str) -> int:
    """When Redis deletes a key, in Unix milliseconds; a little more, as time goes on."""
    left = await ttl_of(redis, key)
    seconds, microseconds = await redis.time()
    return int(seconds * 1000 + microseconds // 1000 + left + 1)


class TestKeys:
    async def test_a_session_is_a_key_a_field_and_two_set_members(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        (session,) = await begin(store, new_session())
        contents = await dump(redis)
        online_since = contents.pop(ONLINE)
        assert contents == {
            session_key(session.ref): str(session.expires_at),
            DETAILS: {session.id: f"[{session.issued_at}]"},
            ENDS: {"alice": session.expires_at},
        }
        assert online_since.keys() == {"alice"}
        assert online_since["alice"] // 1000 == session.issued_at

    @pytest.mark.parametrize(
        ("given", "known"),
        [
            ({}, lambda at: [at]),
            ({"sealed_key": "SEALED"}, lambda at: [at, "SEALED"]),
            ({"device_kind": "手机/phone"}, lambda at: [at, "", "", "手机/phone"]),
            (
                {"sealed_key": "S", "device": "iPad", "device_kind": "pad", "absolute_ttl": DAY},
                lambda at: [at, "S", "iPad", "pad", at + DAY],
            ),
        ],
    )
    async def test_details_hold_everything_about_a_session(
        self,
        store: RedisTokenStore,
        redis: Redis,
        given: dict[str, Any],
        known: Callable[[int], list[Any]],
    ) -> None:
        (session,) = await begin(store, new_session(**given))
        expected = known(session.issued_at)
        assert await details(redis, ALICE) == {session.id: expected}
        ref = await rotated(store, session.ref)
        await store.renew([ref], ttl=2 * HOUR)
        assert await details(redis, ALICE) == {session.id: expected}
        await store.replace_sealed_key(ref, "OTHER")
        expected[1:2] = ["OTHER"]
        assert await details(redis, ALICE) == {session.id: expected}

    async def test_the_hash_of_a_user_with_a_session_key_is_small(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        await begin(store, new_session(sealed_key="A" * 43))
        assert await redis.object("ENCODING", DETAILS) in (b"listpack", b"ziplist")

    async def test_sessions_share_bucket_keys(self, store: RedisTokenStore, redis: Redis) -> None:
        begun = await begin(store, new_session(), new_session(), *map(new_session, MATES[:5]))
        own = {session_key(session.ref) for session in begun}
        own |= {user_key("u", session.ref.subject) for session in begun}
        assert set(await dump(redis)) == own | {ONLINE, ENDS}

    async def test_a_value_is_an_integer_until_its_session_is_renewed_or_rotated(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        (session,) = await begin(store, new_session())
        key = session_key(session.ref)
        assert (await dump(redis))[key] == str(session.expires_at)
        await store.renew([session.ref], ttl=2 * HOUR)
        (renewed,) = await store.sessions(ALICE)
        assert (await dump(redis))[key] == f"{renewed.expires_at}:0:{renewed.last_seen}:0"
        (session,) = await store.rotate([session.ref], ttl=3 * HOUR, grace=HOUR)
        assert isinstance(session, Session)
        assert session.last_seen is not None
        value = f"{session.expires_at}:1:{session.last_seen}:{session.last_seen + HOUR}"
        assert (await dump(redis))[key] == value
        await store.renew([session.ref], ttl=5 * HOUR)
        assert (await dump(redis))[key].endswith(f":{session.last_seen + HOUR}")
        await store.revoke([session.ref])
        assert (await dump(redis))[key] == "-2:1"

    async def test_a_users_keys_share_a_slot_of_a_cluster(self, cluster: RedisCluster) -> None:
        store = RedisTokenStore(cluster)
        session, *_ = await begin(store, new_session(), new_session(), new_session(MATES[1]))
        await rotated(store, session.ref)
        await store.ban(new_session(MATES[0]).ref.subject, reason="", ttl=None)
        keys = await cluster.keys("*")
        assert {key[:10] for key in keys} == {b"mpauthx:%c:" % kind for kind in b"tbuoe"}
        assert len({cluster.keyslot(key) for key in keys}) == 1


class TestLives:
    async def test_a_key_ends_with_its_session(self, store: RedisTokenStore, redis: Redis) -> None:
        (session,) = await begin(store, new_session(ttl=HOUR))
        key = session_key(session.ref)
        assert is_about(await end_of_key(redis, key), session.expires_at)
        (renewed,) = await store.rotate([session.ref], ttl=9 * HOUR, grace=0)
        assert not isinstance(renewed, TokenStatus)
        assert is_about(await end_of_key(redis, key), renewed.expires_at)

    async def test_a_buckets_keys_live_as_long_as_the_longest_session_in_it(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        for ttl, lives in ((HOUR, HOUR), (9 * HOUR, 9 * HOUR), (HOUR, 9 * HOUR), (DAY, DAY)):
            await begin(store, new_session(MATES[ttl % 7], ttl=ttl))
            for key in (ONLINE, ENDS):
                assert lives - HOUR / 2 < await ttl_of(redis, key) < lives + HOUR / 2

    async def test_a_users_details_live_as_long_as_the_users_longest_session(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        async def lives_until(end: int) -> None:
            assert is_about(await end_of_key(redis, DETAILS), end)
            assert (await dump(redis))[ENDS]["alice"] == end

        brief, lasting = await begin(store, new_session(ttl=HOUR), new_session(ttl=5 * HOUR))
        await lives_until(lasting.expires_at)
        (end,) = await store.renew([brief.ref], ttl=9 * HOUR)
        assert end is not None
        await lives_until(end)
        (shortened,) = await store.rotate([brief.ref], ttl=HOUR, grace=0)
        assert isinstance(shortened, Session)
        await lives_until(lasting.expires_at)
        (longest,) = await begin(store, new_session(ttl=DAY))
        await lives_until(longest.expires_at)
        await store.revoke([longest.ref])
        await lives_until(lasting.expires_at)
        assert await store.revoke_subject(ALICE, spared=brief.id) == 1
        await lives_until(shortened.expires_at)

    async def test_only_permanent_bans_stay(self, store: RedisTokenStore, redis: Redis) -> None:
        one, two, three = await begin(
            store, new_session(), new_session(absolute_ttl=DAY), new_session(ttl=DAY)
        )
        await rotated(store, one.ref)
        await store.renew([two.ref], ttl=DAY)
        await store.revoke([three.ref])
        await begin(store, *(new_session(MATES[0], policy=SOLE) for _ in range(3)))
        await store.ban(new_session(MATES[1]).ref.subject, reason="for an hour", ttl=HOUR)
        await store.ban(new_session(MATES[2]).ref.subject, reason="for ever", ttl=None)
        endless = [key for key in await dump(redis) if await ttl_of(redis, key) < 0]
        assert endless == [user_key("b", ALICE._replace(user_id=MATES[2]))]

    async def test_no_key_outlives_all_sessions(self, store: RedisTokenStore, redis: Redis) -> None:
        begun = await begin(
            store, *(new_session(ttl=1000) for _ in range(3)), new_session("bob", ttl=1)
        )
        await begin(store, new_session("bob", ttl=500, policy=SOLE))
        await store.rotate([begun[0].ref], ttl=800, grace=700)
        await store.revoke([begun[1].ref])
        await store.ban(begun[3].ref.subject, reason="", ttl=300)

        async def is_empty() -> bool:
            return await redis.dbsize() == 0

        await until(is_empty)

    @pytest.mark.parametrize("ttl", [HOUR, 300 * DAY])
    async def test_a_revoked_session_is_remembered_until_its_end_but_at_most_30_days(
        self, store: RedisTokenStore, redis: Redis, ttl: int
    ) -> None:
        never, once = await begin(store, new_session(ttl=ttl), new_session(ttl=ttl))
        (renewed,) = await store.rotate([once.ref], ttl=ttl, grace=HOUR)
        assert isinstance(renewed, Session)
        now = never.expires_at - ttl
        assert list(await store.revoke([never.ref, once.ref])) == [True, True]
        assert await dump(redis) == {session_key(never.ref): "-2", session_key(once.ref): "-2:1"}
        for session in (never, renewed):
            end = min(session.expires_at, now + 30 * DAY)
            assert is_about(await end_of_key(redis, session_key(session.ref)), end)

    async def test_a_sole_session_marks_earlier_ones_as_replaced(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        earlier = await begin(store, *(new_session() for _ in range(20)))
        (sole,) = await begin(store, new_session(policy=SOLE))
        contents = await dump(redis)
        assert contents[DETAILS] == {sole.id: f"[{sole.issued_at}]"}
        assert [contents[session_key(session.ref)] for session in earlier] == ["-1"] * 20

    async def test_a_ban_keeps_itself_and_marks_sessions_as_banned(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        (session,) = await begin(store, new_session())
        await store.ban(ALICE, reason="spam\tand\nmore", ttl=HOUR)
        (ban,) = await store.bans([ALICE])
        assert ban is not None
        key = user_key("b", ALICE)
        assert await dump(redis) == {
            session_key(session.ref): "-3",
            key: json.dumps([ban.banned_at, "spam\tand\nmore", ban.until], separators=(",", ":")),
        }
        assert ban.until is not None
        assert is_about(await end_of_key(redis, key), ban.until)

    async def test_keys_made_again_still_expire(self, store: RedisTokenStore, redis: Redis) -> None:
        await begin(store, new_session())
        for lost in (DETAILS, ONLINE, ENDS):
            await redis.delete(lost)
            (session,) = await begin(store, new_session(ttl=HOUR // 2))
            await store.replace_sealed_key(session.ref, "OTHER")
            await store.rotate([session.ref], ttl=HOUR // 3, grace=0)
            for key in (DETAILS, ENDS):
                assert await ttl_of(redis, key) > 0


class TestRemains:
    async def test_the_next_login_removes_the_details_of_sessions_that_are_over(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        lasting = await begin(store, *(new_session(ttl=HOUR) for _ in range(3)))
        for session in await begin(store, *(new_session(ttl=1) for _ in range(80))):
            await end_of(store, session)
        assert len(await details(redis, ALICE)) == 83
        lasting += await begin(store, new_session())
        assert set(await details(redis, ALICE)) == {session.id for session in lasting}
        assert await listed(store) == [session.ref for session in reversed(lasting)]

    async def test_forgetting_erases_the_details_of_sessions_that_are_over_too(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        alive, brief, damaged = await begin(store, new_session(), new_session(ttl=1), new_session())
        await end_of(store, brief)
        await redis.set(session_key(damaged.ref), "damaged")
        await store.ban(ALICE._replace(user_id="bob"), reason="", ttl=None)
        before = set(await dump(redis))
        assert await store.forget_subject(ALICE) == 1
        assert before - set(await dump(redis)) == {DETAILS, ONLINE, ENDS}
        assert await statuses(store, alive) == [TokenStatus.revoked]
        assert await store.forget_subject(ALICE) == 0

    async def test_expired_online_users_are_cleared_by_later_logins(
        self, store: RedisTokenStore, redis: Redis
    ) -> None:
        await begin(store, new_session(ttl=HOUR))
        brief = [new_session(mate, ttl=1 + i % 2) for mate in MATES[:40] for i in range(2)]
        await begin(store, *brief)

        async def is_alone() -> bool:
            return await store.online_count("shop") == 1

        await until(is_alone)
        page = await store.online("shop", cursor=None, limit=100)
        while page.cursor is not None:  # among so many dead a page may be short
            assert page.user_ids in ([], ["alice"])
            page = await store.online("shop", cursor=page.cursor, limit=100)
        await begin(store, *(new_session(mate) for mate in MATES[50:60]))
        contents = await dump(redis)
        assert set(contents[ENDS]) == set(contents[ONLINE]) == {"alice", *MATES[50:60]}

    @pytest.mark.parametrize("is_over", [False, True])
    async def test_a_user_whose_details_were_evicted_is_online_once_after_a_login(
        self, store: RedisTokenStore, redis: Redis, *, is_over: bool
    ) -> None:
        for _ in range(2):
            await begin(store, new_session(ttl=100 if is_over else HOUR))
        await redis.delete(DETAILS)
        await begin(store, new_session(MATES[0], ttl=DAY))

        async def is_gone() -> bool:
            return await store.online_count("shop") == 1

        if is_over:
            await until(is_gone)
        (back,) = await begin(store, new_session(ttl=HOUR))
        assert await store.online_count("shop") == 2
        page = await store.online("shop", cursor=None, limit=10)
        assert sorted(page.user_ids) == sorted([MATES[0], "alice"])
        assert back.ref in await listed(store)
        assert list(await store.revoke([back.ref])) == [True]


class TestOwnership:
    async def test_a_client_that_was_given_stays_open(self, redis: Redis) -> None:
        store = RedisTokenStore(redis)
        new = new_session()
        await store.issue([new])
        await store.close()
        with pytest.raises(ClosedError):
            await store.issue([new_session()])
        assert session_key(new.ref) in await dump(redis)

    async def test_connections_that_were_given_stay_open(
        self, redis: Redis, redis_server: RedisServer
    ) -> None:
        async with Connections(redis_server.url) as connections:
            await RedisTokenStore(connections).close()
            other, new = RedisTokenStore(connections), new_session()
            await other.issue([new])
            assert session_key(new.ref) in await dump(redis)
        with pytest.raises(ClosedError):
            await other.issue([new_session()])
