"""The boundary to a store: its methods raise exceptions of this package only."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import wraps
from types import TracebackType
from typing import Any, TypeVar

from .errors import MPAuthXError, PartialStoreError, StoreError
from .failure_log import failures

__all__ = [
    "GuardedLock",
    "all_or_partial",
    "log_store_error",
    "only_store_errors",
    "raises_store_errors",
]

Store = TypeVar("Store")
Result = TypeVar("Result")

_MAX_KIND_CHARACTERS = 200  # of a message: they name the store and what is wrong


def raises_store_errors(store_class: type[Store]) -> type[Store]:
    """Decorate a store class, so that its methods raise exceptions of this package only.

    This applies to its public async methods, and to those that return an async context manager.
    """
    for name, method in list(vars(store_class).items()):
        if name.startswith("_") or not inspect.isfunction(method):
            continue
        if inspect.iscoroutinefunction(method):
            setattr(store_class, name, _answering(method))
        elif inspect.isasyncgenfunction(inspect.unwrap(method)):
            setattr(store_class, name, _locking(method))
    return store_class


class GuardedLock:
    """A store's lock, which raises StoreErrors only; its block raises what it raises."""

    def __init__(self, lock: AbstractAsyncContextManager[object]) -> None:
        self._lock = lock

    async def __aenter__(self) -> None:
        with only_store_errors():
            await self._lock.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with only_store_errors():
            await self._lock.__aexit__(exc_type, exc, traceback)


def all_or_partial(answers: Sequence[Result | StoreError]) -> Sequence[Result]:
    """The answers of a batch; raises PartialStoreError, or the StoreError of the only item."""
    answered = [answer for answer in answers if not isinstance(answer, StoreError)]
    if len(answered) == len(answers):
        return answered
    if len(answers) == 1 and isinstance(answers[0], StoreError):
        raise answers[0]
    raise PartialStoreError(answers)


@contextmanager
def only_store_errors() -> Iterator[None]:
    """Turn an exception that a store does not document into a logged StoreError."""
    try:
        yield
    except StoreError as error:
        log_store_error(error)
        raise
    except MPAuthXError:
        raise
    except (Exception, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and _is_cancelled():
            raise
        undocumented = StoreError(
            f"The store failed in a way that it does not document ({type(error).__name__}). See "
            "the cause of this error."
        )
        log_store_error(undocumented)
        raise undocumented from error


def _is_cancelled() -> bool:
    """Whether the running task itself is being cancelled, and not one that it awaits."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def log_store_error(error: StoreError, lines: str = "") -> None:
    """Log an error, or each error of a batch, unless an inner boundary has logged it."""
    if error.is_logged:
        return
    if isinstance(error, PartialStoreError):  # its text has numbers, so each would be another kind
        for answer in error.answers:
            if isinstance(answer, StoreError):
                log_store_error(answer)
        return
    error.is_logged = True
    text = str(error)  # as it is now: a login adds to it that the code is used up
    kind = f"{type(error).__name__} {text[:_MAX_KIND_CHARACTERS]}"
    failures.warning("%s", f"{text}\n{lines}" if lines else text, extra={"kind": kind})


def _answering(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(method)
    async def answer(*args: Any, **named: Any) -> Any:
        with only_store_errors():
            return await method(*args, **named)

    return answer


def _locking(
    method: Callable[..., AbstractAsyncContextManager[object]],
) -> Callable[..., GuardedLock]:
    @wraps(method)
    def lock(*args: Any, **named: Any) -> GuardedLock:
        return GuardedLock(method(*args, **named))

    return lock
