"""A process that logs users in, for tests: python -m tests.helpers.mongo_logins URL.

It reads a line of JSON, a list of batches of [open_id, union_id]; it saves all batches at once, and
prints the answers.
"""

import asyncio
import json
import sys

from mpauthx_async import User
from mpauthx_async.stores import MongoUserStore


async def main(url: str) -> None:
    async with MongoUserStore(url, timeout=60) as store:
        await store.check()
        print("ready", flush=True)  # noqa: T201
        batches = json.loads(await asyncio.to_thread(sys.stdin.readline))
        saves = (store.save([User(*ids) for ids in batch]) for batch in batches)
        print(json.dumps([list(answer) for answer in await asyncio.gather(*saves)]))  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
