"""The playground's page in Chromium: each story by its buttons and from the keyboard."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import BrowserContext, ConsoleMessage, Locator, Page, expect

from mpauthx_async.cli.playground.server import serve_playground
from tests.helpers.chromium import open_page
from tests.helpers.redis_server import RedisServer

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Visit:
    """A visit to the playground.

    Attributes:
        page: its page in the browser.
        errors: what the console reported; the page's policy is among its reporters.
    """

    def __init__(self, page: Page) -> None:
        self.page = page
        self.errors: list[str] = []
        page.on("console", self._note)

    def _note(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(message.text)

    async def open(self, url: str) -> None:
        await self.page.goto(url)
        await expect(self.page.locator("html[data-ready]")).to_be_attached()

    def device(self, name: str) -> Locator:
        return self.page.get_by_role("article", name=name, exact=True)

    async def press(self, button: Locator, title: str) -> None:
        """Press a button with the Enter key, and wait until that is told."""
        before = await self.page.locator(".now").get_attribute("data-actions")
        await button.press("Enter")
        await expect(self.page.locator(".now")).not_to_have_attribute("data-actions", before or "")
        await expect(self.page.locator("#title")).to_have_text(title)

    def button(self, device: str, name: str) -> Locator:
        return self.device(device).get_by_role("button", name=name)

    async def log_in(self, device: str) -> None:
        await self.press(self.button(device, "wx.login"), f"The {device.lower()} logs in")

    async def call(self, device: str) -> None:
        title = f"The {device.lower()} calls the server"
        await self.press(self.button(device, "Call the server"), title)

    async def rotate(self, device: str) -> None:
        await self.press(self.button(device, "Rotate"), f"The {device.lower()} rotates its token")

    async def copy(self, owner: str) -> None:
        title = f"A thief copies the token of the {owner}"
        await self.press(self.button("Thief", "Copy a token"), title)

    async def operate(self, button: str, title: str) -> None:
        await self.press(self.page.get_by_role("button", name=button), title)

    async def ban(self) -> None:
        await self.operate("Ban the user", "The operator bans the user")

    async def part(self, name: str) -> str:
        """A part of the token that is shown."""
        return await self.page.locator(f"dd [data-part={name}]").inner_text()

    async def steps(self) -> list[str]:
        return await self.page.locator("#steps b").all_inner_texts()

    async def expect_status(self, **statuses: str) -> None:
        for device, status in statuses.items():
            shown = self.device(device.capitalize()).locator("[data-part=status]")
            await expect(shown).to_have_text(status)

    async def expect_seen(self, *stories: str) -> None:
        await expect(self.page.locator("#stories .done b")).to_have_text(stories)

    async def width(self) -> int:
        """How wide the content is, in pixels."""
        return int(await self.page.evaluate("document.documentElement.scrollWidth"))


# One server and one browser for all: tabs do not see each other.
@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url() -> AsyncIterator[str]:
    async with serve_playground() as url:
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[BrowserContext]:
    async with open_page() as page:
        yield page.context


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: BrowserContext, url: str) -> AsyncIterator[Visit]:
    visit = Visit(await browser.new_page())
    await visit.open(url)
    yield visit
    await visit.page.close()
    assert not visit.errors


async def test_a_login_is_shown_step_by_step_from_the_code_to_the_token(visit: Visit) -> None:
    page = visit.page
    await visit.log_in("Phone")
    assert await visit.steps() == [
        "wx.login gets a code",
        "The phone sends the code",
        "The code is exchanged",
        "The user is saved",
        "A session begins",
        "LoggedIn",
        "Logged in: a token",
    ]
    values = await page.locator("#steps .value").all_inner_texts()
    assert len(values[0]) == 32
    token = await page.locator("#token-text").inner_text()
    assert values[-1] == token
    open_id, sku, session = token.split("|")
    parts = {"openid": open_id, "sku": sku, "nonce": session[:16], "generation": "0"}
    assert {name: await visit.part(name) for name in parts} == parts
    assert len(await visit.part("mac")) == 32
    await expect(page.locator("#user")).to_contain_text(open_id)
    await expect(page.locator("#sessions li")).to_contain_text([f"{session[:16]} phone"])
    await visit.expect_status(phone="active", laptop="no token", thief="no token")
    await visit.expect_seen("Login")


async def test_a_second_device_replaces_the_first_if_the_policy_says_so(visit: Visit) -> None:
    await visit.log_in("Phone")
    await visit.log_in("Phone")  # is no second device
    await visit.expect_seen("Login")
    await visit.log_in("Laptop")
    assert "Replaced" in await visit.steps()
    await visit.expect_status(phone="replaced", laptop="active")
    await visit.expect_seen("Login", "Second device")
    screen = visit.device("Phone").locator("[data-part=screen]")
    await expect(screen).to_have_text("A newer login replaced its session.")
    shown = visit.page.get_by_role("group", name="Whose token")
    await expect(shown.get_by_role("button", pressed=True)).to_have_text("Laptop")
    await shown.get_by_role("button", name="Phone").press("Enter")
    await expect(visit.page.locator("#token-status")).to_contain_text("replaced A newer login")
    await expect(shown.get_by_role("button", pressed=True)).to_have_text("Phone")
    await expect(shown.get_by_role("button")).to_have_text(["Phone", "Laptop"])
    await visit.call("Phone")
    await expect(screen).to_have_text("Refused with 401. A newer login replaced its session.")

    await visit.page.get_by_label("Sessions of a user").select_option("one per kind of device")
    await visit.log_in("Phone")
    assert "Replaced" not in await visit.steps()
    await visit.expect_status(phone="active", laptop="active")


async def test_a_stolen_token_ends_its_session_once_it_was_rotated(visit: Visit) -> None:
    await visit.log_in("Phone")
    await visit.copy("phone")
    await visit.call("Thief")
    assert (await visit.steps())[-1] == "Welcome"
    await visit.rotate("Phone")
    await visit.expect_status(phone="active", thief="rotated")
    await visit.call("Thief")
    assert "TokenReuseDetected" in await visit.steps()
    await visit.expect_status(phone="reused", thief="reused")
    await visit.expect_seen("Login", "Rotation", "Theft")

    await visit.log_in("Laptop")
    await visit.copy("laptop")
    await visit.rotate("Thief")
    await visit.call("Laptop")
    await visit.expect_status(laptop="reused", thief="reused")
    await expect(visit.page.locator("#no-sessions")).to_be_visible()


async def test_a_forged_token_is_refused_without_asking_a_store(visit: Visit) -> None:
    await visit.log_in("Phone")
    await visit.operate("Change its openId and send it", "The phone pretends to be another user")
    assert await visit.page.locator("#steps .party.tokens, #steps .party.users").count() == 0
    assert (await visit.steps())[-1] == "Refused with 401"
    await visit.expect_status(phone="active")
    await visit.expect_seen("Login", "Forgery")


async def test_a_banned_user_cannot_log_in_until_the_ban_is_lifted(visit: Visit) -> None:
    await visit.log_in("Phone")
    await visit.ban()
    await visit.expect_status(phone="banned")
    await expect(visit.page.locator("#ban")).to_contain_text("spam")
    await visit.expect_seen("Login")
    await visit.log_in("Laptop")
    assert (await visit.steps())[-2:] == ["LoginFailed", "Refused with 403"]
    await visit.expect_seen("Login", "Ban")
    await visit.operate("Lift the ban", "The operator lifts the ban")
    await visit.log_in("Laptop")
    await visit.expect_status(phone="banned", laptop="active")
    await visit.expect_seen("Login", "Ban")


async def test_a_forgotten_user_is_new_at_the_next_login(visit: Visit) -> None:
    await visit.log_in("Phone")
    await visit.operate("Forget the user", "The operator forgets the user")
    await expect(visit.page.locator("#user")).to_have_text("no row")
    await expect(visit.page.locator("#no-sessions")).to_be_visible()
    await visit.expect_seen("Login", "Forgetting")
    await visit.call("Phone")
    assert (await visit.steps())[-1] == "Refused with 401"
    await visit.log_in("Phone")
    await expect(visit.page.locator("#steps")).to_contain_text("Their first login: a new row.")


async def test_a_token_tells_after_logout_why_it_died(visit: Visit) -> None:
    await visit.log_in("Phone")
    log_out = visit.button("Phone", "Log out")
    await visit.press(log_out, "The phone logs out")
    await expect(log_out).to_be_focused()
    await visit.expect_status(phone="revoked")
    await expect(visit.page.locator("#token-status")).to_have_text("revoked Its session was ended.")
    await visit.expect_seen("Login", "Logout")


async def test_a_token_that_expires_is_told_without_a_button(visit: Visit) -> None:
    await visit.page.get_by_label("A new token lives").select_option("5 seconds")
    await visit.log_in("Phone")
    await visit.expect_status(phone="active")
    await expect(visit.page.locator("#title")).to_have_text("The token of the phone expires")
    await visit.expect_status(phone="unknown")
    await visit.expect_seen("Login", "Expiry")


async def test_no_button_moves_when_its_device_gets_a_token(visit: Visit) -> None:
    button = visit.button("Thief", "Copy a token")
    top = "element => element.getBoundingClientRect().top + scrollY"
    before = await button.evaluate(top)
    await visit.log_in("Phone")
    await visit.log_in("Laptop")
    await visit.copy("laptop")
    assert await button.evaluate(top) == before


async def test_a_rotation_shows_on_its_device(visit: Visit) -> None:
    held = visit.device("Phone").locator("[data-part=held]")
    await visit.log_in("Phone")
    before = await held.inner_text()
    await visit.rotate("Phone")
    after = await held.inner_text()
    assert before[:18] == after[:18]  # the nonce
    assert before[18:30] != after[18:30]  # as much is in sight


async def test_a_phone_shows_what_is_next_and_leads_to_the_steps(visit: Visit) -> None:
    page = visit.page
    await page.set_viewport_size({"width": 375, "height": 720})
    steps = page.locator("#steps")
    leads = page.get_by_role("link", name="Steps:")
    for act in (lambda: visit.log_in("Phone"), visit.ban):  # above and below the steps
        await act()
        await expect(page.locator("#next")).to_be_in_viewport(ratio=1)
        await leads.press("Enter")
        await expect(steps.locator("li").first).to_be_in_viewport()
        await expect(leads).to_be_hidden()


async def test_nothing_hides_the_focus(visit: Visit) -> None:
    page = visit.page
    await visit.log_in("Phone")
    await visit.log_in("Laptop")
    await visit.rotate("Laptop")  # the longest guide is next
    is_hidden = """element => {
        const { left, right, top, bottom } = element.getBoundingClientRect();
        return [top + 1, bottom - 1].some(
            y => !element.contains(document.elementFromPoint((left + right) / 2, y)));
    }"""
    focused = page.locator("main :focus")
    for width, height in ((320, 568), (375, 720), (720, 375)):
        await page.set_viewport_size({"width": width, "height": height})
        await page.locator("summary").last.focus()
        reached = []
        while await focused.count():
            reached.append(await focused.inner_text())
            assert not await focused.evaluate(is_hidden), (width, reached)
            await page.keyboard.press("Shift+Tab")
        assert len(reached) > 15


async def test_tabs_do_not_see_each_other(visit: Visit, url: str) -> None:
    other = Visit(await visit.page.context.new_page())
    await other.open(url)
    await visit.log_in("Phone")
    await other.log_in("Phone")
    await other.ban()
    await visit.call("Phone")
    await visit.expect_status(phone="active")
    await expect(visit.page.locator("#ban")).to_have_text("no")
    await expect(visit.page.locator("#before details")).to_have_count(1)
    mine, theirs = [await each.page.locator("#user code").inner_text() for each in (visit, other)]
    assert mine != theirs
    assert not other.errors
    await other.page.close()


async def test_everything_is_reached_by_the_tab_key_with_a_visible_focus(visit: Visit) -> None:
    page = visit.page
    await visit.log_in("Phone")
    await page.reload()
    await expect(page.locator("html[data-ready]")).to_be_attached()
    reached: list[str] = []
    for _ in range(12):
        await page.keyboard.press("Tab")
        focused = page.locator(":focus")
        outline = await focused.evaluate("element => getComputedStyle(element).outlineStyle")
        assert outline == "solid"
        name = await focused.evaluate("element => element.id || element.textContent.trim()")
        reached.append(name)
        if name == "wx.login":
            break
    skip = "Skip to what happens on the server"
    assert reached == [skip, "policy", "life", "Start over", "wx.login"]
    await page.keyboard.press("Space")
    await visit.expect_status(phone="active")
    await expect(page.locator(":focus")).to_have_text("wx.login")
    await page.keyboard.press("Tab")
    await expect(page.locator(":focus")).to_have_text("Call the server")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_is_legible_at_every_width_and_in_every_state(visit: Visit, scheme: str) -> None:
    page = visit.page
    await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
    states = (
        (360, lambda: visit.expect_status(phone="no token")),
        (1280, lambda: visit.log_in("Phone")),
        (800, lambda: visit.copy("phone")),
        (360, lambda: visit.rotate("Phone")),
        (1280, lambda: visit.call("Thief")),
        (1280, visit.ban),
        (360, lambda: visit.log_in("Laptop")),
    )
    for legible_at, reach in states:
        await reach()
        for width in (360, 800, 1280):
            await page.set_viewport_size({"width": width, "height": 800})
            assert await visit.width() == width
        await page.set_viewport_size({"width": legible_at, "height": 800})
        found = await Axe().run(page)
        assert found.violations_count == 0, found.generate_report()


async def test_dark_mode_and_reduced_motion_are_followed(visit: Visit) -> None:
    page = visit.page
    background = "getComputedStyle(document.body).backgroundColor"
    await page.emulate_media(color_scheme="light")
    light = await page.evaluate(background)
    await page.emulate_media(color_scheme="dark")
    assert await page.evaluate(background) != light
    await visit.log_in("Phone")
    motion = "getComputedStyle(document.querySelector('.step')).animationName"
    assert await page.evaluate(motion) == "appear"
    await page.emulate_media(reduced_motion="reduce")
    assert await page.evaluate(motion) == "none"


async def test_the_page_says_that_the_playground_has_ended(browser: BrowserContext) -> None:
    visit = Visit(await browser.new_page())
    async with serve_playground() as url:
        await visit.open(url)
        await visit.page.get_by_role("button", name="Forget the user").scroll_into_view_if_needed()
    notice = visit.page.get_by_role("alert")
    await expect(notice).to_have_text("The playground has ended: run it again. Then start over.")
    await expect(notice).to_be_in_viewport(ratio=1)
    await expect(visit.button("Phone", "wx.login")).to_be_disabled()


async def test_the_page_says_that_a_store_does_not_answer(browser: BrowserContext) -> None:
    page = await browser.new_page()
    with RedisServer() as server:
        async with serve_playground(redis_url=server.url) as url:
            server.stop()
            async with page.expect_websocket() as opening:
                await page.goto(url)
            socket = await opening.value
            if not socket.is_closed():
                await socket.wait_for_event("close")
            await expect(page.get_by_role("alert")).to_contain_text("The token store cannot serve.")
    await page.close()


async def test_no_button_is_enabled_before_the_server_listens(
    browser: BrowserContext, url: str
) -> None:
    page = await browser.new_page()
    await page.route_web_socket("**/tab", lambda _: None)  # opens, and hears nothing
    await page.goto(url)
    for button in await page.get_by_role("button").all():
        await expect(button).to_be_disabled()
    await page.close()
