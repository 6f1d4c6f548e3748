"""What judges near caches: uses tokens without end while another process revokes some of them."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from mpauthx_async import MPAuthX, StoreError, WeChatSimulator
from tests.helpers.line_process import LineProcess
from tests.helpers.near_services import BOUND
from tests.helpers.outages import until_true
from tests.helpers.service_calls import log_in

USERS = 60


class Checker:
    """Uses tokens without end, while another process revokes some, and notes what it saw."""

    def __init__(self, auth: MPAuthX, tokens: Sequence[str]) -> None:
        self._auth = auth
        self._tokens = tokens
        self.accepted: dict[str, float] = {}  # when a token was last asked about and accepted
        self.refused: dict[str, float] = {}  # when it was first
        self.revoked: dict[str, float] = {}
        self.rounds = 0

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        work = asyncio.create_task(self._work())
        try:
            yield
        finally:
            work.cancel()
            await asyncio.wait([work])
            assert work.cancelled(), work.exception()

    async def _work(self) -> None:
        while True:
            await asyncio.gather(*map(self._check, self._tokens))
            self.rounds += 1
            await asyncio.sleep(0.001)

    async def _check(self, token: str) -> None:
        asked = time.monotonic()
        try:
            is_valid = await self._auth.is_token_valid(token)
        except StoreError:
            return
        if is_valid:
            self.accepted[token] = asked
        else:
            self.refused.setdefault(token, asked)

    async def until_rounds(self, number: int) -> None:
        """Wait for so many more rounds, each of which has to get answers for all tokens."""
        target = self.rounds + number
        await until_true(lambda: self.rounds >= target)

    def judge(self) -> None:
        late = {
            token: self.accepted[token] - at
            for token, at in self.revoked.items()
            if self.accepted[token] > at + BOUND
        }
        assert late == {}
        assert set(self.refused) <= set(self.revoked)


class Revoker:
    """Another process, which revokes what it is told, one after the other."""

    def __init__(self, process: LineProcess, checker: Checker) -> None:
        self._process = process
        self._checker = checker
        self._left: list[str] = []

    def revoke(self, *tokens: str) -> None:
        self._left += tokens
        for token in tokens:
            self._process.write(token)

    async def until_done(self) -> None:
        for token in self._left:
            at, named = (await self._process.read()).split()
            assert named == token
            self._checker.revoked[token] = float(at)
        self._left.clear()


@asynccontextmanager
async def revoking(
    checker: Checker, url: str, wx: WeChatSimulator, directory: Path
) -> AsyncIterator[Revoker]:
    users = f"{directory}/users.db"
    async with LineProcess("-m", "tests.helpers.near_revoker", url, users, wx.app_id) as process:
        process.write(wx.app_secret)
        yield Revoker(process, checker)


async def log_all_in(auth: MPAuthX, wx: WeChatSimulator, kind: str = "user") -> list[str]:
    results = [await log_in(auth, wx, f"{kind}-{number}") for number in range(USERS)]
    return [result.response for result in results]
