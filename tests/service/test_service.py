import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import aiohttp
import pytest
from redis.asyncio import Redis

from mpauthx_async import (
    AuthResult,
    Ban,
    BannedError,
    ClosedError,
    ComponentExchange,
    ConfigurationError,
    Connections,
    DecryptionError,
    IdentityMismatchError,
    LoginPolicy,
    MPAuthX,
    NewSession,
    ParameterError,
    RedisTokenStore,
    Session,
    SqliteUserStore,
    TokenStatus,
    WeChatAPIError,
    WeChatSimulator,
)
from mpauthx_async.stores.conformance.examples import until
from mpauthx_async.wechat import sample_user_data as sample
from tests.helpers.clock import Clock
from tests.helpers.logins import Gated, login, requests_at
from tests.helpers.memory_stores import MemoryTokens, MemoryUsers
from tests.helpers.redis_server import RedisServer
from tests.helpers.service_calls import narrow_connections

Make = Callable[..., MPAuthX]

# What it does


async def test_a_user_logs_in_and_the_token_is_valid(auth: MPAuthX, wx: WeChatSimulator) -> None:
    result = await auth.authorize(*login(wx))
    assert await auth.is_token_valid(result.response) is True
    assert (result.status_code, result.status_message) == (1, "OK")
    assert auth.extract_open_id(result.response) == "bob"
    assert auth.extract_sku(result.response) == "shop"
    assert result.is_new_user
    assert result.session.user_id == "bob"
    assert result.session.expires_at - result.session.issued_at == 259_200_000


@pytest.mark.parametrize("union_id", [None, sample.UNION_ID])
async def test_wechats_own_sample_logs_in_under_the_id_that_the_code_gives(
    make: Make, tokens: str, union_id: str | None
) -> None:
    async with (
        WeChatSimulator(app_id=sample.APP_ID) as wx,
        make(app_id=wx.app_id, app_secret=wx.app_secret, tokens=tokens, api_base=wx.url) as auth,
    ):
        code = wx.login(sample.OPEN_ID, union_id, session_key=sample.SESSION_KEY)
        result = await auth.authorize(code, sample.ENCRYPTED_DATA, sample.IV)
        assert auth.extract_open_id(result.response) == (union_id or sample.OPEN_ID)
        assert (result.user.open_id, result.user.union_id) == (sample.OPEN_ID, union_id)
        assert (result.user.nick_name, result.user.city) == ("Band", "Guangzhou")


async def test_the_result_holds_the_profile_as_stored(auth: MPAuthX, wx: WeChatSimulator) -> None:
    wx.set_profile("bob", nickName="Bob 🎈", city="深圳", gender=1)
    await auth.authorize(*login(wx))
    wx.set_profile("bob", nickName="微信用户", city="", gender=0)
    sealed = await auth.authorize(*login(wx))
    for user in (sealed.user, (await auth.authorize(wx.login("bob"))).user):
        assert (user.nick_name, user.city, user.gender) == ("Bob 🎈", "深圳", 1)


async def test_refresh_ends_all_earlier_tokens_of_that_user_and_sku_only(
    make: Make, auth: MPAuthX, tokens: str, wx: WeChatSimulator
) -> None:
    async with make(tokens=tokens, sku="debug") as other_sku:
        mine = [await auth.authorize(wx.login("bob")) for _ in range(2)]
        hers = await auth.authorize(wx.login("eve"))
        elsewhere = await other_sku.authorize(wx.login("bob"))
        fresh = await auth.refresh_token("bob")
        assert [await auth.is_token_valid(result.response) for result in mine] == [False] * 2
        assert await auth.is_token_valid(fresh.response)
        assert await auth.is_token_valid(hers.response)
        assert await other_sku.is_token_valid(elsewhere.response)
        assert fresh.user.open_id == "bob"


async def test_a_token_in_sqlite_ends_when_its_life_is_over_by_the_given_clock(
    make: Make, wx: WeChatSimulator, tmp_path: Path
) -> None:
    clock = Clock(1_800_000_000.0)
    tokens = f"sqlite:///{tmp_path}/tokens.db"
    async with make(tokens=tokens, token_ttl=10, clock=clock) as auth:
        token = (await auth.authorize(wx.login("bob"))).response
        clock.now += 9.9
        assert await auth.is_token_valid(token)
        clock.now += 0.1
        assert not await auth.is_token_valid(token)


