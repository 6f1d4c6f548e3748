"""The pytest plugin, as a project that uses it has it."""

import os
import subprocess
import sys
from pathlib import Path

# Without the options of the pytest that runs this.
ENVIRONMENT = {name: text for name, text in os.environ.items() if name != "PYTEST_ADDOPTS"}

TESTS = """
import asyncio
import urllib.request

import pytest

from mpauthx_async import WeChatAPIError
from mpauthx_async.simulator import Fault


def test_a_test_without_an_event_loop(wechat):
    url = f"{wechat.url}/sns/jscode2session?appid={wechat.app_id}&secret={wechat.app_secret}"
    code = wechat.login("bob")
    answer = urllib.request.urlopen(f"{url}&js_code={code}&grant_type=authorization_code")
    assert b"bob" in answer.read()
    wechat.fail_next(Fault.TOO_FREQUENT)


async def test_a_login(wechat, mpauthx):
    assert list(wechat.requests) == []  # and the fault of the test before is gone
    result = await mpauthx.authorize(wechat.login("bob"))
    assert result.is_new_user
    assert (await mpauthx.authenticate(result.token)).user_id == "bob"


async def test_another_test_knows_nothing_of_it(wechat, mpauthx):
    assert (await mpauthx.authorize(wechat.login("bob"))).is_new_user


async def test_a_fault(wechat, mpauthx):
    wechat.fail_next(Fault.TOO_FREQUENT)
    with pytest.raises(WeChatAPIError):
        await mpauthx.authorize(wechat.login("bob"))


class TestSettings:
    @pytest.fixture
    def mpauthx_settings(self, mpauthx_settings):
        return {**mpauthx_settings, "sku": "shop"}

    async def test_settings_can_be_changed(self, wechat, mpauthx):
        token = (await mpauthx.authorize(wechat.login("bob"))).token
        assert mpauthx.extract_sku(token) == "shop"
"""


def run(folder: Path, *options: str) -> str:
    (folder / "test_app.py").write_text(TESTS)
    settings = ("-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function")
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", *settings, *options]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=ENVIRONMENT)
    return ran.stdout + ran.stderr


def test_the_fixtures_serve_a_project_as_they_are(tmp_path: Path) -> None:
    out = run(tmp_path, "-W", "error")
    assert "5 passed" in out, out


def test_without_pytest_asyncio_the_simulator_serves_all_the_same(tmp_path: Path) -> None:
    out = run(tmp_path, "-p", "no:asyncio", "-k", "without_an_event_loop")
    assert "1 passed" in out, out
