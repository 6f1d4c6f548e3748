"""The server as a process: what it answers, and how it begins and ends."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientSession, web
from redis.asyncio import Redis

from mpauthx_async import WeChatSimulator
from mpauthx_async.cli.main import main
from mpauthx_async.cli.serve.worker import _SilentClients
from tests.helpers.redis_server import RedisServer
from tests.helpers.serve_process import ServeProcess, answer_to, environment_of, serving


class Site:
    """The server on the simulator and on Redis, as its clients see it."""

    def __init__(self, wx: WeChatSimulator, http: ClientSession, tokens: str, folder: Path) -> None:
        self.wx = wx
        self.http = http
        self._tokens = tokens
        self._folder = folder

    @asynccontextmanager
    async def serve(self, *flags: str, **environment: str) -> AsyncIterator[ServeProcess]:
        given = environment_of(self.wx, tokens=self._tokens) | environment
        async with serving(self._folder, *flags, environment=given) as server:
            self.url = server.url
            yield server

    async def ask(
        self, path: str, method: str = "GET", token: str = "", **options: Any
    ) -> tuple[int, Any, Any]:
        """Send a request; returns the status, headers and body."""
        return await ask(self.http, self.url + path, method, token, **options)

    async def log_in(self, user: str, prefix: str = "", http: ClientSession | None = None) -> str:
        url, body = f"{self.url}{prefix}/login", {"code": self.wx.login(user)}
        status, _, answer = await ask(http or self.http, url, "POST", json=body)
        assert status == 200
        return str(answer["response"])

    async def asked_wechat(self, times: int) -> None:
        """Wait until WeChat was asked so many times."""
        async with asyncio.timeout(60):
            while len(self.wx.requests) < times:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def exports(self, line: str) -> Any:
        """Wait until /metrics has a line, as events are counted a moment later; gives headers."""
        async with asyncio.timeout(60):
            _, headers, text = await self.ask("/metrics")
            while line not in text.splitlines():
                _, headers, text = await self.ask("/metrics")
        return headers


@pytest.fixture
async def site(
    wx: WeChatSimulator, http: ClientSession, redis: Redis, redis_server: RedisServer, path: Path
) -> Site:
    return Site(wx, http, redis_server.url, path.parent)


async def ask(
    http: ClientSession, url: str, method: str = "GET", token: str = "", **options: Any
) -> tuple[int, Any, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with http.request(method, url, headers=headers, **options) as answer:
        text = await answer.text()
    is_json = answer.content_type == "application/json"
    return answer.status, answer.headers, json.loads(text) if is_json else text


async def end(server: ServeProcess) -> int:
    """Send signals until it has ended, as processes may miss the first; returns the exit code."""
    ending = asyncio.create_task(server.ended())
    while not ending.done():
        server.send(signal.SIGTERM)
        await asyncio.wait([ending], timeout=0.5)
    return await ending


async def test_a_client_logs_in_and_proxies_ask_for_it(site: Site, tmp_path: Path) -> None:
    async with site.serve("--prefix", "/auth", "--include", "forget", "--compat", "koa") as server:
        assert (await site.ask("/healthz"))[::2] == (200, {"status": "ok"})
        assert (await site.ask("/readyz"))[::2] == (200, {"status": "ready"})
        token = await site.log_in("bob", "/auth")

        for method in ("GET", "POST", "DELETE", "PUT", "OPTIONS", "PURGE"):
            for path in ("/verify", "/verify/", "/verify/orders/7%2f8?page=2", "/verify/a%0Ab"):
                status, headers, _ = await site.ask(path, method, token)
                assert status == 200
                assert headers["X-User-Id"] == "bob"
                assert headers["X-Session-Id"] == token.rpartition("|")[2][:16]
                assert headers["Cache-Control"] == "no-store"
        status, headers, _ = await site.ask("/verify")
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "X-User-Id" not in headers
        status, headers, _ = await site.ask("/verify", token=token + "x")
        assert (status, headers["WWW-Authenticate"]) == (401, 'Bearer error="invalid_token"')

        assert (await site.ask("/nothing"))[0] == 404
        assert (await site.ask("/metrics"))[0] == 404
        assert (await site.ask("/auth/me", "DELETE", token))[0] == 200
        assert (await site.ask("/verify", token=token))[0] == 401
        assert await server.stop() == 0
    assert {path.name for path in tmp_path.glob("*.db")} == {"mpauthx-users.db"}


async def test_a_cookie_opens_nothing_behind_a_proxy(site: Site) -> None:
    async with site.serve("--cookies") as server:
        token = await site.log_in("bob")
        cookie = {"Cookie": f"__Host-mpauthx={token.replace('|', '%7C')}"}
        async with site.http.get(f"{server.url}/me", headers=cookie) as answer:
            assert answer.status == 200
        async with site.http.get(f"{server.url}/verify", headers=cookie) as answer:
            assert answer.status == 401


async def test_each_verification_is_one_lookup(site: Site, redis: Redis) -> None:
    async def lookups() -> int:
        counts = await redis.info("commandstats")
        return int(counts.get("cmdstat_mget", {"calls": 0})["calls"])

    async with site.serve():
        token = await site.log_in("bob")
        for path in ("/verify", "/verify/a%2fb", "/verify//a", "/verify/a%0ab"):
            before = await lookups()
            assert (await site.ask(path, token=token))[0] == 200
            assert await lookups() == before + 1
        assert (await site.ask("//nothing"))[0] == 404


async def test_verify_and_readyz_are_503_while_the_store_is_down(
    site: Site, server: RedisServer
) -> None:
    async with site.serve(MPAUTHX_TOKENS=server.url) as one:
        token = await site.log_in("bob")
        server.stop()
        status, headers, _ = await site.ask("/verify", token=token)
        assert (status, headers["Retry-After"]) == (503, "1")
        answer = await site.ask("/readyz")
        while answer[0] == 200:  # the last answer holds for a second
            answer = await site.ask("/readyz")
        assert answer[::2] == (503, {"status": "not ready"})
        assert (await site.ask("/healthz"))[0] == 200
        await one.printed("Not ready: The token store cannot serve")


class TestAccessLog:
    async def test_the_access_log_has_no_secrets(self, site: Site) -> None:
        async with site.serve("--compat", "koa") as server:
            code = site.wx.login("bob")
            _, _, body = await site.ask("/user/login", params={"code": code})
            await site.ask(f"/verify?token={body['Token']}", token=body["Token"])
            await server.printed(r'127\.0\.0\.1 "GET /user/login" 200 \d+ [\d.]+ms$')
            await server.printed(r'127\.0\.0\.1 "GET /verify" 200 ')
        shown = "\n".join(server.lines)
        assert not [one for one in (code, body["Token"], site.wx.app_secret) if one in shown]

    @pytest.mark.parametrize(
        "head",
        [
            "GET /user/login?code=a-secret HTTP/9.9.9",
            "GET /user/login?code=a-secret HTTP/1.1 again",
            f"GET /user/login?code=a-secret{'&' * 10_000} HTTP/1.1",
            "GET /verify HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a-secret\0",
        ],
    )
    async def test_a_request_that_cannot_be_parsed_is_not_quoted(
        self, site: Site, head: str
    ) -> None:
        async with site.serve("--compat", "koa") as server:
            assert (await answer_to(server.url, f"{head}\r\n\r\n")).startswith("HTTP/1.0 400 ")
            await server.printed(" 400 ")
        assert not [line for line in server.lines if "a-secret" in line or "Traceback" in line]

    async def test_a_body_that_cannot_be_decoded_leaves_no_traceback(self, site: Site) -> None:
        async with site.serve() as server:
            head = "POST /verify HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 4"
            answer = await answer_to(server.url, f"{head}\r\n\r\nbody")
            assert answer.startswith("HTTP/1.1 401 ")
            await server.printed('"POST /verify" 401 ')
        assert not [line for line in server.lines if "Traceback" in line]

    async def test_line_breaks_in_a_path_stay_encoded(self, site: Site) -> None:
        async with site.serve() as server:
            await site.ask("/a%0a127.0.0.1%20%1b[31m")
            await server.printed(r'(?i)"GET /a%0a127\.0\.0\.1%20%1b(\[|%5b)31m" 404 ')

    async def test_lines_that_cannot_be_written_leave_no_traceback(
        self, site: Site, tmp_path: Path
    ) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mpauthx_async", "serve", "--port", "0"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)} | environment_of(site.wx),
        )
        assert process.stdout is not None
        site.url = (await process.stdout.readline()).decode().split()[-1]
        process._transport.get_pipe_transport(1).close()  # type: ignore[attr-defined]
        assert (await site.ask("/healthz"))[0] == 200
        process.terminate()
        async with asyncio.timeout(60):
            _, errors = await process.communicate()
        assert process.returncode == 0
        assert b"Ending: " in errors
        assert b"Traceback" not in errors

    async def test_the_access_log_can_be_off(self, site: Site) -> None:
        async with site.serve("--access-log", "off") as server:
            await site.ask("/healthz")
        assert not [line for line in server.lines if "healthz" in line]


class TestEnd:
    @pytest.mark.parametrize("workers", ["1", "2"])
    async def test_requests_in_flight_are_answered(self, site: Site, workers: str) -> None:
        async with site.serve("--workers", workers) as server:
            await site.log_in("alice")
            site.wx.latency = 1.0  # long enough for the signal to come first
            logins = [asyncio.create_task(site.log_in(f"user-{number}")) for number in range(20)]
            await site.asked_wechat(21)
            server.send(signal.SIGTERM)
            assert len({*await asyncio.gather(*logins)}) == 20
            assert await server.ended() == 0
            with pytest.raises(aiohttp.ClientConnectorError):
                await site.ask("/healthz")

    @pytest.mark.parametrize("workers", ["1", "2"])
    async def test_readyz_is_503_before_connections_are_refused(
        self, site: Site, workers: str
    ) -> None:
        async with (
            site.serve("--workers", workers, "--drain-delay", "3600") as server,
            ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as site.http,
        ):
            token = await site.log_in("bob")
            assert (await site.ask("/readyz"))[0] == 200
            server.send(signal.SIGTERM)
            await server.printed("Draining: /readyz is 503 for 3600 seconds")
            async with asyncio.timeout(60):  # the other worker may not have heard of it yet
                while (await site.ask("/readyz"))[0] == 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert (await site.ask("/healthz"))[0] == 200
            assert (await site.ask("/verify", token=token))[0] == 200
            await end(server)  # a second signal does not wait

    async def test_ends_after_the_drain_delay(self, site: Site) -> None:
        async with site.serve("--drain-delay", "0.1") as server:
            await site.ask("/healthz")
            assert await server.stop() == 0
        shown = "\n".join(server.lines)
        assert shown.index("Draining: ") < shown.index("Ending: ")

    @pytest.mark.parametrize("seconds", ["0", "0.1"])
    async def test_requests_that_take_too_long_are_cut(self, site: Site, seconds: str) -> None:
        async with site.serve("--shutdown-timeout", seconds) as server:
            site.wx.latency = 3600
            login = asyncio.create_task(site.log_in("bob"))
            await site.asked_wechat(1)
            server.send(signal.SIGTERM)
            assert await server.ended() == 0
            with pytest.raises(aiohttp.ClientError):
                await login

    @pytest.mark.parametrize("workers", ["1", "2"])
    async def test_a_second_signal_ends_it_at_once(self, site: Site, workers: str) -> None:
        async with site.serve("--workers", workers, "--shutdown-timeout", "3600") as server:
            site.wx.latency = 3600
            login = asyncio.create_task(site.log_in("bob"))
            await site.asked_wechat(1)
            server.send(signal.SIGTERM)
            await server.printed("Ending: requests in flight have 3600 seconds")
            assert await end(server) in (-signal.SIGTERM, 0)
            with pytest.raises(aiohttp.ClientError):
                await login


class TestWorkers:
    async def test_a_worker_that_dies_is_replaced(self, site: Site) -> None:
        async with site.serve("--workers", "2") as server:
            await site.ask("/healthz")
            first = {int((await server.printed(r"Worker (\d+) started", n))[1]) for n in (1, 2)}
            os.kill(min(first), signal.SIGKILL)
            died = await server.printed(r"Worker (\d+) ended \(SIGKILL\); starting another")
            assert int(died[1]) == min(first)
            third = int((await server.printed(r"Worker (\d+) started", 3))[1])
            os.kill(max(first), signal.SIGKILL)  # the new one has to answer
            await server.printed(r"Worker \d+ ended \(SIGKILL\)", 2)
            token = await site.log_in("bob")
            assert (await site.ask("/verify", token=token))[0] == 200
            assert third not in first
            assert await server.stop() == 0

    async def test_workers_that_die_at_once_are_replaced_with_growing_delays(
        self, site: Site
    ) -> None:
        async with site.serve("--workers", "2") as server:
            pauses = []
            for number in range(1, 6):
                begun = await server.printed(r"Worker (\d+) started", number + 1)
                os.kill(int(begun[1]), signal.SIGKILL)
                died = await server.printed(r"starting another in ([\d.]+) seconds", number)
                pauses.append(float(died[1]))
            assert pauses == [0.1, 0.3, 0.7, 1.5, 3.1]
            assert (await site.ask("/healthz"))[0] == 200
            assert await server.stop() == 0  # while the next one waits for its turn

    async def test_metrics_are_those_of_all_workers(self, site: Site) -> None:
        options = ("--workers", "2", "--metrics", "--shutdown-timeout", "0.1")
        async with site.serve(*options), AsyncExitStack() as stack:
            for number in range(10):
                async with ClientSession() as one:
                    await site.log_in(f"user-{number}", http=one)
            headers = await site.exports('mpauthx_logins_total{outcome="ok"} 10.0')
            assert headers["Content-Type"].startswith("text/plain")
            site.wx.latency = 3600
            logins = []
            for number in range(4):
                one = await stack.enter_async_context(ClientSession())
                logins.append(asyncio.create_task(site.log_in(f"late-{number}", http=one)))
            await site.exports("mpauthx_logins_at_wechat 4.0")
            for login in logins:
                login.cancel()

    async def test_a_hung_worker_is_killed_by_the_second_signal(self, site: Site) -> None:
        async with site.serve("--workers", "2") as server:
            await site.ask("/healthz")
            os.kill(int((await server.printed(r"Worker (\d+) started"))[1]), signal.SIGSTOP)
            assert await end(server) in (-signal.SIGTERM, 0)  # a signal after its last step ends it

    async def test_workers_end_when_their_parent_is_killed(self, site: Site) -> None:
        async with site.serve("--workers", "2") as server:
            await site.ask("/healthz")
            server.send(signal.SIGKILL)
            assert await server.ended() == -signal.SIGKILL  # when all have closed their output
            with pytest.raises(aiohttp.ClientConnectorError):
                await site.ask("/healthz")

    async def test_ctrl_c_lets_requests_in_flight_finish(self, site: Site) -> None:
        async with site.serve("--workers", "2") as server:
            await site.log_in("alice")
            site.wx.latency = 1.0
            login = asyncio.create_task(site.log_in("bob"))
            await site.asked_wechat(2)
            os.killpg(server.pid, signal.SIGINT)
            assert (await login).startswith("bob|")
            assert await server.ended() == 0


class TestBadInput:
    @pytest.fixture(autouse=True)
    def app_secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MPAUTHX_APP_SECRET", "s" * 32)

    def test_reports_a_port_that_is_taken(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert main(["serve", "--app-id", "wxaaaa", "--port", str(port)]) == 1
        shown = capsys.readouterr().err
        assert shown == f"error: Cannot listen at 127.0.0.1:{port}: Address already in use.\n"

    @pytest.mark.parametrize("workers", ["1", "2"])
    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("tokens", "memcached://localhost", "The URL of a token store begins with"),
            ("prefix", "auth", "prefix must be empty, or a path"),
        ],
    )
    def test_rejects_invalid_options(
        self, capsys: pytest.CaptureFixture[str], name: str, value: str, message: str, workers: str
    ) -> None:
        arguments = ["--app-id", "wxaaaa", f"--{name}", value, "--workers", workers]
        assert main(["serve", *arguments]) == 1
        shown = capsys.readouterr()
        assert message in shown.err
        assert not shown.out

    def test_a_missing_extra_is_named(self) -> None:
        program = """if True:
            import sys
            sys.modules["sqlalchemy"] = None
            from mpauthx_async.cli.main import main
            url = "postgresql+asyncpg://user:a-password@127.0.0.1:1/users"
            sys.exit(main(["serve", "--app-id", "wxaaaa", "--port", "0", "--users", url]))
        """
        command = [sys.executable, "-c", program]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        assert ended.stderr.splitlines()[-1].startswith("error: This store needs SQLAlchemy: pip")
        assert "Traceback" not in ended.stderr
        assert "a-password" not in ended.stderr

    async def test_closes_a_connection_whose_head_never_ends(
        self, monkeypatch: pytest.MonkeyPatch, http: ClientSession
    ) -> None:
        monkeypatch.setattr("mpauthx_async.cli.serve.worker._MAX_HEAD_SECONDS", 0.1)
        silent, app = _SilentClients(), web.Application()
        app.middlewares.append(silent.hear)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        sweeping = asyncio.create_task(silent.sweep(runner))
        try:
            host, port = runner.addresses[0]
            async with http.get(f"http://{host}:{port}/"):
                pass
            (kept,) = runner.server.connections
            for head in (b"", b"GET / HTTP/1.1\r\nHost: "):
                reader, writer = await asyncio.open_connection(host, port)
                writer.write(head)
                assert await reader.read() == b""
                writer.close()
            async with http.get(f"http://{host}:{port}/"):
                pass
            assert kept in runner.server.connections
        finally:
            sweeping.cancel()
            await runner.cleanup()
