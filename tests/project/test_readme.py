import ast
import asyncio
import contextlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from secrets import token_urlsafe
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from aiohttp.test_utils import TestServer
from alembic.autogenerate import compare_metadata, produce_migrations
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.operations.ops import ModifyTableOps
from fastapi import Cookie, FastAPI
from fastapi.responses import RedirectResponse
from pymongo.asynchronous.database import AsyncDatabase
from redis.asyncio import Redis
from sqlalchemy import Connection, MetaData
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from mpauthx_async import (
    ClosedError,
    Identity,
    InvalidStateError,
    InvalidTokenError,
    MPAuthX,
    OAuthToken,
    ParameterError,
    StatusCode,
    User,
    WeChatOAuth,
    WeChatSimulator,
    errors,
)
from tests.helpers.redis_server import RedisServer
from tests.helpers.sql_servers import execute
from tests.web.apps import configure_django

ROOT = Path(__file__).parents[2]
PAGES = {path: path.read_text("utf-8") for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"))}
SNIPPETS = re.findall(r"```python\n(.*?)```", "\n".join(PAGES.values()), re.DOTALL)

Run = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Iterator[None]:
    """Snippets name files in the current folder."""
    with contextlib.chdir(tmp_path):
        yield


def snippet_with(text: str) -> str:
    (snippet,) = (snippet for snippet in SNIPPETS if text in snippet)
    return snippet


@pytest.fixture
def run(
    wx: WeChatSimulator, redis: Redis, redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs the snippet with a text as it stands, but for what its reader has to fill in.

    Returns the snippet's names, and as `printed` what it printed.
    """
    mine = {
        '"your-app-id"': repr(wx.app_id),
        '"your-app-secret-of-32-characters"': f"{wx.app_secret!r}, api_base={wx.url!r}",
        "redis://localhost:6379/0": redis_server.url,
    }

    async def run(text: str, filled_in: Mapping[str, str] = {}, **names: Any) -> dict[str, Any]:
        source = snippet_with(text)
        for written, real in {**mine, **filled_in}.items():
            source = source.replace(written, real)
        code = compile(source, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        namespace = {"__name__": "readme", **names}
        running = eval(code, namespace)  # the README's own code
        if inspect.isawaitable(running):
            await running
        return namespace | {"printed": capsys.readouterr().out}

    return run


@pytest.fixture
async def auth(make: Callable[..., MPAuthX]) -> AsyncIterator[MPAuthX]:
    async with make() as service:
        yield service


def client_of(app: Any, url: str = "http://app", **options: Any) -> httpx.AsyncClient:
    """A client of an ASGI app."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=url, **options)


def test_every_python_snippet_runs_in_one_of_these_tests() -> None:
    calls = [
        node
        for node in ast.walk(ast.parse(Path(__file__).read_text("utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("run", "snippet_with")
    ]
    texts = {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}
    assert set(map(snippet_with, texts)) == set(SNIPPETS)


async def test_the_five_lines(wx: WeChatSimulator, run: Run) -> None:
    code, info = wx.login("bob"), wx.get_user_info("bob")
    names = await run("# True", code=code, encrypted_data=info.encrypted_data, iv=info.iv)
    assert names["printed"] == "True\n"


def statements(snippet: str) -> int:
    """How many lines an app has to write, however they are broken."""
    return sum(isinstance(node, ast.stmt) for node in ast.walk(ast.parse(snippet)))


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def fastapi_app(run: Run) -> dict[str, Any]:
    """The names in the README's FastAPI app, with its endpoint."""
    return await run('@app.get("/hello")', **await run("guard.router())"))


async def test_the_fastapi_app(wx: WeChatSimulator, run: Run) -> None:
    assert statements(snippet_with("guard.router())")) <= 8
    app = (await fastapi_app(run))["app"]
    async with app.router.lifespan_context(app), client_of(app) as client:
        await check_the_lines_that_an_app_writes(client, wx, "")


@pytest.mark.filterwarnings("ignore:Using `httpx` with `starlette.testclient`")
async def test_an_app_is_made_for_each_of_its_tests(
    wx: WeChatSimulator, run: Run, tmp_path: Path
) -> None:
    app = (await run("def make_app(**settings)"))["make_app"](
        app_id=wx.app_id,
        app_secret=wx.app_secret,
        api_base=wx.url,
        sku="test",
        users=f"sqlite:///{tmp_path}/users.db",
        tokens=f"sqlite:///{tmp_path}/tokens.db",
    )
    async with app.router.lifespan_context(app), client_of(app) as client:
        answer = await client.post("/auth/login", json={"code": wx.login("bob")})
        assert answer.status_code == 200


async def check_the_lines_that_an_app_writes(
    client: httpx.AsyncClient, wx: WeChatSimulator, prefix: str
) -> None:
    """Login, me, logout, sessions, rotate and refusals, and an endpoint."""
    login = await client.post(f"{prefix}/login", json={"code": wx.login("bob")})
    mine = bearer(login.json()["response"])
    me = await client.get(f"{prefix}/me", headers=mine)
    assert me.json()["response"]["user_id"] == "bob"
    assert (await client.get("/hello", headers=mine)).json() == {"user_id": "bob"}
    assert (await client.get("/hello")).status_code == 401
    rotated = await client.post(f"{prefix}/rotate", headers=mine)
    mine = bearer(rotated.json()["response"])
    sessions = await client.get(f"{prefix}/sessions", headers=mine)
    assert len(sessions.json()["response"]) == 1
    assert (await client.post(f"{prefix}/logout", headers=mine)).json()["response"] is True
    refused = await client.post(f"{prefix}/login", json={"code": "used-up"})
    assert (refused.status_code, refused.json()["status_code"]) == (401, 6008)


async def test_more_in_fastapi(wx: WeChatSimulator, run: Run) -> None:
    app = (await run("guard.optional", **await fastapi_app(run)))["app"]
    async with app.router.lifespan_context(app), client_of(app) as client:
        assert (await client.get("/greeting")).json() == "Hello, stranger"
        login = await client.post("/v2/login", json={"code": wx.login("bob")})
        mine = bearer(login.json()["response"])
        assert (await client.get("/greeting", headers=mine)).json() == "Hello, bob"
        assert (await client.delete("/v2/me", headers=mine)).json()["response"] is True
        assert (await client.get("/openapi.json")).status_code == 200


async def test_the_aiohttp_app(wx: WeChatSimulator, run: Run) -> None:
    assert statements(snippet_with("web.Application(")) <= 6
    names = await run("web.Application(")
    app = (await run("mpauthx.login_required", **names))["app"]
    async with (
        TestServer(app) as site,
        httpx.AsyncClient(base_url=str(site.make_url("/"))) as client,
    ):
        await check_the_lines_that_an_app_writes(client, wx, "/auth")
        assert (await client.get("/about")).status_code == 401


async def hello(request: Any) -> JSONResponse:
    return JSONResponse({"user_id": request.user.identity})


async def test_an_asgi_app(wx: WeChatSimulator, auth: MPAuthX, run: Run) -> None:
    names = {"app": Starlette(routes=[Route("/hello", hello)]), "auth": auth}
    app = (await run("MPAuthXMiddleware(app", **names))["app"]
    async with client_of(app) as client:
        await check_the_lines_that_an_app_writes(client, wx, "/auth")


async def test_many_apps(wx: WeChatSimulator, run: Run) -> None:
    rows = {wx.app_id: {"app_secret": wx.app_secret, "sku": "shop", "api_base": wx.url}}

    async def find_app(app_id: str) -> dict[str, str] | None:
        return rows.get(app_id)

    names = await run("find_app(app_id)", find_app=find_app)
    names["site"] = Starlette(routes=[Route("/hello", hello)])
    app = (await run('connection.path_params["app_id"]', **names))["app"]
    site = (await run("x-app-id", **names))["site"]
    async with (
        app.router.lifespan_context(app),
        client_of(app, f"http://app/{wx.app_id}") as client,
        client_of(site, headers={"X-App-Id": wx.app_id}) as other,
    ):
        await check_the_lines_that_an_app_writes(client, wx, "")
        await check_the_lines_that_an_app_writes(other, wx, "/auth")
        login = await client.post("/login", json={"code": wx.login("bob")})
        user = await names["whose"](wx.app_id, login.json()["response"])
        assert user.user_id == "bob"
        async with client_of(site) as nameless:
            for headers in ({}, {"X-App-Id": ""}):
                answer = await nameless.get("/hello", headers=headers)
                assert answer.status_code == 400
                assert "X-App-Id" in answer.json()["status_message"]
        answer = await other.get("/hello", headers={"X-App-Id": "wxother"})
        assert answer.status_code == 404
    with pytest.raises(ClosedError):
        await names["whose"](wx.app_id, user.token)


async def test_the_django_app(wx: WeChatSimulator, run: Run) -> None:
    configure_django()
    names = await run("get_asgi_application")
    async with names["auth"], client_of(names["application"]) as client:
        await check_the_lines_that_an_app_writes(client, wx, "/auth")
    view = (await run("JsonResponse", JsonResponse=dict))["hello"]
    request = SimpleNamespace(mpauthx=Identity("bob", "session", "shop", "token"))
    assert await view(request) == {"user_id": "bob"}


async def test_the_test_with_the_simulator(run: Run) -> None:
    assert (await run("wx.fail_next"))["result"].is_new_user


async def test_the_calls_around_login(wx: WeChatSimulator, auth: MPAuthX, run: Run) -> None:
    code, phone, info = wx.login("bob"), wx.get_phone_number("bob"), wx.get_user_info("bob")
    sealed = {"phone_code": phone.code, "sealed": phone.encrypted_data, "iv": phone.iv}
    signed = {"raw_data": info.raw_data, "signature": info.signature}
    namespace = await run("phone_code", auth=auth, code=code, **sealed, **signed)
    assert namespace["number"].phone_number == namespace["payload"]["phoneNumber"] == "13800138000"
    assert namespace["genuine"] is True


async def test_forgetting_a_user(wx: WeChatSimulator, auth: MPAuthX, run: Run) -> None:
    result = await auth.authorize(wx.login("bob"))
    await run("forget_user(", auth=auth, user_id="bob")
    assert not await auth.is_token_valid(result.response)
    assert (await auth.authorize(wx.login("bob"))).is_new_user


async def test_sessions_that_people_manage(wx: WeChatSimulator, run: Run) -> None:
    namespace = await run("LoginPolicy(", code=wx.login("bob"), another_code=wx.login("bob"))
    out = namespace["printed"]
    assert out.index("MacBook") < out.index("iPhone 15")
    assert "reason='spam'" in out
    assert out.endswith("[] 0\n")  # the ban ended all
    assert namespace["cursor"] is None


def test_the_quickstart(tmp_path: Path) -> None:
    program = tmp_path / "quickstart.py"
    program.write_text(snippet_with("open-id-of-bob\")    # the client's"))
    for is_new_user in (True, False):
        ran = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True)
        assert ran.stdout == f"open-id-of-bob {is_new_user}\nTrue\nFalse\n"
        assert ran.stderr == ""


async def test_third_parties_and_wecom(wx: WeChatSimulator, run: Run) -> None:
    company = {"corpid": wx.corp_id, "corpsecret": wx.corp_secret}
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"{wx.url}/cgi-bin/gettoken", params=company)
    namespace = await run(
        "ComponentExchange(component_app_id",
        component_app_id=wx.component_app_id,
        component_token=wx.component_access_token,
        corp_token=answer.json()["access_token"],
    )
    async with namespace["by_platform"] as by_platform, namespace["in_wecom"] as in_wecom:
        assert (await by_platform.authorize(wx.login("bob"))).user.open_id == "bob"
        member = (await in_wecom.authorize(wx.wecom_login("bob"))).user.open_id
        assert member.startswith("bob@")


async def test_changing_secrets(wx: WeChatSimulator, run: Run) -> None:
    names = await run("token_bytes(32)", code=wx.login("bob"))
    assert names["printed"] == "True\nFalse\n"


async def test_events_and_metrics(
    wx: WeChatSimulator, auth: MPAuthX, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    namespace = await run("Metrics(registry)", auth=auth, code=wx.login("open-id-of-bob"))
    await auth.close()
    assert namespace["printed"] + capsys.readouterr().out == "LoggedIn\nBanned\n"
    exported = namespace["generate_latest"](namespace["registry"]).decode()
    page = PAGES[ROOT / "docs" / "guides" / "events-and-metrics.md"]
    for name in re.findall(r"^# TYPE (\w+) ", exported, re.MULTILINE):
        assert name.endswith("_created") or f"`{name}`" in page


async def test_websockets(wx: WeChatSimulator, auth: MPAuthX, run: Run) -> None:
    class WebSocket:
        def __init__(self) -> None:
            self.texts = asyncio.Queue[str]()
            self.sent = asyncio.Queue[str]()
            self.send_text = self.sent.put
            self.closed: tuple[int, str] | None = None

        async def iter_text(self) -> AsyncIterator[str]:
            while True:
                yield await self.texts.get()

        async def close(self, code: int, reason: str) -> None:
            self.closed = code, reason

    names = {"auth": auth, "InvalidTokenError": InvalidTokenError}
    snippet = await run("InvalidTokenError as error", **names)
    user = await auth.authenticate((await auth.authorize(wx.login("bob"))).token)
    websocket = WebSocket()
    talk = asyncio.create_task(snippet["talk"](websocket, user))
    await websocket.texts.put("hello")
    assert await websocket.sent.get() == "hello"
    await auth.revoke(user.token)
    await talk
    assert websocket.closed == (4401, "revoked")


async def test_rotation(wx: WeChatSimulator, auth: MPAuthX, run: Run) -> None:
    names = await run("is_token_valid(renewed)", auth=auth, code=wx.login("bob"))
    assert names["printed"].endswith(" True\n")


async def test_bans_and_who_is_online(wx: WeChatSimulator, auth: MPAuthX, run: Run) -> None:
    names = await run("ban.reason", auth=auth, code=wx.login("bob"))
    assert names["printed"] == "['bob'] 1\nspam 0\nTrue\n"


async def test_migrating_from_mpauthx(wx: WeChatSimulator, run: Run) -> None:
    code, info = wx.login("open-id-of-bob"), wx.get_user_info("open-id-of-bob")
    names = {"code": code, "encrypted_data": info.encrypted_data, "iv": info.iv}
    names = await run("UserNotFoundError as error", **names)
    assert names["printed"] == "True\nTrue open-id-of-bob shop\n6010\n"


def test_a_store_of_ones_own_passes_its_suite(tmp_path: Path) -> None:
    assert passed_tests(tmp_path, snippet_with("OAuthTokenStoreConformance")) >= 10


def test_the_test_with_the_plugin(tmp_path: Path) -> None:
    assert passed_tests(tmp_path, snippet_with("async def test_a_login")) == 1


def passed_tests(folder: Path, tests: str) -> int:
    """Run tests in a pytest of their own, with its plugins; returns how many there are."""
    (folder / "test_snippet.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto", "-p", "no:xdist"]
    environment = {name: text for name, text in os.environ.items() if name != "PYTEST_ADDOPTS"}
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stdout
    (passed,) = re.findall(r"^(\d+) passed", ran.stdout, re.M)
    return int(passed)


def test_the_settings_page_names_every_argument() -> None:
    page = PAGES[ROOT / "docs" / "settings.md"]
    named = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", page, re.M)))
    assert set(named) == set(inspect.signature(MPAuthX).parameters)


def test_files_named_in_the_documentation_exist() -> None:
    for page, text in PAGES.items():
        for path in re.findall(r"`((?:mpauthx_async|tests|docs)/[\w/.]+)`", text):
            assert (ROOT / path).exists(), (page, path)


async def test_services_that_share_connections(wx: WeChatSimulator, run: Run) -> None:
    namespace = await run("as connections", code=wx.login("bob"))
    assert namespace["token"].startswith("bob|shop|")


async def test_the_web_login(wx: WeChatSimulator, run: Run) -> None:
    imported = (Cookie, RedirectResponse, WeChatOAuth, token_urlsafe)
    names = {each.__name__: each for each in imported}
    snippet = await run("WeChatOAuth(", app=FastAPI(), **names)
    app, here = snippet["app"], "https://shop.example"
    async with snippet["oauth"], client_of(app, here) as browser, client_of(app, here) as eve:
        page = (await browser.get("/login")).headers["Location"]
        assert page.startswith("https://open.weixin.qq.com/connect/qrconnect?appid=wx")
        wx.visit_as("bob")
        async with httpx.AsyncClient() as wechat:
            answer = await wechat.get(page.replace("https://open.weixin.qq.com", wx.url))
        back = answer.headers["Location"]
        with pytest.raises(ParameterError, match="session is required"):
            await eve.get(back)
        await eve.get("/login")  # sets a cookie of her own
        with pytest.raises(InvalidStateError, match="another browser"):
            await eve.get(back)
        answer = await browser.get(back)
        assert answer.json()["go_on_to"] == "/cart"
        assert answer.json()["user"]["open_id"] == "bob"
        with pytest.raises(InvalidStateError):
            await browser.get(back)


@pytest.mark.parametrize("sql_driver", ["postgresql+asyncpg"])
async def test_users_in_a_sql_database(wx: WeChatSimulator, run: Run, sql_url: str) -> None:
    url = {"postgresql+asyncpg://shop:password@localhost/shop": sql_url}
    names = await run("?create=true", url, code=wx.login("bob"))
    assert names["result"].is_new_user
    await execute(
        sql_url,
        "DROP TABLE mpauthx_user, mpauthx_link",
        'CREATE TABLE "Users" ("wechatId" varchar(64) PRIMARY KEY, name text,'
        ' "createdAt" timestamptz NOT NULL, "updatedAt" timestamptz NOT NULL)',
        "CREATE TABLE token (access_token varchar(600), expires_in integer, openid varchar(64)"
        " PRIMARY KEY, refresh_token varchar(600), scope varchar(100), create_at bigint)",
    )
    names = await run("class Order(Base)", url)
    async with names["engine"].begin() as connection:
        await connection.run_sync(migrate, names["Base"].metadata)
    assert list(await names["users"].save([User("o-bob")])) == [True]
    await names["users"].close()

    names = await run('"open_id": "wechatId"', url, **names)
    assert list(await names["users"].save([User("o-eve", nick_name="Eve")])) == [True]
    assert await execute(sql_url, 'SELECT "wechatId", name FROM "Users"') == [("o-eve", "Eve")]
    await names["users"].close()

    names = await run("SQLAlchemyOAuthTokenStore(", url, **names)
    web_tokens = names["web_tokens"]
    token = OAuthToken("o-bob", "access", "refresh", 7200, "snsapi_userinfo", 1_700_000_000_000)
    assert await web_tokens.get("o-bob") is None
    for expected in (token, replace(token, access_token="renewed")):
        await web_tokens.save("o-bob", expected)
        assert await web_tokens.get("o-bob") == expected
    await web_tokens.delete("o-bob")
    assert await web_tokens.get("o-bob") is None
    await web_tokens.close()
    await names["engine"].dispose()


async def test_users_in_mongodb(
    wx: WeChatSimulator, run: Run, mongo_url: str, mongo: AsyncDatabase[dict[str, Any]]
) -> None:
    database = {
        "mongodb://localhost:27017/koa2Wechat": mongo_url,
        "mongodb://localhost:27017/?maxPoolSize=20": mongo_url,
        'client["shop"]': f"client[{mongo.name!r}]",
    }
    names = await run("/koa2Wechat", database, code=wx.login("bob"))
    assert names["result"].is_new_user
    assert await mongo.users.count_documents({"openid": "bob"}) == 1
    names = await run("AsyncMongoClient(", database)
    assert list(await names["users"].save([User("o-eve", nick_name="Eve")])) == [True]
    assert await mongo.members.count_documents({"memberId": "o-eve", "name": "Eve"}) == 1
    await names["users"].close()
    await names["client"].close()


def migrate(connection: Connection, metadata: MetaData) -> None:
    """Do what Alembic's autogenerate finds; then it finds nothing more."""
    options = {"include_name": lambda name, kind, _: kind != "table" or name in metadata.tables}
    context = MigrationContext.configure(connection, opts=options)
    upgrade: Any = produce_migrations(context, metadata).upgrade_ops
    assert {operation.table_name for operation in upgrade.ops} == metadata.tables.keys()
    for operation in upgrade.ops:
        for step in [*operation.ops] if isinstance(operation, ModifyTableOps) else [operation]:
            Operations(context).invoke(step)
    assert compare_metadata(context, metadata) == []


async def test_the_url_for_pushed_events(wx: WeChatSimulator, run: Run) -> None:
    settings = {"PUSH_TOKEN": wx.push.token, "PUSH_AES_KEY": wx.push.aes_key}
    app = (await run("PUSH_TOKEN", **await fastapi_app(run) | settings))["app"]
    async with app.router.lifespan_context(app), client_of(app) as wechat:
        challenge = wx.push.challenge()
        answer = await wechat.get("/wechat/push", params=challenge)
        assert answer.text == challenge["echostr"]
        pushed = wx.push_event("user_info_modified", "bob")
        answer = await wechat.post("/wechat/push", params=pushed.query, content=pushed.body)
        assert (answer.status_code, answer.text) == (200, "success")
        answer = await wechat.post("/wechat/push", params=pushed.query, content=pushed.body)
        assert answer.json()["status_code"] == 6108


def test_the_table_of_status_codes_is_complete_and_right() -> None:
    page = PAGES[ROOT / "docs" / "errors.md"]
    table = page.partition("| code | `StatusCode.` |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (\d*) ?\| (.*?) ?\| (.*?) ?\| (.*?) ?\|", table, re.MULTILINE)
    assert {int(code) for code, *_ in rows if code} == {code.value for code in StatusCode}
    for code, names, exception, http_status in rows:
        for name in re.findall(r"`(\w+)`", names):
            assert StatusCode[name] == int(code)
        for name in re.findall(r"`(\w+)`", exception):
            assert getattr(errors, name).code == int(code or 6008)
            if http_status.isdigit():
                assert getattr(errors, name).http_status == int(http_status)
    in_table = {name for _, _, exception, _ in rows for name in re.findall(r"`(\w+)`", exception)}
    assert in_table == set(errors.__all__)


def test_every_link_between_pages_leads_somewhere() -> None:
    for path, text in PAGES.items():
        for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
            page = (path.parent / target).resolve() if target else path
            assert page.exists(), (path, target)
            assert not anchor or anchor in anchors_of(PAGES[page]), (path, target, anchor)


def anchors_of(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    targets = re.findall(r"\]\(([^)#:]+)\)", PAGES[index])
    assert {(index.parent / target).resolve() for target in targets} == PAGES.keys() - {index}


def test_the_readme_is_short() -> None:
    assert len(PAGES[ROOT / "README.md"].splitlines()) <= 150
