"""A bot that serves the users of a mini-program, on SQLite alone: no web framework, no Redis.

It reads lines from its input, as from a queue, and answers each with a line of JSON:

    login CODE
    whoami TOKEN

Environment: MPAUTHX_APP_ID, MPAUTHX_APP_SECRET; MPAUTHX_API_BASE for a simulator.
"""

import asyncio
import json
import os
import sys

from mpauthx_async import MPAuthX, MPAuthXError


async def answer(auth: MPAuthX, line: str) -> dict:
    command, _, argument = line.strip().partition(" ")
    try:
        if command == "login":
            return (await auth.authorize(argument)).to_dict()
        if command == "whoami":
            return {"user_id": (await auth.authenticate(argument)).user_id}
    except MPAuthXError as error:
        return {"status_code": int(error.code), "retryable": error.retryable}
    return {"error": "login CODE or whoami TOKEN"}


async def main() -> None:
    async with MPAuthX(
        app_id=os.environ.get("MPAUTHX_APP_ID", ""),
        app_secret=os.environ.get("MPAUTHX_APP_SECRET", ""),
        api_base=os.environ.get("MPAUTHX_API_BASE"),
        sku="bot",
        users="sqlite:///users.db",
        tokens="sqlite:///tokens.db",
    ) as auth:
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await answer(auth, line)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
