"""What the tests in a browser rely on: a page that misbehaves fails them."""

import pytest

from tests.helpers.chromium import find_chromium, open_page


async def misbehave() -> None:
    async with open_page() as page:
        await page.goto("data:text/html,<title>A page</title>")
        await page.evaluate("fetch('http://shop.example/').catch(() => null)")
        async with page.expect_event("pageerror"):
            await page.evaluate("setTimeout(() => { throw new Error('oops') })")


async def test_fails_for_uncaught_errors_and_requests_to_other_hosts() -> None:
    with pytest.raises(AssertionError) as failed:
        await misbehave()
    assert "a request to http://shop.example/" in str(failed.value)
    assert "oops" in str(failed.value)


def test_a_missing_browser_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeError, match="apt-get install chromium"):
        find_chromium()
