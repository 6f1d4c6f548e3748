"""until_revoked: a block that ends with the session of its token."""

import asyncio

import pytest
from redis.asyncio import Redis, RedisCluster

from mpauthx_async import (
    ClosedError,
    InvalidTokenError,
    MPAuthX,
    RedisTokenStore,
    StoreError,
    TokenStatus,
    WeChatSimulator,
)
from tests.helpers.near_services import Make
from tests.helpers.outages import until_true
from tests.helpers.redis_server import RedisServer
from tests.helpers.secret_search import local_variables
from tests.helpers.service_calls import log_in


async def hold(auth: MPAuthX, token: str, entered: asyncio.Event) -> None:
    async with auth.until_revoked(token) as identity:
        assert identity.token == token
        entered.set()
        await asyncio.Event().wait()


async def begin(auth: MPAuthX, token: str) -> asyncio.Task[None]:
    entered = asyncio.Event()
    task = asyncio.create_task(hold(auth, token, entered))
    await entered.wait()
    return task


async def end_of(block: asyncio.Task[None]) -> TokenStatus:
    """Wait until a block ends; returns what became of its session."""
    with pytest.raises(InvalidTokenError) as caught:
        await block
    return caught.value.status


ENDS = {
    "revoke": TokenStatus.revoked,
    "ban": TokenStatus.banned,
    "refresh": TokenStatus.revoked,
    "reuse": TokenStatus.reused,
}


@pytest.mark.parametrize("other", [False, True], ids=["this process", "another service"])
@pytest.mark.parametrize("way", ENDS)
async def test_the_block_ends_with_its_session(
    way: str, other: bool, make: Make, tokens: str, wx: WeChatSimulator
) -> None:
    settings = {"tokens": tokens, "rotation_grace": 0}
    async with make(**settings) as auth, make(**settings) as second:
        acting = second if other else auth
        token = (await log_in(auth, wx)).token
        block = await begin(auth, token)
        match way:
            case "revoke":
                await acting.revoke(token)
            case "ban":
                await acting.ban("bob")
            case "refresh":
                await acting.refresh_token("bob")
            case "reuse":
                await acting.rotate(token)
                await acting.is_token_valid(token)
        assert await end_of(block) in (ENDS[way], TokenStatus.replaced)


@pytest.mark.parametrize(
    "life", [{"token_ttl": 2}, {"token_ttl": 3, "absolute_ttl": 3600}], ids=["fixed", "sliding"]
)
async def test_the_block_ends_when_its_session_expires_and_waiting_renews_nothing(
    make: Make, tokens: str, wx: WeChatSimulator, life: dict[str, int]
) -> None:
    async with make(tokens=tokens, **life) as auth:
        block = await begin(auth, (await log_in(auth, wx)).token)
        assert await end_of(block) is TokenStatus.unknown


