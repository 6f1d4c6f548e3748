"""MongoDatabase: a database of PyMongo, with one deadline for all that a call waits for."""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import AsyncMongoClient, ReadPreference
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import ConfigurationError as PyMongoConfigurationError
from pymongo.errors import InvalidURI, PyMongoError
from pymongo.uri_parser import split_options

from ..._compat import timeout
from ...concurrency.deadlines import trip
from ...concurrency.in_flight import InFlight
from ...concurrency.once import Once
from ...errors import ConfigurationError, MPAuthXError, StoreError
from ...failure_log import failures
from .failures import is_lost, store_error
from .user_fields import Document

__all__ = ["MongoDatabase"]

Result = TypeVar("Result")

_MAX_ATTEMPTS = 8
_BACKOFF = 0.01  # seconds, times the number of the attempt, times a random number up to 1
_MARGIN = 0.7  # seconds: PyMongo can tell what it waited for, and overruns its time by up to 0.5
_OPTION = re.compile(r"\w{1,40}", re.ASCII)
_FORM = "mongodb://user:password@host/database"


class MongoDatabase:
    """Runs work in a database within `longest_wait` seconds, after `prepare`.

    A database of an AsyncMongoClient stays open. A ConfigurationError is raised if the URL does not
    name a database, or writes are not acknowledged.
    """

    def __init__(
        self,
        database: AsyncDatabase[Document] | str,
        timeout: float,
        prepare: Callable[[], Awaitable[None]],
    ) -> None:
        self._owned: AsyncMongoClient[Document] | None = None
        if isinstance(database, str):
            self._owned, database = _open(database)
        if not database.write_concern.acknowledged:
            raise ConfigurationError(
                "The database must acknowledge writes: remove w=0 from its URL or client."
            )
        self._database = database
        self._name = f"The MongoDB database {database.name}"
        self._calls = InFlight(self, "This MongoDB store")
        self._preparation = Once(prepare)
        self.longest_wait: float = timeout

    def collection(self, name: str) -> AsyncCollection[Document]:
        """A collection of the database, read from the primary."""
        options: CodecOptions[Document] = CodecOptions(
            unicode_decode_error_handler="replace",
            datetime_conversion=DatetimeConversion.DATETIME_AUTO,
        )
        try:
            return self._database.get_collection(
                name, codec_options=options, read_preference=ReadPreference.PRIMARY
            )
        except (PyMongoError, TypeError):
            raise ConfigurationError(f"{name!r:.80} cannot be the name of a collection.") from None

    async def run(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Run work that may be repeated, within the deadline; anew if a connection was lost.

        Raises as `InFlight.one`, and StoreError if the database fails or does not answer in time.
        """

        async def prepared() -> Result:
            await self._preparation.done()
            return await work()

        with self._calls.one(), trip("MongoDB", self.longest_wait) as seconds:
            try:
                async with timeout(seconds):
                    with pymongo.timeout(max(seconds - _MARGIN, seconds / 2)):
                        return await _repeat(prepared)
            except TimeoutError:
                failure = StoreError(
                    f"{self._name} did not answer in time. It is slow or cannot be reached, or all "
                    "connections of the pool are in use."
                )
            except MPAuthXError:
                raise
            except Exception as error:
                raise store_error(self._name, error) from error
            raise failure

    async def close(self) -> None:
        """Close the client if it was opened here, after the calls in progress."""
        await self._calls.close()
        owned, self._owned = self._owned, None
        if owned is not None:
            try:
                async with timeout(self.longest_wait):
                    await owned.close()
            except TimeoutError:
                failures.warning("%s did not close its connections in time.", self._name)


def _open(url: str) -> tuple[AsyncMongoClient[Document], AsyncDatabase[Document]]:
    """Create the client of a URL. Errors repeat no passwords of URLs."""
    _check_options(url.partition("?")[2])
    client: AsyncMongoClient[Document] | None = None
    with suppress(PyMongoError, ValueError, TypeError):
        client = AsyncMongoClient(url)
    if client is None:
        raise ConfigurationError(
            f"The URL of a MongoDB database is {_FORM}, or mongodb+srv://…, with special "
            "characters of the password percent-encoded and options that fit each other."
        )
    try:
        return client, client.get_default_database()
    except PyMongoConfigurationError:
        raise ConfigurationError(
            f"The URL of a MongoDB database has to name it: {_FORM}."
        ) from None


def _check_options(query: str) -> None:
    """Raise ConfigurationError for an option that PyMongo would ignore with a warning."""
    for option in re.split("[&;]", query) if query else []:
        name = option.partition("=")[0]
        try:
            split_options(option, warn=False)
        except (PyMongoConfigurationError, InvalidURI, ValueError, TypeError):
            is_named = _OPTION.fullmatch(name) and "=" in option and "@" not in query
            which = f"the option {name!r}" if is_named else "an option"  # it may be a password
            raise ConfigurationError(
                f"PyMongo does not take {which} in the URL of the database: check its spelling and "
                "its value."
            ) from None


async def _repeat(work: Callable[[], Awaitable[Result]]) -> Result:
    for number in range(1, _MAX_ATTEMPTS):
        try:
            return await work()
        except PyMongoError as error:
            if not is_lost(error):
                raise
        await asyncio.sleep(number * _BACKOFF * random.random())  # noqa: S311
    return await work()
