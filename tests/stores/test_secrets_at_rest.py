"""What the stores leave on a disk: no secret in any byte, and files that only their owner reads."""

import asyncio
import base64
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from redis.asyncio import Redis

from mpauthx_async import (
    AuthResult,
    MPAuthX,
    SqliteKeyValueStore,
    SqliteTokenStore,
    SqliteUserStore,
    WeChatOAuth,
    WeChatSimulator,
)
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.conformance.examples import ALICE
from mpauthx_async.stores.sqlite.database import SqliteDatabase
from tests.helpers.redis_server import RedisServer
from tests.helpers.sqlite_files import run

SIGNING_KEY = "a-signing-key-of-ours"


async def use_everything(wx: WeChatSimulator, auth: MPAuthX, oauth: WeChatOAuth) -> set[str]:
    """Do all that keeps something of WeChat's; returns the secrets that were met."""
    secrets = {wx.app_secret, SIGNING_KEY}
    for open_id, union_id in (("bob-of-shop", None), ("eve-of-shop", "union-of-eve")):
        issued = await auth.issue_session(open_id=open_id, union_id=union_id)
        refreshed = await auth.refresh_token(open_id)
        code = wx.login(open_id, union_id)
        info = wx.get_user_info(open_id)
        result = await auth.authorize(code, info.encrypted_data, info.iv)
        secrets |= {session_key(wx, open_id)}
        await auth.reset_session_key(result.response)
        secrets |= {session_key(wx, open_id)}
        rotated = await auth.rotate(result.response)
        web = await auth.authorize_web(wx.web_login(open_id, union_id))
        secrets |= macs(issued, refreshed, result, rotated, web)
        own = await auth._web._tokens.get(open_id)
        given = await oauth.get_access_token(wx.web_login(open_id, union_id))
        for token in (own, given, await oauth.refresh_access_token(given.refresh_token)):
            assert token is not None
            secrets |= {token.access_token, token.refresh_token}
    secrets.add(await auth.access_token())
    return secrets


def macs(*results: AuthResult) -> set[str]:
    """The MACs of tokens, in several spellings."""
    found = set[str]()
    for result in results:
        mac = base64.urlsafe_b64decode(result.response[-43:] + "=")[16:]
        found |= {result.response[-21:], mac.hex(), base64.b64encode(mac).decode().rstrip("=")}
        found.add(base64.urlsafe_b64encode(mac).decode().rstrip("="))
    return found


def session_key(wx: WeChatSimulator, open_id: str) -> str:
    key = wx._known_user(open_id, None).session_key
    assert key is not None
    return key


def forms(secret: str) -> Iterator[bytes]:
    """A secret as it is, and a session key as its bytes and in their other spellings."""
    yield secret.encode()
    if len(secret) == 24 and secret.endswith("=="):
        raw = base64.b64decode(secret)
        yield from (raw, raw.hex().encode(), secret[:-2].encode())
        yield base64.urlsafe_b64encode(raw)[:-2]


def found(secrets: set[str], content: bytes) -> list[str]:
    return [secret for secret in secrets if any(form in content for form in forms(secret))]


class TestSecrets:
    @pytest.fixture
    def make(self, tmp_path: Path, wx: WeChatSimulator) -> Callable[[str], Any]:
        def make(tokens: str) -> tuple[MPAuthX, WeChatOAuth]:
            app: dict[str, Any] = {
                "app_id": wx.app_id,
                "app_secret": wx.app_secret,
                "api_base": wx.url,
                "signing_keys": [SIGNING_KEY],
            }
            users = f"sqlite:///{tmp_path}/users.db"
            auth = MPAuthX(sku="shop", users=users, tokens=tokens, **app)
            return auth, WeChatOAuth(tokens=tokens, **app)

        return make

    async def test_no_byte_of_the_sqlite_files_tells_a_secret(
        self, make: Callable[[str], Any], wx: WeChatSimulator, tmp_path: Path
    ) -> None:
        auth, oauth = make(f"sqlite:///{tmp_path}/tokens.db")
        async with auth, oauth:
            secrets = await use_everything(wx, auth, oauth)
            while_open = _content(tmp_path)
        for content in (while_open, _content(tmp_path)):
            for kept in (b"bob-of-shop", b"union-of-eve", b"oauth_token|", b"access_token|"):
                assert kept in content
            assert found(secrets, content) == []

    async def test_no_byte_of_a_redis_dump_tells_a_secret(
        self, make: Callable[[str], Any], wx: WeChatSimulator, server: RedisServer, admin: Redis
    ) -> None:
        await admin.config_set("rdbcompression", "no")  # so that texts stand there as they are
        auth, oauth = make(server.url)
        async with auth, oauth:
            secrets = await use_everything(wx, auth, oauth)
            await admin.save()
        folder = (await admin.config_get("dir"))["dir"]
        content = (Path(folder) / "dump.rdb").read_bytes()
        for kept in (b"bob-of-shop", b"union-of-eve", b"oauth_token|", b"access_token|"):
            assert kept in content
        assert found(secrets, content) == []

    def test_a_secret_in_any_form_would_be_found(self) -> None:
        key = "tiihtNczf5v6AKRyjwEUhQ=="
        raw = base64.b64decode(key)
        for form in (key.encode(), raw, raw.hex().encode(), key[:-2].encode()):
            assert found({key, "other"}, b"before" + form + b"behind") == [key]
        assert found({key}, b"something else") == []