async def test_a_token_that_is_not_good_is_refused_at_the_entrance(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    token = (await log_in(auth, wx)).token
    await auth.revoke(token)
    for bad, status in ((token, TokenStatus.revoked), (None, TokenStatus.unknown)):
        with pytest.raises(InvalidTokenError) as caught:
            async with auth.until_revoked(bad):
                raise AssertionError
        assert caught.value.status == status


async def test_a_rotation_does_not_end_the_block_but_the_end_after_it_does(
    make: Make, tokens: str, wx: WeChatSimulator
) -> None:
    async with make(tokens=tokens, rotation_grace=0) as auth, make(tokens=tokens) as other:
        token = (await log_in(auth, wx)).token
        block = await begin(auth, token)
        for _ in range(3):
            token = (await auth.rotate(token)).token
            later = await begin(auth, token)  # by then the session was looked up again
            assert not block.done()
            later.cancel()
        await other.revoke(token)
        assert await end_of(block) is TokenStatus.revoked


async def test_a_use_elsewhere_prolongs_the_block_with_the_session(
    make: Make, tokens: str, wx: WeChatSimulator
) -> None:
    async with make(tokens=tokens, token_ttl=2, absolute_ttl=3600) as auth:
        token = (await log_in(auth, wx)).token
        end = (await auth.session(token)).expires_at
        async with make(tokens=tokens, token_ttl=3600, absolute_ttl=3600) as other:
            block = await begin(auth, token)
            assert await other.is_token_valid(token)
            while (await other.session(token)).expires_at == end:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # a renewal is made behind the answer
            done, _ = await asyncio.wait([block], timeout=3)
            assert not done
            await other.revoke(token)
        assert await end_of(block) is TokenStatus.revoked


async def test_a_session_ends_its_blocks_and_no_others(auth: MPAuthX, wx: WeChatSimulator) -> None:
    bobs, anns = (await log_in(auth, wx)).token, (await log_in(auth, wx, "ann")).token
    blocks = [await begin(auth, bobs) for _ in range(3)]
    others = await begin(auth, anns)
    await auth.revoke(bobs)
    for outcome in await asyncio.gather(*blocks, return_exceptions=True):
        assert isinstance(outcome, InvalidTokenError)
    await auth.revoke(anns)
    with pytest.raises(InvalidTokenError):
        await others


async def test_a_block_that_is_cancelled_from_outside_is_cancelled(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    block = await begin(auth, (await log_in(auth, wx)).token)
    block.cancel()
    with pytest.raises(asyncio.CancelledError):
        await block


async def test_a_block_cancelled_too_stays_cancelled(auth: MPAuthX, wx: WeChatSimulator) -> None:
    token = (await log_in(auth, wx)).token
    entered = asyncio.Event()

    async def cancel_both() -> None:
        async with auth.until_revoked(token):
            try:
                entered.set()
                await asyncio.Event().wait()
            finally:
                asyncio.current_task().cancel()

    block = asyncio.create_task(cancel_both())
    await entered.wait()
    await auth.revoke(token)
    await asyncio.wait([block])
    assert block.cancelled()


async def test_a_block_that_swallows_its_cancellation_is_cancelled_again(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    token = (await log_in(auth, wx)).token
    swallowed, entered = [], asyncio.Event()

    async def swallow_twice() -> int:
        try:
            async with auth.until_revoked(token), auth.until_revoked(token):
                while True:
                    try:
                        entered.set()
                        await asyncio.Event().wait()
                    except asyncio.CancelledError:  # as wait_for sometimes does on Python 3.11
                        if len(swallowed) == 2:
                            raise
                        swallowed.append(1)
        finally:
            swallowed.append(asyncio.current_task().cancelling())

    block = asyncio.create_task(swallow_twice())
    await entered.wait()
    await auth.revoke(token)
    assert await end_of(block) is TokenStatus.revoked
    assert swallowed == [1, 1, 0]  # none of the cancellations is left


async def test_an_own_exception_and_a_normal_end_leave_as_they_are(
    auth: MPAuthX, wx: WeChatSimulator
) -> None:
    token = (await log_in(auth, wx)).token
    with pytest.raises(ZeroDivisionError):
        async with auth.until_revoked(token):
            _ = 1 / 0
    async with auth.until_revoked(token):
        pass
    await auth.revoke(token)
    await asyncio.sleep(0)
    assert asyncio.current_task().cancelling() == 0


async def test_a_context_is_entered_once(auth: MPAuthX, wx: WeChatSimulator) -> None:
    block = auth.until_revoked((await log_in(auth, wx)).token)
    async with block:
        pass
    with pytest.raises(RuntimeError):
        await block.__aenter__()


async def test_closing_the_service_ends_the_blocks(auth: MPAuthX, wx: WeChatSimulator) -> None:
    token = (await log_in(auth, wx)).token
    block = await begin(auth, token)
    await auth.close()
    with pytest.raises(ClosedError):
        await block
    with pytest.raises(ClosedError):
        async with auth.until_revoked(token):
            raise AssertionError


async def test_a_store_that_cannot_answer_ends_no_block(
    make: Make, server: RedisServer, admin: Redis, wx: WeChatSimulator
) -> None:
    async with make(tokens=server.url) as auth:
        token = (await log_in(auth, wx)).token
        block = await begin(auth, token)
        server.stop()
        with pytest.raises(StoreError):
            await auth.is_token_valid(token)
        assert not block.done()
        server.start()  # as after a crash: empty, without append-only file
        assert await end_of(block) is TokenStatus.unknown


async def test_on_a_single_redis_waiting_asks_nothing(
    make: Make, server: RedisServer, admin: Redis, wx: WeChatSimulator
) -> None:
    async with make(tokens=server.url) as auth:
        results = [await log_in(auth, wx, f"user-{number}") for number in range(20)]
        blocks = [await begin(auth, result.token) for result in results]
        await lookups_stop(admin)
        await admin.config_resetstat()
        await asyncio.wait(blocks, timeout=2)  # so long they must not ask
        assert "cmdstat_mget" not in await admin.info("commandstats")
        await auth.revoke_user("user-7")
        done, _ = await asyncio.wait(blocks, return_when=asyncio.FIRST_COMPLETED)
        assert done == {blocks[7]}
    for outcome in await asyncio.gather(*blocks, return_exceptions=True):
        assert isinstance(outcome, InvalidTokenError | ClosedError)


async def lookups_stop(admin: Redis) -> None:
    """Wait until nothing is looked up any more, since Redis pushes what changes."""
    before = None
    while True:
        stats = await admin.info("commandstats")
        if stats["cmdstat_mget"]["calls"] == before:
            return
        before = stats["cmdstat_mget"]["calls"]
        await asyncio.sleep(1.2)


async def test_a_redis_that_refuses_tracking_is_polled_and_that_is_logged(
    make: Make,
    server: RedisServer,
    admin: Redis,
    wx: WeChatSimulator,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await admin.execute_command("ACL", "SETUSER", "default", "-client")
    async with make(tokens=server.url) as auth, make(tokens=server.url) as other:
        token = (await log_in(auth, wx)).token
        block = await begin(auth, token)
        await until_true(lambda: "until_revoked asks once a second" in caplog.text)
        await other.revoke(token)
        assert await end_of(block) is TokenStatus.revoked


async def test_a_cluster_is_polled(make: Make, cluster: RedisCluster, wx: WeChatSimulator) -> None:
    async with make(tokens=RedisTokenStore(cluster)) as auth:
        token = (await log_in(auth, wx)).token
        block = await begin(auth, token)
        async with make(tokens=RedisTokenStore(cluster)) as other:
            await other.revoke(token)
        assert await end_of(block) is TokenStatus.revoked


async def test_the_exception_holds_no_token(auth: MPAuthX, wx: WeChatSimulator) -> None:
    token = (await log_in(auth, wx)).token
    entered = asyncio.Event()
    block = asyncio.create_task(held_by_application(auth, [token], entered))
    await entered.wait()
    await auth.revoke(token)
    await asyncio.wait([block])
    assert isinstance(block.exception(), InvalidTokenError)
    assert token.rpartition("|")[2] not in local_variables(block.exception())


async def held_by_application(auth: MPAuthX, tokens: list[str], entered: asyncio.Event) -> None:
    async with auth.until_revoked(tokens[0]):
        entered.set()
        await asyncio.Event().wait()


async def test_a_refusal_at_the_entrance_holds_no_token(auth: MPAuthX, wx: WeChatSimulator) -> None:
    token = (await log_in(auth, wx)).token
    await auth.revoke(token)
    with pytest.raises(InvalidTokenError) as caught:
        await held_by_application(auth, [token], asyncio.Event())
    assert token.rpartition("|")[2] not in local_variables(caught.value)
