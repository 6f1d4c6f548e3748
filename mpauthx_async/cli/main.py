"""The command line: python -m mpauthx_async."""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from ..errors import MPAuthXError
from ..simulator import WeChatSimulator
from .arguments import Parser, guard_session_ids, port
from .demo import run_demo
from .playground.server import serve_playground
from .serve.options import add_server_options, server_options
from .sessions import add_session_actions, run_sessions
from .text import visible

__all__ = ["main"]

_PACKAGE = __name__.partition(".")[0]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default that of this process; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "sessions" in arguments[:1]:
        arguments = guard_session_ids(arguments)
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command == "demo" and options.port and not options.web:
        parser.error("demo takes --port only with --web")
    logging.getLogger(_PACKAGE).addHandler(logging.NullHandler())  # errors are printed below
    try:
        if options.command == "demo":
            if not options.web:
                return asyncio.run(run_demo(options.redis))
            asyncio.run(_play(options))
            return 0
        if options.command == "sessions":
            return run_sessions(options)
        if options.command == "serve":
            from .serve.supervisor import run_server  # aiohttp's server, which others do not need

            return run_server(server_options(options))
        if options.command == "doctor":
            from .doctor import run_doctor  # also builds the server's application

            return run_doctor(options)
        asyncio.run(_simulate(options))
    except KeyboardInterrupt:
        return 130
    except (MPAuthXError, ImportError, OSError, OverflowError) as error:  # an extra is missing
        print(visible(f"error: {error}"), file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m mpauthx_async", description="Login for WeChat mini-programs on asyncio."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    demo = commands.add_parser("demo", help="see a mini-program user logged in, step by step")
    demo.add_argument(
        "--redis",
        metavar="URL",
        help="keep the tokens in this Redis (redis://localhost:6379/0) instead of SQLite; "
        "they expire within a minute, with --web within five",
    )
    demo.add_argument("--web", action="store_true", help="serve it as a page for a browser")
    demo.add_argument("--port", type=port, default=0, help="the page's port; default: a free one")
    simulator = commands.add_parser("simulator", help="run a stand-in for WeChat's servers")
    simulator.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    simulator.add_argument("--port", type=port, default=0, help="default: a free one")
    defaults = WeChatSimulator()
    simulator.add_argument("--app-id", default=defaults.app_id, help="default: %(default)s")
    simulator.add_argument(
        "--app-secret", default=defaults.app_secret, help="default: one for tests"
    )
    add_server_options(
        commands.add_parser(
            "serve",
            help="run a login server",
            description="Run a login server. Each option is also a variable of the environment, "
            "such as MPAUTHX_APP_ID, and a key in the --config file. Flags take precedence over "
            "the environment, and the environment over the file.",
        )
    )
    add_server_options(
        commands.add_parser(
            "doctor",
            help="check the configuration of a login server",
            description="Check the configuration that serve would run with, its stores and WeChat, "
            "and say what to do about each fault. It takes the options of serve, in the same "
            "places, and changes nothing. The exit code is 1 if something is wrong.",
        )
    )
    add_session_actions(
        commands.add_parser(
            "sessions",
            help="list and end users' sessions, and ban users",
            description="List and end users' sessions, and ban users, in the token store itself.",
        )
    )
    return parser


async def _simulate(options: argparse.Namespace) -> None:
    async with WeChatSimulator(
        app_id=options.app_id, app_secret=options.app_secret, host=options.host, port=options.port
    ) as wx:
        print(f"WeChat is simulated at {wx.url} for app_id {wx.app_id}. Ctrl-C ends it.")
        if wx.app_secret == WeChatSimulator().app_secret:  # the one for tests is not secret
            print(f"app_secret {wx.app_secret}")
        print(f"Pass api_base={wx.url!r}; curl {wx.url}/ lists the routes.", flush=True)
        await _interrupted()


async def _play(options: argparse.Namespace) -> None:
    async with serve_playground(options.port, options.redis) as url:
        print(f"The playground is at {url} (for this machine alone). Ctrl-C ends it.", flush=True)
        await _interrupted()


async def _interrupted() -> None:
    """Wait for Ctrl-C or SIGTERM."""
    interrupted = asyncio.Event()
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # on Windows, where Ctrl-C raises KeyboardInterrupt
            asyncio.get_running_loop().add_signal_handler(signal_number, interrupted.set)
    await interrupted.wait()
