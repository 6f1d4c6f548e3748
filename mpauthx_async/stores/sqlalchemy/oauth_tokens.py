"""SQLAlchemyOAuthTokenStore: keeps web OAuth tokens in a table such as wechat-oauth's `token`."""

import secrets
from contextlib import AbstractAsyncContextManager
from typing import Any, Self

from sqlalchemy import Column, Connection, String, Table, delete, insert, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from ...concurrency.traceback_frames import methods_clear_frames
from ...errors import ConfigurationError, NoOAuthTokenError, StoreError
from ...models import OAuthToken
from ...store_errors import raises_store_errors
from ..protocols import KeyValueStore
from ..user_fields import whole_number
from .database import SQLDatabase
from .failures import is_conflict, is_refusal, refusal
from .table_checks import check_columns

__all__ = ["SQLAlchemyOAuthTokenStore"]


_COLUMNS = {"openid": "open_id", "create_at": "created_at", "unionid": "union_id"} | {
    name: name for name in ("access_token", "refresh_token", "expires_in", "scope")
}


@methods_clear_frames()
@raises_store_errors
class SQLAlchemyOAuthTokenStore:
    """Keeps the web OAuth tokens of one app in a table, as plain text, as wechat-oauth does.

    The table has the columns openid, which is unique, access_token, refresh_token, expires_in
    (seconds), scope and create_at (Unix milliseconds), and perhaps unionid. Numbers may be texts.
    Other columns stay untouched. If tokens cannot be saved in the table, the methods raise a
    ConfigurationError that names the column.

    Args:
        engine: an engine of SQLAlchemy, which stays open, or a URL with an asyncio driver.
        table: the table of tokens.
        records: keeps the locks and the used states, such as RedisKeyValueStore; closed together
            with this store.
        timeout: how long a call waits for the database at most, in seconds.

    Raises:
        ConfigurationError: if the URL cannot work, or the table lacks a column.
    """

    def __init__(
        self,
        engine: AsyncEngine | str,
        table: Table,
        records: KeyValueStore,
        *,
        timeout: float = 5.0,
    ) -> None:
        missing = _COLUMNS.keys() - {"unionid", *table.columns.keys()}
        if missing:
            raise ConfigurationError(
                f"The table {table.name} of OAuth tokens lacks {', '.join(sorted(missing))}."
            )
        self._table = table
        self._columns = [column for column in table.columns if column.key in _COLUMNS]
        self._records = records
        self._database = SQLDatabase(engine, timeout, self._prepare)

    async def get(self, open_id: str) -> OAuthToken | None:
        """Read the token of a user; None if there is no token.

        Raises:
            NoOAuthTokenError: the row has no tokens, or no times; the user has to authorize again.
            StoreError: the database cannot answer.
        """
        query = select(*self._columns).where(self._table.columns.openid == open_id)

        def find(connection: Connection) -> OAuthToken | None:
            row = connection.execute(query).first()
            if row is None:
                return None
            fields: dict[str, Any] = {
                _COLUMNS[column.key]: value
                for column, value in zip(self._columns, row, strict=True)
            }
            for name in ("expires_in", "created_at"):
                fields[name] = whole_number(name, fields[name])
            needed = ("access_token", "refresh_token", "expires_in", "created_at")
            if any(fields[name] in (None, "") for name in needed):
                raise NoOAuthTokenError(
                    f"The row of {open_id!r} in the table {self._table.name} has no OAuth token "
                    "that can be used: let the user authorize again, which replaces it."
                )
            return OAuthToken(**fields | {"scope": fields["scope"] or ""})

        return await self._database.run(lambda: self._database.read(find))

    async def save(self, open_id: str, token: OAuthToken) -> None:
        """Write the token of a user, in place of an earlier one."""
        values = {column.key: _to_store(column, token) for column in self._columns}
        values["openid"] = open_id
        known = update(self._table).where(self._table.columns.openid == open_id).values(values)
        overtaken: list[Exception] = []

        def save(connection: Connection) -> None:
            try:
                if not connection.execute(known).rowcount:
                    connection.execute(insert(self._table).values(values))
            except DBAPIError as error:
                if is_refusal(error) and (overtaken or not is_conflict(error)):
                    raise refusal(error) from error
                overtaken.append(error)
                raise

        try:
            return await self._database.run(lambda: self._database.write(save))
        except StoreError as error:
            failure = _without_secrets(error, token)
        raise failure  # not from the driver's error, which may have the row

    async def delete(self, open_id: str) -> None:
        """Delete the token of a user, if there is one."""
        erase = delete(self._table).where(self._table.columns.openid == open_id)
        await self._database.run(
            lambda: self._database.write(lambda connection: connection.execute(erase))
        )

    def lock(self, open_id: str) -> AbstractAsyncContextManager[None]:
        """Lock the token of a user in all processes; entering may raise StoreError."""
        return self._records.lock(f"oauth_token|{open_id}")

    async def spend_state(self, nonce: str, ttl: float) -> bool:
        """Consume a state for `ttl` seconds; True for the first call in all processes."""
        return await self._records.add(f"oauth_state|{nonce}", secrets.token_hex(8), ttl)

    async def close(self) -> None:
        """Close the records, and the connections if the engine was created here."""
        try:
            await self._database.close()
        finally:
            await self._records.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _prepare(self) -> None:
        written = {column.key: column for column in self._columns}
        await self._database.read(
            lambda connection: check_columns(
                connection, self._table, written, "OAuth tokens", writes_dates=False
            )
        )


def _to_store(column: Column[Any], token: OAuthToken) -> object:
    value: object = getattr(token, _COLUMNS[column.key])
    return str(value) if isinstance(value, int) and isinstance(column.type, String) else value


def _without_secrets(error: StoreError, token: OAuthToken) -> StoreError:
    text = str(error)
    for secret in filter(None, (token.access_token, token.refresh_token)):
        text = text.replace(secret, "…")
    failure = StoreError(text)
    failure.retryable = error.retryable
    return failure
