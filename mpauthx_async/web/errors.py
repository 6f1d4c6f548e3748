"""The ways in which a request itself is refused, before the service is asked."""

from ..errors import InvalidTokenError, ParameterError

__all__ = [
    "CredentialsError",
    "CrossSiteError",
    "NoTokenError",
    "RequestTooLargeError",
    "RequestTooSlowError",
]


class NoTokenError(InvalidTokenError):
    """The request has no token."""


class CredentialsError(ParameterError):
    """The request has more than one Authorization header, or more than one cookie of ours."""


class CrossSiteError(ParameterError):
    """A request that a cookie authenticates came, or may have come, from another site's page."""

    http_status = 403


class RequestTooLargeError(ParameterError):
    """The request's body is longer than any that is expected."""

    http_status = 413


class RequestTooSlowError(ParameterError):
    """The request's body did not arrive in time."""

    http_status = 408
