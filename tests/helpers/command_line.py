"""The command line as tests use it: in this process, or in one of its own."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from mpauthx_async.cli.main import main
from mpauthx_async.connections import Connections
from mpauthx_async.models import NewSession, SessionRef
from mpauthx_async.stores import SqliteTokenStore, TokenStore, open_token_store
from mpauthx_async.tokens.format import new_nonce
from tests.helpers.redis_server import RedisServer

SKU = "shop"
HOUR = 3_600_000


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


class Command:
    """The command line in this process, on one store."""

    def __init__(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.url = url
        self._capsys = capsys

    def __call__(self, action: str, *arguments: str) -> Outcome:
        try:
            code = main(["sessions", action, "--tokens", self.url, "--sku", SKU, *arguments])
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
        return Outcome(code, *self._capsys.readouterr())

    def ask(self, work: Callable[[TokenStore], Any]) -> Any:
        """Do something with the store itself."""

        async def ask() -> Any:
            async with Connections() as connections, open_token_store(self.url, connections) as s:
                return await work(s)

        return asyncio.run(ask())

    def begin(self, *user_ids: str, **settings: Any) -> list[str]:
        """Begin a session of each; returns their ids."""
        session_ids = [new_nonce() for _ in user_ids]
        for user_id, session_id in zip(user_ids, session_ids, strict=True):
            self.issue(user_id, session_id, **settings)
        return session_ids

    def issue(self, user_id: str, session_id: str, *, ttl: int = HOUR, **settings: Any) -> None:
        new = NewSession(SessionRef(SKU, user_id, session_id), ttl, **settings)
        self.ask(lambda store: store.issue([new]))


def empty_store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store."""
    if request.param == "sqlite":
        asyncio.run(_begin_to_keep_sessions(tmp_path / "tokens.db"))
        return f"sqlite:///{tmp_path}/tokens.db"
    server: RedisServer = request.getfixturevalue("redis_server")
    with Redis.from_url(server.url) as client:
        client.flushall()
    return server.url


def process(*arguments: str, tokens: str, **environment: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "mpauthx_async", "sessions", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"}
        | {"MPAUTHX_TOKENS": tokens, "MPAUTHX_SKU": SKU, **environment},
    )


def run(*arguments: str, tokens: str, **environment: str) -> Outcome:
    with process(*arguments, tokens=tokens, **environment) as child:
        out, err = child.communicate(timeout=60)
    return Outcome(child.returncode, out.decode(), err.decode())


@asynccontextmanager
async def started(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `python -m mpauthx_async`; it is killed unless it has ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-m", "mpauthx_async", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(120):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ended(*arguments: str) -> Outcome:
    """Run `python -m mpauthx_async` to its end."""
    async with started(*arguments) as child:
        out, err = await child.communicate()
    assert child.returncode is not None
    return Outcome(child.returncode, out.decode(), err.decode())


async def _begin_to_keep_sessions(file: Path) -> None:
    async with SqliteTokenStore(file) as store:
        await store.lookup([])
