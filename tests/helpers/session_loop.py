"""A process that logs users in, rotates, revokes, refreshes and bans until it is killed.

    python -m tests.helpers.session_loop <URL of the token store> <URL of the user store> <seed>

It prints a line for each call that is over.
"""

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable
from functools import partial

from mpauthx_async import LoginPolicy, MPAuthX, MPAuthXError, WeChatSimulator

USERS = [f"user-{number}" for number in range(6)]
WORKERS = 4


async def main(tokens: str, users: str, seed: int) -> None:
    chance = random.Random(seed)
    async with (
        WeChatSimulator() as wx,
        MPAuthX(
            app_id=wx.app_id,
            app_secret=wx.app_secret,
            sku="shop",
            users=users,
            tokens=tokens,
            api_base=wx.url,
            policy=LoginPolicy(max_sessions=3),
        ) as auth,
    ):
        await asyncio.gather(*(work(auth, wx, chance) for _ in range(WORKERS)))


async def work(auth: MPAuthX, wx: WeChatSimulator, chance: random.Random) -> None:
    given: list[str] = []
    while True:
        user_id = chance.choice(USERS)
        token = chance.choice(given) if given else ""
        calls: dict[Callable[[], Awaitable[object]], int] = {
            partial(log_in, auth, wx, user_id, given): 8,
            partial(rotate, auth, token, given): 4,
            partial(auth.revoke, token): 2,
            partial(auth.revoke_user, user_id): 1,
            partial(auth.refresh_token, user_id): 2,
            partial(auth.ban, user_id, seconds=0.02): 1,
            partial(auth.unban, user_id): 1,
        }
        (call,) = chance.choices(list(calls), list(calls.values()))
        try:
            await call()
        except MPAuthXError as error:
            outcome = f"refused: {type(error).__name__}"
        else:
            outcome = "done"
        sys.stdout.write(f"{outcome}\n")
        sys.stdout.flush()


async def log_in(auth: MPAuthX, wx: WeChatSimulator, user_id: str, given: list[str]) -> None:
    given.append((await auth.authorize(wx.login(user_id))).response)


async def rotate(auth: MPAuthX, token: str, given: list[str]) -> None:
    given.append((await auth.rotate(token)).response)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
