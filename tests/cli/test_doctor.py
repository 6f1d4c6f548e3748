import asyncio
import os
import re
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import AsyncIterator, Callable, Mapping
from email.utils import formatdate
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from mpauthx_async import MPAuthX, WeChatSimulator
from mpauthx_async.cli.doctor import run_doctor
from mpauthx_async.cli.main import main
from mpauthx_async.cli.serve.options import add_server_options
from tests.helpers.command_line import Outcome
from tests.helpers.redis_proxy import RedisProxy
from tests.helpers.redis_server import RedisServer
from tests.helpers.scripted_mongo import scripted_mongo
from tests.helpers.scripted_server import Act, Answer, Server, asking, refused
from tests.helpers.server_process import free_port
from tests.helpers.sqlite_files import locked, run

PATIENCE = 60  # seconds
SECRET = "AppSecretGEHEIM5e4c2e7d"
PASSWORD = "PasswordGEHEIM"
NOT_SECRET = {"app_id", "api_base", "users", "tokens"}
TOKEN = '{"access_token": "97_TokenGEHEIM", "expires_in": 7200}'
REDIS_IS_WELL = "Redis answers"
WECHAT_IS_WELL = "WeChat answers, and accepts app_id and app_secret"

Doctor = Callable[..., Any]


@pytest.fixture
async def wx() -> AsyncIterator[WeChatSimulator]:
    async with WeChatSimulator(app_secret=SECRET) as simulator:
        yield simulator


@pytest.fixture
def doctor(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    wx: WeChatSimulator,
    redis_server: RedisServer,
) -> Doctor:
    """Runs the command on a configuration without faults, with changes to its environment."""
    monkeypatch.chdir(tmp_path)
    sound = {
        "app_id": wx.app_id,
        "app_secret": SECRET,
        "api_base": wx.url,
        "users": f"sqlite:///{tmp_path}/users.db",
        "tokens": redis_server.url,
    }

    async def doctor(
        *flags: str, clock: Callable[[], float] | None = None, **changes: str | None
    ) -> Outcome:
        for name, value in {**sound, **changes}.items():
            if value is None:
                monkeypatch.delenv(f"MPAUTHX_{name.upper()}", raising=False)
            else:
                monkeypatch.setenv(f"MPAUTHX_{name.upper()}", value)
        command = partial(main, ["doctor", *flags])
        if clock is not None:
            parser = ArgumentParser()
            add_server_options(parser)
            command = partial(run_doctor, parser.parse_args(flags), clock=clock)
        async with asyncio.timeout(PATIENCE):
            code = await asyncio.to_thread(command)
        outcome = Outcome(code, *capsys.readouterr())
        assert "GEHEIM" not in outcome.out + outcome.err
        return outcome

    return doctor


def lines(outcome: Outcome, state: str) -> list[str]:
    """What was found to be in a state, such as `wrong`."""
    found = (line.split(maxsplit=1) for line in outcome.out.splitlines() if "  " in line)
    return [text for first, text in found if first == state]


def only_fault(outcome: Outcome) -> str:
    """The one fault; the other checks went on."""
    (fault,) = lines(outcome, "wrong")
    assert outcome.code == 1
    assert outcome.out.endswith("\n1 fault found.\n")
    return fault


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    found = filter(Path.is_file, folder.iterdir())
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


