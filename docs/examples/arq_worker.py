"""An arq worker that shares the web app's Redis: a job is done for the user who asked for it.

The web app enqueues the user's token with the job. When the job runs, the worker checks that the
session is still good, through the connection pool that arq itself uses:

    await pool.enqueue_job("export_orders", token)

    arq arq_worker.WorkerSettings

Environment: MPAUTHX_APP_ID, MPAUTHX_APP_SECRET, REDIS_URL.
"""

import os
from typing import Any

from arq.connections import RedisSettings

from mpauthx_async import Connections, InvalidTokenError, MPAuthX, RedisTokenStore


async def export_orders(ctx: dict[str, Any], token: str) -> str:
    try:
        identity = await ctx["auth"].authenticate(token)
    except InvalidTokenError as error:
        return f"not done: the session is {error.status.name}"
    return f"orders of {identity.user_id}"


async def startup(ctx: dict[str, Any]) -> None:
    ctx["connections"] = Connections(redis=ctx["redis"])  # arq's own pool, which stays open
    ctx["auth"] = MPAuthX(
        app_id=os.environ.get("MPAUTHX_APP_ID", ""),
        app_secret=os.environ.get("MPAUTHX_APP_SECRET", ""),
        sku="shop",
        users="sqlite:///users.db",
        tokens=RedisTokenStore(ctx["connections"]),
        connections=ctx["connections"],
    )


async def shutdown(ctx: dict[str, Any]) -> None:
    await ctx["auth"].close()
    await ctx["connections"].close()


class WorkerSettings:
    functions = (export_orders,)
    on_startup = startup
    on_shutdown = shutdown
    redis_settings = RedisSettings.from_dsn(os.environ.get("REDIS_URL", "redis://localhost:6379/0"))
