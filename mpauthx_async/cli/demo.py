"""The demo: a mini-program user logs in, step by step, and each step is checked."""

import asyncio
import tempfile
from typing import Any

from ..connections import Connections
from ..service import MPAuthX
from ..simulator import WeChatSimulator
from ..wechat.sample_user_data import APP_ID, ENCRYPTED_DATA, IV, OPEN_ID, SESSION_KEY, UNION_ID

__all__ = ["run_demo"]

_NEXT = """\
Where to go next
  See theft, bans and the end of a token on a page:  python -m mpauthx_async demo --web
  Put the five lines of the README into your app and set app_id and app_secret.
  Test it without WeChat:  python -m mpauthx_async simulator --port 8765
  Keep the tokens in Redis:  tokens="redis://localhost:6379/0"
  See this demo on it:  python -m mpauthx_async demo --redis redis://localhost:6379/0
"""


async def run_demo(redis_url: str | None = None) -> int:
    """Log WeChat's published sample user in, with a simulator in this process.

    Args:
        redis_url: the Redis to keep the tokens in; by default a SQLite file in a temporary folder.

    Returns:
        0 if every check passed, else 1.
    """
    with tempfile.TemporaryDirectory(prefix="mpauthx-demo-") as folder:
        users = f"sqlite:///{folder}/users.db"
        tokens = redis_url or f"sqlite:///{folder}/tokens.db"
        async with WeChatSimulator(app_id=APP_ID) as wx, Connections() as connections:
            print("mpauthx-async demo\n")
            print(f"WeChat    a simulator in this process, {wx.url}")
            print(f"users     {users}")
            print(f"tokens    {'the Redis you named' if redis_url else tokens}")

            def service(token_ttl: float) -> MPAuthX:
                return MPAuthX(
                    app_id=wx.app_id,
                    app_secret=wx.app_secret,
                    sku="demo",
                    users=users,
                    tokens=tokens,
                    token_ttl=token_ttl,
                    connections=connections,
                    api_base=wx.url,
                )

            report = _Report()
            async with service(token_ttl=60) as auth:
                await _show_logins(report, auth, wx)
            async with service(token_ttl=2) as auth:
                await _show_expiry(report, auth, wx)
    print(f"\n{report.summary()}\n\n{_NEXT}", end="")
    return 1 if report.failures else 0


async def _show_logins(report: "_Report", auth: MPAuthX, wx: WeChatSimulator) -> None:
    report.step("Login: the phone sends its code and its sealed profile")
    code = wx.login(OPEN_ID, UNION_ID, session_key=SESSION_KEY)
    first = await auth.authorize(code, ENCRYPTED_DATA, IV)
    report.check("status", f"{first.status_code} {first.status_message}", "1 OK")
    report.show("token", first.response)
    report.check("new user", first.is_new_user, True)

    report.step("The token's parts")
    report.check("user id", auth.extract_open_id(first.response), UNION_ID)
    report.check("sku", auth.extract_sku(first.response), "demo")
    report.show("session", "the rest: a random nonce, and a MAC under your signing key")

    report.step("Is the token valid?")
    last = "A" if first.response[-1] != "A" else "B"
    report.check("this token", await auth.is_token_valid(first.response), True)
    report.check("forged", await auth.is_token_valid(first.response[:-1] + last), False)

    report.step("The same user on a second device")
    code = wx.login(OPEN_ID, session_key=SESSION_KEY)
    second = await auth.authorize(code, ENCRYPTED_DATA, IV)
    report.check("new user", second.is_new_user, False)
    report.check("1st device", await auth.is_token_valid(first.response), True)
    report.check("2nd device", await auth.is_token_valid(second.response), True)

    report.step("Refresh, from trusted server code: earlier tokens end")
    fresh = await auth.refresh_token(UNION_ID)
    report.check("1st device", await auth.is_token_valid(first.response), False)
    report.check("2nd device", await auth.is_token_valid(second.response), False)
    report.check("new token", await auth.is_token_valid(fresh.response), True)

    report.step("The user as stored")
    user = fresh.user
    report.check("openId", user.open_id, OPEN_ID)
    report.check("unionId", user.union_id, UNION_ID)
    report.check("nickName", user.nick_name, "Band")
    report.check(
        "from", f"{user.city}, {user.province}, {user.country}", "Guangzhou, Guangdong, CN"
    )


async def _show_expiry(report: "_Report", auth: MPAuthX, wx: WeChatSimulator) -> None:
    report.step("Expiry: a token that lives for two seconds (most apps send only the code)")
    brief = await auth.authorize(wx.login(OPEN_ID))
    report.check("at once", await auth.is_token_valid(brief.response), True)
    for _ in range(100):
        await asyncio.sleep(0.1)
        if not (valid := await auth.is_token_valid(brief.response)):
            break
    report.check("later", valid, False)


class _Report:
    def __init__(self) -> None:
        self.steps = 0
        self.failures = 0

    def step(self, title: str) -> None:
        self.steps += 1
        print(f"\n{self.steps}. {title}")

    def show(self, name: str, value: str) -> None:
        print(f"   {name:<12}{value}")

    def check(self, name: str, value: Any, expected: Any) -> None:
        failed = value != expected
        self.failures += failed
        text = ("yes" if value else "no") if isinstance(value, bool) else value
        self.show(name, f"{text}   FAILED: expected {expected}" if failed else f"{text}")

    def summary(self) -> str:
        if self.failures:
            return f"{self.failures} checks FAILED."
        return f"All {self.steps} steps passed."
