"""Frames: an exception leaves this package without the local variables of the frames it passed.

Error trackers send the local variables of every frame in a traceback. Here these are codes, keys
and tokens. A traceback keeps its lines, so a failure can still be found.
"""

import inspect
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import wraps
from types import FrameType
from typing import Any, TypeVar, cast

from .deadlines import one_call

__all__ = ["clear_frames", "clears_frames", "methods_clear_frames"]

Function = TypeVar("Function", bound=Callable[..., Any])
Class = TypeVar("Class", bound=type[Any])

# This package, and where its secrets and the passwords of databases pass.
_CLEARED = {"mpauthx_async", "aiohttp", "redis", "sqlalchemy", "pymongo"}
_CLEARED |= {"aiomysql", "asyncmy", "asyncpg", "psycopg", "pymysql"}


def clear_frames(error: BaseException, packages: Collection[str] = _CLEARED) -> None:
    """Clear the local variables of the frames that an exception and its causes passed.

    It clears the frames of this package and of the clients that carry its secrets. The
    application's frames are left alone, and so is an exception that the application was already
    handling. A frame that is still running is skipped: call this again once it has ended.
    """
    pending: list[BaseException | None] = [error]
    seen: set[int] = set()
    while pending:
        each = pending.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        frames = [frame for frame, _ in traceback.walk_tb(each.__traceback__)]
        if each is not error and frames and _package(frames[0]) not in packages:
            continue  # caught by the application, before it called
        for frame in frames:
            if _package(frame) not in packages:
                continue
            # Before Python 3.13 this closes a suspended coroutine. An exception has left all of its
            # frames, unless one catches it, hands it on, and then awaits: no function here does.
            with suppress(RuntimeError):  # the frame is running
                frame.clear()
        pending += [each.__cause__, each.__context__]


def clears_frames(function: Function) -> Function:
    """Decorate a function, async or not, to raise without local variables: see `clear_frames`.

    An async one is one call, with one deadline for each system that it waits for.
    """
    if inspect.iscoroutinefunction(function):

        @wraps(function)
        async def awaited(*args: Any, **options: Any) -> Any:
            try:
                with one_call():
                    return await function(*args, **options)
            except BaseException as error:
                del args, options
                clear_frames(error)
                raise

        return cast(Function, awaited)

    @wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except BaseException as error:
            del args, options
            clear_frames(error)
            raise

    return cast(Function, called)


def methods_clear_frames(*by_hand: str) -> Callable[[Class], Class]:
    """Decorate a class: its constructor and public methods raise as with `clears_frames`.

    Args:
        by_hand: methods to leave as they are, because they call `clear_frames` themselves.
    """

    def decorate(decorated: Class) -> Class:
        for name, method in list(vars(decorated).items()):
            is_public = name == "__init__" or not name.startswith("_")
            if is_public and inspect.isfunction(method) and name not in by_hand:
                setattr(decorated, name, clears_frames(method))
        return decorated

    return decorate


def _package(frame: FrameType) -> str:
    package, _, _ = frame.f_globals.get("__name__", "").partition(".")
    return str(package)
