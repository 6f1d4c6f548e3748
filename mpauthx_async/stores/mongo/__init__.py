"""The user store for MongoDB, by PyMongo."""

try:
    from pymongo import AsyncMongoClient as _AsyncMongoClient  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "This store needs PyMongo 4.13 or newer: pip install 'mpauthx-async[mongo]'"
    ) from _error
