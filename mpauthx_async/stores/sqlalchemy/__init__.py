"""Stores for SQL databases, with SQLAlchemy: PostgreSQL, MySQL, MariaDB and SQLite."""

try:
    import sqlalchemy.ext.asyncio  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "This store needs SQLAlchemy: pip install 'mpauthx-async[sqlalchemy]', and the driver of "
        "the database, such as asyncpg or asyncmy"
    ) from _error
