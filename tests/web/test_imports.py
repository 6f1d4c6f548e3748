"""Each adapter is importable only with its framework, and says what to install."""

import subprocess
import sys

import pytest


def run(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("adapter", "framework", "advice"),
    [
        ("fastapi", "fastapi", "pip install 'mpauthx-async[fastapi]'"),
        ("starlette", "starlette", "pip install starlette"),
        ("django", "django", "pip install django"),
    ],
)
def test_a_missing_framework_is_named(adapter: str, framework: str, advice: str) -> None:
    run(f"""if True:
        import sys
        sys.modules[{framework!r}] = None
        try:
            import mpauthx_async.web.{adapter}
        except ImportError as error:
            assert {advice!r} in str(error), error
        else:
            raise AssertionError("It was imported.")
    """)


def test_what_all_share_needs_no_framework() -> None:
    run("""if True:
        import sys
        import mpauthx_async.web.asgi
        frameworks = {"aiohttp.web", "fastapi", "starlette", "django"}
        assert not frameworks & set(sys.modules), frameworks & set(sys.modules)
    """)