class TestSound:
    async def test_says_what_was_checked(self, doctor: Doctor, tmp_path: Path) -> None:
        outcome = await doctor()
        assert (outcome.code, outcome.err) == (0, "")
        checked = re.sub(r"answers \([\d.]+\)", "answers (VERSION)", outcome.out)
        assert checked == (
            "ok     The options are complete and fit together\n"
            "ok     Redis answers (VERSION), and evicts no keys (no maxmemory)\n"
            "ok     The clocks of Redis and of this machine agree\n"
            f"ok     The file of the users, {tmp_path}/users.db, does not exist yet, and can be "
            "created\n"
            "ok     WeChat answers, and accepts app_id and app_secret\n"
            "ok     The clocks of WeChat and of this machine agree\n"
            "\nNothing is wrong.\n"
        )

    async def test_reports_the_eviction_policy(self, doctor: Doctor) -> None:
        with RedisServer(maxmemory="100mb", maxmemory_policy="noeviction") as server:
            outcome = await doctor(tokens=server.url)
        assert outcome.code == 0
        assert "evicts no keys (noeviction)" in outcome.out

    @pytest.mark.parametrize("serving", [False, True], ids=["closed", "serving"])
    async def test_changes_no_file(
        self, doctor: Doctor, make: Callable[..., MPAuthX], tmp_path: Path, serving: bool
    ) -> None:
        urls = {kind: f"sqlite:///{tmp_path}/{kind}.db" for kind in ("users", "tokens")}
        wx = WeChatSimulator(app_secret=SECRET)
        async with wx, make(app_secret=SECRET, api_base=wx.url, **urls) as auth:
            await auth.authorize(wx.login("alice"))
            if not serving:
                await auth.close()
            before = files(tmp_path)
            assert ("users.db-wal" in before) == serving
            outcome = await doctor(**urls)
            assert files(tmp_path).keys() == before.keys()
            changed = {name for name, file in files(tmp_path).items() if file != before[name]}
            assert changed <= {"users.db-shm", "tokens.db-shm"}  # where readers keep their locks
        assert outcome.code == 0
        assert f"{tmp_path}/users.db, can be written, and its table user takes" in outcome.out
        assert f"{tmp_path}/tokens.db, can be written\n" in outcome.out

    async def test_creates_nothing(self, doctor: Doctor, redis: Redis, tmp_path: Path) -> None:
        assert (await doctor()).code == 0
        assert (await doctor(tokens=f"sqlite:///{tmp_path}/tokens.db")).code == 0
        assert not list(tmp_path.iterdir())
        assert await redis.dbsize() == 0

    async def test_keeps_the_access_token_valid(self, doctor: Doctor, wx: WeChatSimulator) -> None:
        async with asking(wx.url, app_id=wx.app_id, app_secret=SECRET) as api:
            token, _ = await api.get_stable_token()
            assert (await doctor()).code == 0
            assert (await api.get_stable_token())[0] == token


class TestOptions:
    async def test_a_missing_secret_does_not_end_the_other_checks(self, doctor: Doctor) -> None:
        outcome = await doctor(app_secret=None)
        assert only_fault(outcome).startswith("app_secret is missing: set MPAUTHX_APP_SECRET")
        assert REDIS_IS_WELL in outcome.out
        assert lines(outcome, "-") == ["WeChat was not asked, for lack of app_id or app_secret."]

    async def test_all_faults_are_found_at_once(self, doctor: Doctor, tmp_path: Path) -> None:
        file = tmp_path / "server.toml"
        file.write_text('worker = 2\nport = 99999\nsigning_keys = ["GEHEIM,GEHEIM"]\n')
        outcome = await doctor("--max-sessions", "many", config=str(file), user="x")
        assert outcome.code == 1
        assert lines(outcome, "wrong") == [
            "There is no option MPAUTHX_USER for the environment: did you mean MPAUTHX_USERS?",
            f"There is no option 'worker' for the file {file}: did you mean workers?",
            f"port in {file} must be a whole number from 0 to 65535.",
            f"signing_keys in {file} must be a text, a number, true, false or a list of texts.",
            "--max-sessions must be a whole number from 1 to 1000.",
        ]
        assert outcome.out.endswith("\n5 faults found.\n")
        assert REDIS_IS_WELL in outcome.out
        assert WECHAT_IS_WELL in outcome.out

    @pytest.mark.parametrize(("text", "fault"), [("port: 80", "is not TOML"), (None, "be read")])
    async def test_an_unreadable_file_ends_the_checks(
        self, doctor: Doctor, tmp_path: Path, wx: WeChatSimulator, text: str | None, fault: str
    ) -> None:
        if text is not None:
            (tmp_path / "server.toml").write_text(text)
        outcome = await doctor("--config", "server.toml", app_secret=None)
        assert fault in only_fault(outcome)
        assert lines(outcome, "ok") == []
        assert not wx.requests

    @pytest.mark.parametrize(
        ("changes", "fault"),
        [
            ({"absolute_ttl": "60", "token_ttl": "90"}, "absolute_ttl"),
            ({"signing_keys": "GEHEIM"}, "at least 16 bytes"),
            ({"push_token": "GEHEIM", "push_aes_key": "GEHEIM"}, "MPAUTHX_PUSH_AES_KEY must be"),
            ({"tokens": "mysql://root:GEHEIM@host/db"}, "The URL of a token store begins with"),
            ({"tokens": "redis://localhost?spelling=2"}, "the option 'spelling'"),
            ({"users": "redis://:GEHEIM@host"}, "The URL of a user store begins with"),
            ({"api_base": "weixin"}, "api_base must be a URL"),
        ],
    )
    async def test_invalid_options_are_reported_once(
        self, doctor: Doctor, changes: Mapping[str, str], fault: str
    ) -> None:
        outcome = await doctor(**changes)
        assert fault in only_fault(outcome)
        assert ("tokens" in changes) or REDIS_IS_WELL in outcome.out
        assert ("api_base" in changes) or WECHAT_IS_WELL in outcome.out


