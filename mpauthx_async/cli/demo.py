"""The demo: a mini-program user logs in, step by step, and each step is checked."""

import asyncio
import tempfile
from typing import Any

from ..connections import Connections
from ..service import MPAuthX
from ..simulator import WeChatSimulator
from ..wechat.sample import APP_ID, ENCRYPTED_DATA, IV, OPEN_ID, SESSION_KEY, UNION_ID

__all__ = ["run_demo"]

_NEXT = """\
Where to go next
  Put the five lines of the README into your app and set app_id and app_secret.
  Test it without WeChat:  python -m mpauthx_async simulator --port 8080
  Keep the tokens in Redis:  tokens="redis://localhost:6379/0"
  See this demo on it:  python -m mpauthx_async demo --redis redis://localhost:6379/0
"""


async def run_demo(redis_url: str | None = None) -> int:
    """Show the main job on WeChat's published sample, against a simulator in this process.

    Args:
        redis_url: the Redis to keep the tokens in; by default a SQLite file in a temporary folder.

    Returns:
        0 when every step did what it says, else 1.
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

            story = _Story()
            async with service(token_ttl=60) as auth:
                await _tell_logins(story, auth, wx)
            async with service(token_ttl=2) as auth:
                await _tell_expiry(story, auth, wx)
    print(f"\n{story.verdict()}\n\n{_NEXT}", end="")
    return 1 if story.failures else 0


async def _tell_logins(story: "_Story", auth: MPAuthX, wx: WeChatSimulator) -> None:
    story.step("Login: the phone sends its code and its sealed profile")
    code = wx.login(OPEN_ID, UNION_ID, session_key=SESSION_KEY)
    first = await auth.authorize(code, ENCRYPTED_DATA, IV)
    story.check("status", f"{first.status_code} {first.status_message}", "1 OK")
    story.tell("token", first.response)
    story.check("new user", first.is_new_user, True)

    story.step("The token's parts")
    story.check("user id", auth.extract_open_id(first.response), UNION_ID)
    story.check("sku", auth.extract_sku(first.response), "demo")
    story.tell("session", "the rest: a random nonce, and a MAC that only you can make")

    story.step("Is the token valid?")
    last = "A" if first.response[-1] != "A" else "B"
    story.check("this token", await auth.is_token_valid(first.response), True)
    story.check("forged", await auth.is_token_valid(first.response[:-1] + last), False)

    story.step("The same user on a second device")
    code = wx.login(OPEN_ID, session_key=SESSION_KEY)
    second = await auth.authorize(code, ENCRYPTED_DATA, IV)
    story.check("new user", second.is_new_user, False)
    story.check("1st device", await auth.is_token_valid(first.response), True)
    story.check("2nd device", await auth.is_token_valid(second.response), True)

    story.step("Refresh, from trusted server code: earlier tokens die")
    fresh = await auth.refresh_token(UNION_ID)
    story.check("1st device", await auth.is_token_valid(first.response), False)
    story.check("2nd device", await auth.is_token_valid(second.response), False)
    story.check("new token", await auth.is_token_valid(fresh.response), True)

    story.step("The user as stored")
    user = fresh.user
    story.check("openId", user.open_id, OPEN_ID)
    story.check("unionId", user.union_id, UNION_ID)
    story.check("nickName", user.nick_name, "Band")
    story.check("from", f"{user.city}, {user.province}, {user.country}", "Guangzhou, Guangdong, CN")


async def _tell_expiry(story: "_Story", auth: MPAuthX, wx: WeChatSimulator) -> None:
    story.step("Expiry: a token that lives for two seconds (today's apps send the code alone)")
    brief = await auth.authorize(wx.login(OPEN_ID))
    story.check("at once", await auth.is_token_valid(brief.response), True)
    for _ in range(100):
        await asyncio.sleep(0.1)
        if not (valid := await auth.is_token_valid(brief.response)):
            break
    story.check("later", valid, False)


class _Story:
    """Prints the steps and what comes of them, and counts what is not as it should be."""

    def __init__(self) -> None:
        self.steps = 0
        self.failures = 0

    def step(self, title: str) -> None:
        self.steps += 1
        print(f"\n{self.steps}. {title}")

    def tell(self, name: str, value: str) -> None:
        print(f"   {name:<12}{value}")

    def check(self, name: str, value: Any, expected: Any) -> None:
        failed = value != expected
        self.failures += failed
        text = {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value
        self.tell(name, f"{text}   FAILED: expected {expected}" if failed else f"{text}")

    def verdict(self) -> str:
        if self.failures:
            return f"{self.failures} checks FAILED."
        return f"All {self.steps} steps did what they say."
