"""What is cleared from the frames of an exception, and what stays."""

import inspect
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from mpauthx_async import MPAuthX
from mpauthx_async.concurrency.traceback_frames import (
    clear_frames,
    clears_frames,
    methods_clear_frames,
)

SECRET = "GEHEIM"


def as_packaged(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as if it stood in this package."""
    return type(function)(
        function.__code__,
        {**function.__globals__, "__name__": "mpauthx_async.some_module"},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )


def locals_of(error: BaseException) -> dict[str, dict[str, object]]:
    """The local variables in a traceback, by function."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return {frame.f_code.co_name: dict(frame.f_locals) for frame in frames}


def locals_below(error: BaseException) -> list[dict[str, object]]:
    """The local variables in all frames but that of the test."""
    return [told for name, told in locals_of(error).items() if not name.startswith("test_")]


@as_packaged
def fail(secret: str) -> None:
    length = len(secret)
    raise ValueError(f"This is {length} characters long.")


def test_the_frames_of_the_package_are_cleared_and_their_lines_stay() -> None:
    with pytest.raises(ValueError, match="6 characters") as caught:
        fail(SECRET)
    assert locals_of(caught.value)["fail"] == {"secret": SECRET, "length": 6}
    lines = traceback.format_tb(caught.value.__traceback__)
    clear_frames(caught.value)
    assert locals_of(caught.value)["fail"] == {}
    assert traceback.format_tb(caught.value.__traceback__) == lines


def test_a_cause_and_a_context_are_cleared_too() -> None:
    @as_packaged
    def call(secret: str) -> None:
        try:
            fail(secret)
        except ValueError as error:
            try:
                fail(secret)
            except ValueError:
                raise LookupError("It failed.") from error

    with pytest.raises(LookupError) as caught:
        call(SECRET)
    clear_frames(caught.value)
    cause, context = caught.value.__cause__, caught.value.__context__
    assert cause is not context
    for error in (caught.value, cause, context):
        assert SECRET not in repr(locals_below(error))


def test_a_function_of_the_application_that_is_called_keeps_its_variables() -> None:
    def callback(mine: str) -> None:
        raise LookupError(f"No {len(mine)} here.")

    @clears_frames
    @as_packaged
    def call(function: Callable[[str], None], secret: str) -> None:
        function(secret[::-1])

    with pytest.raises(LookupError) as caught:
        call(callback, SECRET)
    told = locals_of(caught.value)
    assert told["callback"] == {"mine": SECRET[::-1]}
    assert told["call"] == {}


def test_an_exception_that_the_application_was_handling_keeps_its_variables() -> None:
    def handle() -> None:
        try:
            fail("other")  # as of a client that the application uses for itself
        except ValueError:
            clears_frames(fail)(SECRET)

    with pytest.raises(ValueError, match="6 characters") as caught:
        handle()
    assert locals_of(caught.value)["fail"] == {}
    assert locals_of(caught.value.__context__)["fail"] == {"secret": "other", "length": 5}


def test_a_frame_that_is_running_keeps_its_variables() -> None:
    @as_packaged
    def call(kept: str) -> str:
        try:
            fail(kept)
        except ValueError as error:
            clear_frames(error)
        return kept

    assert call(SECRET) == SECRET


def test_exceptions_that_name_each_other_are_cleared_once() -> None:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    clear_frames(one)


def test_a_decorated_function_raises_without_its_arguments() -> None:
    with pytest.raises(ValueError, match="6 characters") as caught:
        clears_frames(fail)(secret=SECRET)
    assert [*locals_of(caught.value)][1:] == ["called", "fail"]
    assert SECRET not in repr(locals_below(caught.value))


async def test_a_decorated_async_function_raises_without_its_arguments() -> None:
    @clears_frames
    @as_packaged
    async def fail_later(secret: str) -> None:
        fail(secret)

    with pytest.raises(ValueError, match="6 characters") as caught:
        await fail_later(SECRET)
    assert [*locals_of(caught.value)][1:] == ["awaited", "fail_later", "fail"]
    assert SECRET not in repr(locals_below(caught.value))


def test_a_decorated_function_looks_as_before() -> None:
    for method in (MPAuthX.rotate, MPAuthX.is_token_valid):
        assert inspect.iscoroutinefunction(method)
        assert str(inspect.signature(method)).startswith("(self, token: object) -> ")
        assert str(method.__doc__).endswith(inspect.unwrap(method).__doc__ or "-")
    assert not inspect.iscoroutinefunction(MPAuthX.subscribe)


def test_a_decorated_class_leaves_out_what_is_private_or_done_by_hand() -> None:
    @methods_clear_frames("by_hand")
    class Decorated:
        def __init__(self) -> None: ...

        def public(self) -> None: ...

        def by_hand(self) -> None: ...

        def _private(self) -> None: ...

        @staticmethod
        def static() -> int:
            return 7

        @property
        def prop(self) -> int:
            return 8

    methods = vars(Decorated)
    wrapped = [name for name, method in methods.items() if hasattr(method, "__wrapped__")]
    assert [name for name in wrapped if name != "static"] == ["__init__", "public"]
    assert (Decorated.static(), Decorated().prop) == (7, 8)
