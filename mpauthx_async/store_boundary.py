"""The boundary to a store: a method answers, or raises an exception of this package."""

import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

from .errors import MPAuthXError, PartialStoreError, StoreError
from .failure_log import failures

__all__ = ["log_store_error", "only_store_errors", "raises_store_errors"]

Store = TypeVar("Store")

_KIND = 200  # characters of a message: they name the store and what is wrong


def raises_store_errors(store_class: type[Store]) -> type[Store]:
    """Decorate a store class whose async methods raise no exceptions but those of this package."""
    for name, method in list(vars(store_class).items()):
        if not name.startswith("_") and inspect.iscoroutinefunction(method):
            setattr(store_class, name, _answering(method))
    return store_class


@contextmanager
def only_store_errors() -> Iterator[None]:
    """Turn whatever a store does not document into a StoreError with its cause, and log it."""
    try:
        yield
    except StoreError as error:
        log_store_error(error)
        raise
    except MPAuthXError:
        raise
    except Exception as error:
        undocumented = StoreError(
            f"The store failed in a way that it does not document ({type(error).__name__}). "
            "The call can be repeated."
        )
        log_store_error(undocumented)
        raise undocumented from error


def log_store_error(error: StoreError) -> None:
    """Log an error, unless an inner boundary has logged it; of a batch, each that is in it."""
    if error.is_logged:
        return
    if isinstance(error, PartialStoreError):  # its own text has numbers, so each were a kind
        for answer in error.answers:
            if isinstance(answer, StoreError):
                log_store_error(answer)
        return
    error.is_logged = True
    kind = f"{type(error).__name__} {str(error)[:_KIND]}"
    failures.warning("%s", error, extra={"kind": kind})


def _answering(method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(method)
    async def answer(*args: Any, **named: Any) -> Any:
        with only_store_errors():
            return await method(*args, **named)

    return answer