STORES: dict[str, Callable[[Path | str], Any]] = {
    "tokens": SqliteTokenStore,
    "users": SqliteUserStore,
    "records": SqliteKeyValueStore,
}


def _takes_uris() -> bool:
    with closing(sqlite3.connect(":memory:")) as connection:
        return ("USE_URI",) in connection.execute("PRAGMA compile_options").fetchall()


NO_FILES = [":memory:", "", *(["file::memory:"] if _takes_uris() else [])]


async def use(store: Any) -> None:
    if isinstance(store, SqliteTokenStore):
        await store.issue([new_session()])
    elif isinstance(store, SqliteUserStore):
        await store.get(["bob"])
    else:
        await store.save("name", "text", 60)


class TestModes:
    @pytest.fixture(params=[0o000, 0o022, 0o077])
    def umask(self, request: pytest.FixtureRequest) -> Iterator[int]:
        before = os.umask(request.param)
        yield request.param
        os.umask(before)

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "app.db"

    @pytest.mark.parametrize("kind", STORES)
    async def test_a_new_file_and_those_beside_it_are_their_owners_alone(
        self, kind: str, path: Path, umask: int
    ) -> None:
        async with STORES[kind](path) as store:
            await use(store)
            assert _modes(path) == {"app.db": 0o600, "app.db-shm": 0o600, "app.db-wal": 0o600}
        assert _modes(path) == {"app.db": 0o600}

    async def test_stores_that_open_a_new_file_at_once_agree(self, path: Path, umask: int) -> None:
        stores = [SqliteTokenStore(path) for _ in range(8)]
        await asyncio.gather(*map(use, stores))
        assert set(_modes(path).values()) == {0o600}
        assert await stores[0].revoke_subject(ALICE) == 8
        for store in stores:
            await store.close()

    async def test_the_file_has_its_mode_before_sqlite_touches_it(
        self, path: Path, umask: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connect, seen = sqlite3.connect, []

        def watched(*args: Any, **options: Any) -> sqlite3.Connection:
            seen.append(_modes(path))
            return connect(*args, **options)

        monkeypatch.setattr(sqlite3, "connect", watched)
        async with SqliteTokenStore(path) as store:
            await use(store)
        first, *_ = seen
        assert first == {"app.db": 0o600}
        assert {mode for modes in seen for mode in modes.values()} == {0o600}

    @pytest.mark.parametrize("mode", [0o640, 0o666])
    async def test_an_existing_file_keeps_its_mode(self, path: Path, umask: int, mode: int) -> None:
        run(path, "CREATE TABLE mine (x)")
        path.chmod(mode)
        async with SqliteTokenStore(path) as store:
            await use(store)
            assert set(_modes(path).values()) == {mode}

    async def test_a_file_behind_a_symbolic_link_is_its_owners_alone(
        self, path: Path, tmp_path: Path, umask: int
    ) -> None:
        (tmp_path / "disk").mkdir()
        path.symlink_to(tmp_path / "disk" / "app.db")
        async with SqliteTokenStore(path) as store:
            await use(store)
        assert _modes(tmp_path / "disk" / "app.db") == {"app.db": 0o600}

    @pytest.mark.parametrize("name", NO_FILES)
    async def test_a_database_without_a_file_creates_no_file(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        database = SqliteDatabase(name, 1, lambda cursor: None)
        assert await database.run(lambda cursor: cursor.execute("SELECT 1").fetchone()) == (1,)
        await database.close()
        assert list(tmp_path.iterdir()) == []

    async def test_a_given_connection_keeps_its_files_mode(self, path: Path, umask: int) -> None:
        async with aiosqlite.connect(path) as connection:
            await use(SqliteTokenStore(connection))
        assert _modes(path) == {"app.db": 0o644 & ~umask}


def _content(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.iterdir()))


def _modes(path: Path) -> dict[str, int]:
    """The permissions of a database's files."""
    files = path.parent.glob(f"{path.name}*")
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in sorted(files)}
