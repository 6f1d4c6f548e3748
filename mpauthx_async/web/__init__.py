"""Protects endpoints, and serves the routes that clients call.

What all frameworks share is in this package's own modules; `asgi`, `fastapi`, `starlette`,
`aiohttp` and `django` are the adapters, each importable only with its framework.
"""

from .oauth_routes import OAuthRoutes
from .routes import PushRoutes

__all__ = ["OAuthRoutes", "PushRoutes"]