async def test_a_token_in_redis_ends_when_its_life_is_over_by_the_clock_of_redis(
    make: Make, wx: WeChatSimulator
) -> None:
    clock = Clock(1_800_000_000.0)
    async with make(token_ttl=60, clock=clock) as lasting, make(token_ttl=0.2) as brief:
        token = (await lasting.authorize(wx.login("bob"))).response
        clock.now += 3600
        assert await lasting.is_token_valid(token)
        late = (await brief.authorize(wx.login("bob"))).response

        async def is_over() -> bool:
            return not await brief.is_token_valid(late)

        await until(is_over)


async def test_thousands_of_calls_run_at_once(auth: MPAuthX, wx: WeChatSimulator) -> None:
    codes = [wx.login(f"user-{n}") for n in range(1000)]
    results = await asyncio.gather(*map(auth.authorize, codes))
    owners = [auth.extract_open_id(result.response) for result in results]
    assert owners == [f"user-{n}" for n in range(1000)]
    answers = await asyncio.gather(
        *(auth.is_token_valid(result.response) for result in results for _ in range(3)),
        *(auth.is_token_valid(result.response[:-1] + "!") for result in results),
    )
    assert answers == [True] * 3000 + [False] * 1000


# Invalid tokens


async def test_a_forged_or_malformed_token_costs_no_redis_command(
    make: Make, redis: Redis, wx: WeChatSimulator
) -> None:
    async def commands() -> int:
        return int((await redis.info("stats"))["total_commands_processed"])

    async with make() as auth:
        token = (await auth.authorize(wx.login("bob"))).response
        before = await commands()
        for end in ("x", "!", "", "=="):
            assert not await auth.is_token_valid(token[:-2] + end)
        assert await commands() - before == 1  # the INFO that asked
        await auth.is_token_valid(token)
        assert await commands() - before == 3


# Logins that fail


async def test_does_not_send_an_invalid_code(auth: MPAuthX, wx: WeChatSimulator) -> None:
    for code in (None, "", 5, b"code", "with space", "x" * 513, "\ud800", "é"):
        for call in (auth.authorize, auth.authorize_web, auth.get_phone_number):
            with pytest.raises(ParameterError) as caught:
                await call(code)
            assert caught.value.code == 6001
    assert not wx.requests


async def test_rejects_data_without_an_iv_or_too_long(auth: MPAuthX, wx: WeChatSimulator) -> None:
    for encrypted_data, iv in (
        *(("data", None), (None, "iv"), ("data", ""), ("", "iv"), (5, 5)),
        *(("A" * 16_385, "iv"), ("data", "A" * 65)),
    ):
        with pytest.raises(ParameterError):
            await auth.authorize(wx.login("bob"), encrypted_data, iv)
    assert not wx.requests


async def test_data_of_an_earlier_login_does_not_decrypt_and_leaves_nothing(
    make: Make, redis: Redis, wx: WeChatSimulator, tmp_path: Path
) -> None:
    _, encrypted_data, iv = login(wx)
    async with make() as auth:
        with pytest.raises(DecryptionError):
            await auth.authorize(wx.login("bob"), encrypted_data, iv)
    assert await redis.dbsize() == 0
    async with SqliteUserStore(tmp_path / "users.db") as users:
        assert await users.get(["bob"]) == [None]


async def test_rejects_data_of_another_user(auth: MPAuthX, wx: WeChatSimulator) -> None:
    key = "AAAAAAAAAAAAAAAAAAAAAA=="
    _, encrypted_data, iv = login(wx, "eve", session_key=key)
    with pytest.raises(IdentityMismatchError) as caught:
        await auth.authorize(wx.login("bob", session_key=key), encrypted_data, iv)
    assert caught.value.code == 6009


