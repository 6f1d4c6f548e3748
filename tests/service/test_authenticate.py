"""authenticate: whose request it is, by the token that came with it."""

from redis.asyncio import Redis

from mpauthx_async import Identity, MPAuthX, WeChatSimulator
from mpauthx_async.events import TokensValidated
from tests.helpers.near_services import Make, until_kept, with_near_cache
from tests.helpers.redis_server import RedisServer
from tests.helpers.service_calls import hear, log_in, of_kind


async def test_names_the_user_and_the_session(auth: MPAuthX, wx: WeChatSimulator) -> None:
    result = await log_in(auth, wx, "bob", union_id="bob-union")
    identity = await auth.authenticate(result.token)
    assert identity == Identity("bob-union", result.session.id, "shop", result.token)
    assert await auth.revoke_session(identity.user_id, identity.session_id)


async def test_does_not_show_the_token(auth: MPAuthX, wx: WeChatSimulator) -> None:
    identity = await auth.authenticate((await log_in(auth, wx)).token)
    assert identity.token.rpartition("|")[2] not in repr(identity)


async def test_a_token_in_the_near_cache_needs_no_trip(
    make: Make, wx: WeChatSimulator, server: RedisServer, admin: Redis
) -> None:
    async with make(tokens=with_near_cache(server.url)) as auth:
        result = await log_in(auth, wx)
        await until_kept(auth, result.token)
        before = (await admin.info("commandstats")).get("cmdstat_mget", {}).get("calls")
        identity = await auth.authenticate(result.token)
        assert (await admin.info("commandstats"))["cmdstat_mget"]["calls"] == before
        assert await auth.check_session_key(result.token)
    assert identity == Identity("bob", result.session.id, "shop", result.token)


async def test_a_near_cache_hit_emits_an_event(
    make: Make, wx: WeChatSimulator, redis_server: RedisServer
) -> None:
    async with make(tokens=with_near_cache(redis_server.url)) as auth:
        result = await log_in(auth, wx)
        await until_kept(auth, result.token)
        heard = hear(auth)
        await auth.authenticate(result.token)
    assert [event.valid for event in of_kind(heard, TokensValidated)] == [1]
