"""A process that revokes the tokens that it is told.

    python -m tests.helpers.near_revoker <URL of the token store> <user database> <app id>

It reads the app's secret and then a token from each line, and prints for each when it was revoked
(time.monotonic, which is one for all processes) and the token. It tries until Redis answers.
"""

import asyncio
import sys
import time

from mpauthx_async import MPAuthX, StoreError


async def main(tokens: str, users: str, app_id: str) -> None:
    secret = (await asyncio.to_thread(sys.stdin.readline)).strip()
    async with MPAuthX(
        app_id=app_id, app_secret=secret, sku="shop", users=f"sqlite:///{users}", tokens=tokens
    ) as auth:
        while token := (await asyncio.to_thread(sys.stdin.readline)).strip():
            while not await is_revoked(auth, token):
                pass
            sys.stdout.write(f"{time.monotonic()} {token}\n")
            sys.stdout.flush()


async def is_revoked(auth: MPAuthX, token: str) -> bool:
    try:
        await auth.revoke(token)
    except StoreError:
        return False
    return True


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
