"""Protects endpoints, and serves the routes that clients call.

The adapters are `asgi`, `aiohttp`, `fastapi`, `starlette` and `django`; the last three need their
framework to be installed. The other modules are what all adapters share.
"""

from .oauth_routes import OAuthRoutes
from .routes import PushRoutes

__all__ = ["OAuthRoutes", "PushRoutes"]
