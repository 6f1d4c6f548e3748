"""A process that uses a service and forks a child, which finds the service in its memory.

    python -m tests.helpers.forking_service <scenario> <JSON: settings of the service, and codes>

It prints its tokens when the child has ended, waits for a line, and prints what came of it all.
"""

import asyncio
import gc
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from mpauthx_async import MPAuthX, MPAuthXError, Subject
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.conformance.examples import until
from tests.helpers.service_calls import every_call

Calls: TypeAlias = dict[str, Callable[[], Awaitable[Any]]]

PATIENCE = 20  # seconds
runner = asyncio.Runner()
service: list[MPAuthX] = []  # global, so that it is freed when the process ends


def used(settings: dict[str, Any], codes: list[str]) -> dict[str, Any]:
    """The service is used before the fork."""
    service.append(MPAuthX(sku="shop", **settings))
    (auth,) = service
    tokens = runner.run(_log_in(auth, codes[:2]))
    before = _ports(auth)
    child = _in_child(lambda: asyncio.run(_use_and_drop(tokens[0])))
    _say(tokens)
    sys.stdin.readline()  # meanwhile the first token is revoked
    revoked = runner.run(_until_refused(auth, tokens[0]))
    others = [tokens[1], *runner.run(_log_in(auth, codes[2:3]))]
    alive = runner.run(_are_valid(auth, others))
    after = _ports(auth)
    runner.run(auth.close())
    return {"child": child, "revoked": revoked, "alive": alive, "kept": before == after}


def unused(settings: dict[str, Any], codes: list[str]) -> dict[str, Any]:
    """The service is made before the fork, and first used after it."""
    service.append(MPAuthX(sku="shop", **settings))
    child = _in_child(lambda: asyncio.run(_log_in_and_close(codes[0])))
    _say([])
    return {"child": child, "parent": runner.run(_log_in_and_close(codes[1]))}


def another(settings: dict[str, Any], codes: list[str]) -> dict[str, Any]:
    """The child makes a service of its own on the same stores; the parent's is open."""
    service.append(MPAuthX(sku="shop", **settings))
    runner.run(_log_in(service[0], codes[:1]))

    def anew() -> Any:
        service.append(MPAuthX(sku="shop", **settings))
        return asyncio.run(_outcomes({"refresh_token": lambda: service[-1].refresh_token("bob")}))

    child = _in_child(anew)
    _say([])
    runner.run(service[0].close())
    later = _in_child(anew)
    return {"child": child, "later": later}


def _in_child(work: Callable[[], Any]) -> Any:
    """What a function returns in a forked child, which then ends as any process does."""
    reading, writing = os.pipe()
    if child := os.fork():
        os.close(writing)
        with os.fdopen(reading) as pipe:
            answer = pipe.read()
        _, status = os.waitpid(child, 0)
        assert (status, bool(answer)) == (0, True)
        return json.loads(answer)
    with os.fdopen(writing, "w") as pipe:
        json.dump(work(), pipe)
    sys.exit(0)


async def _use_and_drop(token: str) -> dict[str, str]:
    """Make every call in the child, and let go of the service while an event loop runs."""
    found = await _outcomes(_calls(service.pop(), token))
    gc.collect()
    return found


def _calls(auth: MPAuthX, token: str) -> Calls:
    return {
        **every_call(auth, token),
        "is_token_valid of a forgery": lambda: auth.is_token_valid("bob|shop|x"),
        "close": lambda: auth.close(),
        "lookup": lambda: auth._parts.tokens.lookup([new_session("bob").ref]),
        "bans": lambda: auth._parts.tokens.bans([Subject("shop", "bob")]),
        "get": lambda: auth._parts.users.get(["bob"]),
        "http": lambda: _get(lambda: auth._parts.connections.http),
        "executor": lambda: _get(lambda: auth._parts.connections.executor),
        "close connections": lambda: auth._parts.connections.close(),
    }


async def _get(what: Callable[[], Any]) -> Any:
    return what()


async def _outcomes(calls: Calls) -> dict[str, str]:
    found = {}
    for name, call in calls.items():
        try:
            async with asyncio.timeout(PATIENCE):
                found[name] = f"answered {await call()!r}"
        except (MPAuthXError, TimeoutError) as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


async def _log_in(auth: MPAuthX, codes: list[str]) -> list[str]:
    """Log users in; their tokens are good in the near cache, too, if there is one."""
    tokens = [(await auth.authorize(code)).response for code in codes]
    near_cache = auth._validator._near

    async def are_good() -> bool:
        is_known = near_cache is None or all(map(near_cache.known, tokens))
        return await _are_valid(auth, tokens) and is_known

    await until(are_good)
    return tokens


async def _log_in_and_close(code: str) -> bool:
    async with service[0] as auth:
        return bool(await _log_in(auth, [code]))


async def _are_valid(auth: MPAuthX, tokens: list[str]) -> bool:
    return all([await auth.is_token_valid(token) for token in tokens])


async def _until_refused(auth: MPAuthX, token: str) -> bool:
    async def is_refused() -> bool:
        return not await auth.is_token_valid(token)

    await until(is_refused)
    return True


def _ports(auth: MPAuthX) -> list[int]:
    """Our ends of the idle connections to Redis."""
    pool = getattr(auth._parts.connections._redis, "connection_pool", None)
    idle = pool._available_connections if pool else []
    return sorted(one._writer.get_extra_info("sockname")[1] for one in idle)


def _say(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    scenario, given = sys.argv[1:]
    _say({"used": used, "unused": unused, "another": another}[scenario](**json.loads(given)))