INVALID: dict[str, list[Any]] = {
    "sku": ["", "a|b", "x" * 65, None],
    "token_ttl": [0, True, float("inf"), float("nan"), 10**16, "5"],
    "rotation_grace": [-1, "10", None, float("nan")],
    "absolute_ttl": [0, "1", 1e12],
    "policy": ["shared", 3, {"max_sessions": 3}, LoginPolicy, False],
    "max_waiting_logins": [True, 1.5, 0],
    "login_timeout": [0, None, float("inf")],
    "clock": [5, None],
    "api_base": ["api.weixin.qq.com", []],
    **{part: [5] for part in ("exchange", "web", "connections")},
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"app_id": ""}, "app_id is empty or None"),
        ({"app_id": None}, "app_id is empty or None"),
        ({"app_secret": ""}, "app_secret is empty or None"),
        ({"app_secret": None}, "app_secret is empty or None"),
        ({"token_ttl": 60, "absolute_ttl": 59}, "absolute_ttl"),
        ({"signing_keys": []}, "signing"),
        ({"signing_keys": ["short"]}, "signing"),
        ({"signing_keys": "not a list of keys"}, "signing"),
        ({"signing_keys": [None, "x" * 32]}, "Each signing key must be"),
        ({"signing_keys": ["x" * 32, ""]}, "Each signing key must be"),
        ({"tokens": "mysql://localhost"}, "rediss?://"),
        ({"tokens": "redis://localhost:port"}, "redis://"),
        ({"tokens": "sqlite://tokens.db"}, "sqlite:///"),
        ({"tokens": None}, "must be a URL.*a NoneType"),
        ({"tokens": 5}, "must be a URL.*int"),
        ({"users": "redis://localhost"}, "sqlite:///"),
        ({"users": "users.db"}, "sqlite:///users.db"),
        ({"users": Path("users.db")}, "must be a URL, such as sqlite:///users.db"),
        ({"users": None}, "must be a URL.*a NoneType"),
        ({"users": 5}, "must be a URL.*int"),
        *(({name: wrong}, name) for name, values in INVALID.items() for wrong in values),
    ],
)
async def test_rejects_an_invalid_option_by_name(
    make: Make, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        make(**changes)
    assert caught.value.code == 6101


# SingleFlight, turns and callers who leave


async def test_concurrent_calls_of_a_code_are_one_login(auth: MPAuthX, wx: WeChatSimulator) -> None:
    arguments = login(wx)
    results = await asyncio.gather(*(auth.authorize(*arguments) for _ in range(50)))
    assert len(wx.requests) == 1
    assert len({result.response for result in results}) == 1


async def test_no_login_waits_for_a_connection(make: Make, wx: WeChatSimulator) -> None:
    queued: list[object] = []

    async def is_queued(*told: object) -> None:
        queued.append(told)

    trace = aiohttp.TraceConfig()
    trace.on_connection_queued_start.append(is_queued)
    connector = aiohttp.TCPConnector(limit=128)
    async with aiohttp.ClientSession(connector=connector, trace_configs=[trace]) as http:
        connections = Connections(http=http)
        async with connections, make(connections=connections) as auth:
            codes = [wx.login(f"user-{number}") for number in range(400)]
            results = await asyncio.gather(*map(auth.authorize, codes))
            assert not queued
            await asyncio.gather(*(http.get(wx.url) for _ in range(129)))
            assert queued  # it would have been told
    assert len({result.response for result in results}) == 400


class Observed(ThreadPoolExecutor):
    """An executor of one thread that tells when it got work."""

    def __init__(self) -> None:
        super().__init__(1)
        self.got_work = asyncio.Event()

    def submit(self, *args: Any, **named: Any) -> Any:
        self.got_work.set()
        return super().submit(*args, **named)


async def test_no_login_begins_while_the_executor_decrypts(make: Make, wx: WeChatSimulator) -> None:
    let_go = Event()
    with Observed() as executor:
        connections = Connections(executor=executor)
        async with connections, make(connections=connections) as auth:
            executor.submit(let_go.wait)
            executor.got_work.clear()
            first = asyncio.create_task(auth.authorize(*login(wx, "first")))
            await executor.got_work.wait()
            second = asyncio.create_task(auth.authorize(*login(wx, "second")))
            for _ in range(50):  # by when whatever had begun would have been asked for
                async with connections.http.get(f"{wx.url}/sns/jscode2session") as response:
                    await response.read()
            begun = sum("js_code" in request.query for request in wx.requests)
            let_go.set()
            assert begun == 1
            results = [await first, await second]
            assert all([await auth.is_token_valid(result.response) for result in results])


class Stage:
    """A service whose logins stop at one stage until they are let go."""

    def __init__(self, name: str, wx: WeChatSimulator, folder: Path, redis_url: str) -> None:
        self.name = name
        self.wx = wx
        self.users = Gated(SqliteUserStore(folder / "users.db"), "save" * (name == "saving"))
        self.tokens = Gated(RedisTokenStore(redis_url), "issue" * (name == "issuing"))
        self.executor = ThreadPoolExecutor(1)
        connector = aiohttp.TCPConnector(limit=1 if name == "waiting for its turn" else 64)
        self.http = aiohttp.ClientSession(connector=connector)
        self.connections = Connections(executor=self.executor, http=self.http)
        self.gate = Event()

    async def reached_by_all(self, auth: MPAuthX, logins: int) -> None:
        """Wait until that many logins have come to the stage."""
        if self.name == "trading the code":
            await requests_at(self.wx, logins)
        elif self.name == "decrypting":
            while auth._logins._exchanged._in_flight == set():  # noqa: ASYNC110
                await asyncio.sleep(0)
        elif self.name == "saving":
            await self.users.reached.wait()
        elif self.name == "issuing":
            await self.tokens.reached.wait()
        else:
            while len(auth._logins._waiting) < logins:  # noqa: ASYNC110
                await asyncio.sleep(0)

    def let_go(self) -> None:
        self.wx.latency = 0
        self.gate.set()
        self.users.gate.set()
        self.tokens.gate.set()

    async def close(self) -> None:
        self.let_go()
        await self.users.close()
        await self.tokens.close()
        await self.connections.close()
        await self.http.close()
        self.executor.shutdown()


@pytest.mark.parametrize(
    "name", ["waiting for its turn", "trading the code", "decrypting", "saving", "issuing"]
)
async def test_a_caller_cancelled_at_any_stage_leaves_no_token_and_harms_nobody(
    name: str,
    make: Make,
    wx: WeChatSimulator,
    tmp_path: Path,
    redis: Redis,
    redis_server: RedisServer,
) -> None:
    stage = Stage(name, wx, tmp_path, redis_server.url)
    waiting = name == "waiting for its turn"
    stores = {"users": stage.users, "tokens": stage.tokens}
    async with make(**stores, connections=stage.connections) as auth:
        wx.latency = 0.3 if name == "trading the code" else 0
        if name == "decrypting":
            stage.executor.submit(stage.gate.wait)
        if waiting:
            wx.latency = 0.3
            somebody_else = asyncio.create_task(auth.authorize(*login(wx, "somebody-else")))
            await requests_at(wx, 1)
        leaving = asyncio.create_task(auth.authorize(*login(wx, "leaving")))
        shared = login(wx, "shared")
        left_by_one = [asyncio.create_task(auth.authorize(*shared)) for _ in range(2)]
        staying = asyncio.create_task(auth.authorize(*login(wx, "staying")))
        await stage.reached_by_all(auth, 3)
        leaving.cancel()
        left_by_one[0].cancel()
        stage.let_go()
        results = [await staying, await left_by_one[1]]
        if waiting:
            results.append(await somebody_else)
        for cancelled in (leaving, left_by_one[0]):
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        for result in results:
            assert await auth.is_token_valid(result.response)
            assert await auth._parts.tokens.revoke([result.session.ref]) == [True]
    await stage.close()
    assert await deaths(redis) == {TokenStatus.revoked}


async def deaths(redis: Redis) -> set[int]:
    """Of what the sessions in Redis died; nothing else may be left there."""
    keys = await redis.keys()
    assert all(key.startswith(b"mpauthx:t:") for key in keys)
    return {int(value) for value in await redis.mget(keys)} if keys else set()


class CancelsInTime(RedisTokenStore):
    """Cancels a caller between the moment its answer is there and the moment it wakes."""

    caller: asyncio.Task[AuthResult]

    async def issue(self, sessions: Sequence[NewSession]) -> Sequence[Session | Ban]:
        begun = await super().issue(sessions)
        loop = asyncio.get_running_loop()
        # In the next tick the login is told, in the one after that its caller.
        loop.call_soon(loop.call_soon, self.caller.cancel)
        return begun


async def test_a_caller_cancelled_in_the_tick_of_its_answer_leaves_no_token(
    make: Make, wx: WeChatSimulator, redis: Redis, redis_server: RedisServer
) -> None:
    async with CancelsInTime(redis_server.url) as tokens, make(tokens=tokens) as auth:
        tokens.caller = asyncio.create_task(auth.authorize(wx.login("bob")))
        await asyncio.sleep(0)
        (under_way,) = auth._logins._under_way.values()
        (answer,) = under_way.callers
        with pytest.raises(asyncio.CancelledError):
            await tokens.caller
        assert answer.result().response  # there was a token
        await auth.close()
        assert await deaths(redis) == {TokenStatus.revoked}


if hasattr(asyncio, "eager_task_factory"):  # from Python 3.12 on

    async def test_logins_work_with_eager_tasks(make: Make, wx: WeChatSimulator) -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with make() as auth:
            results = await asyncio.gather(*(auth.authorize(*login(wx, n)) for n in "abc"))
            answers = await asyncio.gather(*(auth.is_token_valid(r.response) for r in results))
            assert answers == [True] * 3
            with pytest.raises(WeChatAPIError):
                await auth.authorize("x" * 32)

    async def test_a_login_that_fails_at_once_raises_with_eager_tasks(
        make: Make, wx: WeChatSimulator
    ) -> None:
        async def refused() -> str:
            raise ConfigurationError("no access token")

        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        async with make(exchange=ComponentExchange("wx0", refused)) as auth:
            with pytest.raises(ConfigurationError, match="no access token"):
                await asyncio.wait_for(auth.authorize(wx.login("anybody")), 5)


async def test_an_abandoned_login_logs_its_failure(
    make: Make, wx: WeChatSimulator, caplog: pytest.LogCaptureFixture
) -> None:
    wx.latency = 0.2
    async with make() as auth:
        task = asyncio.create_task(auth.authorize("x" * 32))
        await requests_at(wx, 1)
        task.cancel()
    assert "40029" in caplog.text
    assert wx.app_secret not in caplog.text


async def test_a_caller_may_join_an_abandoned_login(make: Make, wx: WeChatSimulator) -> None:
    wx.latency = 0.2
    code = wx.login("bob")
    async with make() as auth:
        first = asyncio.create_task(auth.authorize(code))
        await requests_at(wx, 1)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        result = await auth.authorize(code)
        assert await auth.is_token_valid(result.response)
    assert len(wx.requests) == 1


# Closing


async def test_close_lets_what_is_in_flight_finish_and_refuses_what_waits(
    make: Make, wx: WeChatSimulator, redis: Redis, redis_server: RedisServer
) -> None:
    wx.latency = 0.2
    async with narrow_connections(2, redis_server.url) as connections:
        auth = make(connections=connections)
        logins = [asyncio.create_task(auth.authorize(wx.login(f"user-{n}"))) for n in range(6)]
        await requests_at(wx, 2)
        closing = asyncio.create_task(auth.close())
        done, _ = await asyncio.wait(logins, return_when=asyncio.FIRST_COMPLETED)
        assert done <= set(logins[2:])  # those who wait are told at once
        await closing
        assert all(login.done() for login in logins)
        outcomes = await asyncio.gather(*logins, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [AuthResult] * 2 + [ClosedError] * 4
        assert len(wx.requests) == 2
        async with make(connections=connections) as successor:
            for outcome in outcomes[:2]:
                assert await successor.is_token_valid(outcome.response)


async def test_close_lets_validations_in_flight_finish(make: Make, wx: WeChatSimulator) -> None:
    auth = make()
    token = (await auth.authorize(wx.login("bob"))).response
    questions = [asyncio.create_task(auth.is_token_valid(token)) for _ in range(2000)]
    await asyncio.sleep(0)
    await auth.close()
    assert await asyncio.gather(*questions) == [True] * 2000


async def test_a_service_never_used_opens_nothing_and_closes(make: Make, tmp_path: Path) -> None:
    async with make(tokens="redis://nowhere.invalid"):
        pass
    assert list(tmp_path.iterdir()) == []


# Stores of one's own


async def test_any_store_that_keeps_the_protocol_serves(make: Make, wx: WeChatSimulator) -> None:
    async with make(users=MemoryUsers(), tokens=MemoryTokens()) as auth:
        token = (await auth.authorize(wx.login("bob"))).response
        assert await auth.is_token_valid(token)
        token = (await auth.rotate(token)).response
        assert [session.user_id for session in await auth.sessions("bob")] == ["bob"]
        assert await auth.online() == (["bob"], None)
        assert await auth.ban("bob", reason="spam") == 1
        assert await auth.token_status(token) == TokenStatus.banned
        with pytest.raises(BannedError):
            await auth.authorize(wx.login("bob"))