class TestRedis:
    async def test_reports_a_redis_that_does_not_answer(self, doctor: Doctor) -> None:
        outcome = await doctor(tokens=f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0")
        assert "Check that it is up and can be reached" in only_fault(outcome)
        assert WECHAT_IS_WELL in outcome.out

    @pytest.mark.parametrize("login", ["", f":{PASSWORD}-wrong@", f"alice:{PASSWORD}@"])
    async def test_accepts_only_the_right_password(
        self, doctor: Doctor, server: RedisServer, admin: Redis, login: str
    ) -> None:
        await admin.config_set("requirepass", PASSWORD)
        outcome = await doctor(tokens=f"redis://{login}127.0.0.1:{server.port}/0")
        assert "Check the user and the password in its URL." in only_fault(outcome)
        assert (await doctor(tokens=f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0")).code == 0

    async def test_reports_an_evicting_policy_and_a_replica_together(
        self, doctor: Doctor, server: RedisServer, admin: Redis
    ) -> None:
        await admin.config_set("maxmemory", "100mb")
        await admin.config_set("maxmemory-policy", "allkeys-lru")
        await admin.replicaof("127.0.0.1", "1")
        outcome = await doctor(tokens=server.url)
        replica, eviction = lines(outcome, "wrong")
        assert replica == "Its address leads to a replica: it must lead to the primary."
        assert "(maxmemory-policy allkeys-lru)" in eviction
        assert "CONFIG SET maxmemory-policy noeviction" in eviction
        assert REDIS_IS_WELL not in outcome.out

    async def test_reports_that_redis_memory_is_full(
        self, doctor: Doctor, server: RedisServer, admin: Redis
    ) -> None:
        await admin.config_set("maxmemory", "100kb")
        outcome = await doctor(tokens=server.url)
        assert only_fault(outcome) == "The memory of Redis is full: raise its maxmemory."

    async def test_reports_a_redis_that_is_too_old(
        self, doctor: Doctor, redis_server: RedisServer
    ) -> None:
        async with RedisProxy(redis_server) as proxy:
            proxy.edit = partial(re.sub, rb"redis_version:\d", b"redis_version:5")
            outcome = await doctor(tokens=proxy.url)
        assert re.fullmatch(r"Redis 5[.\d]+ is too old: use Redis 6.2 .*", only_fault(outcome))

    async def test_reports_a_url_that_names_a_cluster_node(
        self, doctor: Doctor, cluster_server: RedisServer
    ) -> None:
        outcome = await doctor(tokens=cluster_server.url)
        assert only_fault(outcome).startswith("This Redis is a node of a Redis Cluster")


class TestSqlite:
    async def test_reports_a_missing_folder(self, doctor: Doctor, tmp_path: Path) -> None:
        outcome = await doctor(tokens=f"sqlite:///{tmp_path}/no\x1bwhere/tokens.db")
        assert only_fault(outcome) == (
            rf"The file of the tokens, {tmp_path}/no\x1bwhere/tokens.db, is in a folder that does "
            "not exist: create it."
        )

    @pytest.mark.parametrize(
        ("mode", "fault"),
        [(0o555, "in a folder that this user may not write to"), (0o755, "cannot be written by")],
    )
    async def test_reports_files_and_folders_it_may_not_write(
        self, doctor: Doctor, tmp_path: Path, mode: int, fault: str
    ) -> None:
        folder = tmp_path / "data"
        folder.mkdir()
        run(folder / "users.db", "CREATE TABLE user (openId TEXT PRIMARY KEY)")
        (folder / "users.db").chmod(0o444)
        folder.chmod(mode)
        await doctor(users=f"sqlite:///{folder}/users.db")  # sets the environment of the process
        outcome = await asyncio.to_thread(as_ordinary_user)
        assert fault in only_fault(outcome)

    async def test_reports_a_path_that_is_no_database(self, doctor: Doctor, tmp_path: Path) -> None:
        (tmp_path / "notes.db").write_text("GEHEIM notes, and not a database at all " * 100)
        url = f"sqlite:///{tmp_path}"
        outcome = await doctor(tokens=url, users=f"{url}/notes.db")
        folder, notes = lines(outcome, "wrong")
        assert folder.endswith("is not a file: give the path of a file.")
        assert "Give the path of a SQLite file" in notes
        assert WECHAT_IS_WELL in outcome.out

    @pytest.mark.parametrize(
        ("schema", "fault"),
        [
            ("CREATE TABLE user (id INTEGER)", "without a column openId. Add the column"),
            ("CREATE TABLE user (openId TEXT, age INT NOT NULL)", "column user.age is NOT NULL"),
            ("CREATE VIEW user AS SELECT 'bob' AS openId", "A view needs INSTEAD OF triggers"),
        ],
    )
    @pytest.mark.parametrize("journal", ["delete", "wal"])
    async def test_reports_a_table_that_takes_no_logins(
        self, doctor: Doctor, tmp_path: Path, schema: str, fault: str, journal: str
    ) -> None:
        run(tmp_path / "users.db", f"PRAGMA journal_mode = {journal}; {schema}")
        before = files(tmp_path)
        assert fault in only_fault(await doctor())
        assert files(tmp_path) == before

    async def test_reports_a_file_that_another_process_locks(
        self, doctor: Doctor, tmp_path: Path
    ) -> None:
        run(tmp_path / "users.db", "CREATE TABLE user (openId TEXT PRIMARY KEY)")
        with locked(tmp_path / "users.db"):
            fault = only_fault(await doctor())
        assert "database is locked" in fault
        assert "Check whether another process holds its lock." in fault


class TestWeChat:
    async def test_reports_an_unknown_app_id(self, doctor: Doctor) -> None:
        fault = only_fault(await doctor(app_id="wx0123456789abcdef"))
        assert "errcode 40013" in fault
        assert "Check app_id" in fault

    async def test_reports_a_wrong_secret(self, doctor: Doctor) -> None:
        outcome = await doctor(app_secret=f"{SECRET}-of-yesterday")
        fault = only_fault(outcome)
        assert "errcode 40125" in fault
        assert "Check app_secret; it may have been reset" in fault
        assert "The clocks of WeChat and of this machine agree" in lines(outcome, "ok")

    async def test_reports_an_ip_address_that_is_not_on_the_list(self, doctor: Doctor) -> None:
        answer = refused(40164, "invalid ip 203.0.113.9 ipv6 ::ffff:203.0.113.9, not in whitelist")
        async with Server(answer) as server:
            fault = only_fault(await doctor(api_base=server.url))
        assert "This server's IP address is not allowed" in fault
        assert "203.0.113.9" in fault

    async def test_reports_that_wechat_is_unreachable(
        self, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        api_base = f"http://user:{PASSWORD}@127.0.0.1:{free_port()}"
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.delenv(name, raising=False)
        outcome = await doctor(api_base=api_base)
        assert only_fault(outcome).endswith("Check DNS, proxy and firewall.")
        assert REDIS_IS_WELL in outcome.out
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{PASSWORD}@127.0.0.1:1")
        fault = only_fault(await doctor(api_base=api_base))
        assert fault.endswith("HTTPS_PROXY is set, and the server ignores it.")

    async def test_reports_a_web_page_in_place_of_an_answer(self, doctor: Doctor) -> None:
        async with Server(Answer(f"<html>Sign in, {PASSWORD}</html>")) as server:
            fault = only_fault(await doctor(api_base=server.url))
        assert "check for a proxy" in fault


class TestClocks:
    @pytest.mark.parametrize(("seconds", "side"), [(-60, "ahead of"), (60, "behind")])
    async def test_reports_that_this_machines_clock_is_wrong(
        self, doctor: Doctor, seconds: float, side: str
    ) -> None:
        outcome = await doctor(clock=lambda: time.time() + seconds)
        assert outcome.code == 1
        redis, wechat = lines(outcome, "wrong")
        for name, fault in {"Redis": redis, "WeChat": wechat}.items():
            told = rf"The clock of {name} is (5\d|60) seconds {side} this machine's"
            assert re.match(told, fault)

    async def test_reports_that_only_wechats_clock_is_wrong(self, doctor: Doctor) -> None:
        date = f"Date: {formatdate(time.time() + 1000, usegmt=True)}\r\n"
        async with Server(Answer(TOKEN, headers=date)) as server:
            outcome = await doctor(api_base=server.url)
        assert only_fault(outcome).startswith("The clock of WeChat is")
        assert "ahead of" in only_fault(outcome)
        assert "The clocks of Redis and of this machine agree" in lines(outcome, "ok")

    @pytest.mark.parametrize("header", ["", "Date: yesterday\r\n"])
    async def test_accepts_an_answer_without_a_date(self, doctor: Doctor, header: str) -> None:
        async with Server(Answer(TOKEN, headers=header)) as server:
            outcome = await doctor(api_base=server.url)
        assert outcome.code == 0
        assert "clocks of WeChat" not in outcome.out


async def test_it_ends_when_all_servers_hang(doctor: Doctor, server: RedisServer) -> None:
    async with Server(Act.HANG) as wechat:
        server.pause()
        outcome = await doctor(tokens=server.url, api_base=wechat.url)
    assert outcome.code == 1
    redis, wechat_fault = lines(outcome, "wrong")
    assert redis.startswith("Redis failed (TimeoutError")
    assert wechat_fault.startswith("WeChat did not answer in time.")
    assert len(lines(outcome, "ok")) == 2  # the options and the users


def as_ordinary_user() -> Outcome:
    """Run the command with this environment, and without root's right to write everywhere."""
    drop = ["--bounding-set=-dac_override", "--inh-caps=-dac_override"]
    prefix = ["setpriv", *drop] if os.geteuid() == 0 else []
    command = [*prefix, sys.executable, "-m", "mpauthx_async", "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    return Outcome(done.returncode, done.stdout, done.stderr)


class TestUsersInMongoDB:
    async def test_reports_that_mongodb_answers(self, doctor: Doctor, mongo_url: str) -> None:
        outcome = await doctor(users=mongo_url)
        assert outcome.code == 0
        assert "ok     The user store answers" in outcome.out

    async def test_reports_that_mongodb_is_down(self, doctor: Doctor) -> None:
        url = f"mongodb://127.0.0.1:{free_port()}/shop?serverSelectionTimeoutMS=100"
        assert "check that the server runs" in only_fault(await doctor(users=url))

    @pytest.mark.parametrize(
        ("code", "message"), [(18, "Authentication failed."), (13, "not authorized on shop")]
    )
    async def test_reports_a_wrong_password_and_a_user_who_may_not_write(
        self, doctor: Doctor, code: int, message: str
    ) -> None:
        async with scripted_mongo({"ok": 0, "code": code, "errmsg": message}) as port:
            password = f"u:{PASSWORD}@" if code == 18 else ""
            fault = only_fault(await doctor(users=f"mongodb://{password}127.0.0.1:{port}/shop"))
        assert message in fault
        assert "that the user may read and write there" in fault
