"""One exception class for each way to fail, in a tree that tells who can correct it.

MPAuthXError
    RefusedError: the client, which has to send something else, or whose user has to log in.
    UnavailableError: a store or WeChat, which may answer later.
    OperatorError: the operator of the service.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from .constants import StatusCode, TokenStatus

__all__ = [
    "BannedError",
    "ClosedError",
    "ConfigurationError",
    "ConnectionFailedError",
    "DecryptionError",
    "EmptyResponseError",
    "HTTPStatusError",
    "IdentityMismatchError",
    "IncompleteResponseError",
    "InvalidPushEventError",
    "InvalidResponseError",
    "InvalidStateError",
    "InvalidTokenError",
    "MPAuthXError",
    "NoOAuthTokenError",
    "OperatorError",
    "OverloadedError",
    "ParameterError",
    "PartialStoreError",
    "RefusedError",
    "SessionKeyLostError",
    "SnapshotUserError",
    "StoreError",
    "UnavailableError",
    "UnknownAppError",
    "UserNotFoundError",
    "WeChatAPIError",
    "WeChatOperatorError",
    "WeChatRefusedError",
    "WeChatUnavailableError",
]


class MPAuthXError(Exception):
    """The base of all errors of this package.

    Attributes:
        code: the StatusCode.
        http_status: the HTTP status for the client: 400, 401 if the user has to log in again, 403,
            404 for an unknown app, 429, 502 or 503; in answers of `mpauthx_async.web`
            also 408 and 413, for a body that is too slow or too long.
        retryable: whether the same call may succeed later with no change by client or operator.
            False if the call has used up a code, or may have; the text then says so.
    """

    code: ClassVar[StatusCode] = StatusCode.unknown_error
    http_status: int = 503
    retryable: bool = False
    _advice: str = ""  # what the client has to do, besides what the text says

    def __str__(self) -> str:
        text = self._text()
        return f"{text} {self._advice}" if self._advice else text

    def _text(self) -> str:
        return super().__str__()


class RefusedError(MPAuthXError):
    """The base of errors that the client caused."""

    http_status = 400


class UnavailableError(MPAuthXError):
    """The base of errors for stores and servers that do not answer, or not as documented."""

    retryable = True


class OperatorError(MPAuthXError):
    """The base of errors that only the operator of the service can correct."""


class StoreError(UnavailableError):
    """A store could not answer; whether it has carried the call out is unknown.

    Attributes:
        is_logged: whether this package has logged it.
    """

    code = StatusCode.database_related_error
    is_logged: bool = False


class PartialStoreError(StoreError):
    """A store could answer for some items of a batch only. A service's callers never meet it.

    Attributes:
        answers: for each item the answer or a StoreError, in the order of the batch.
    """

    def __init__(self, answers: Sequence[Any]) -> None:
        failures = [answer for answer in answers if isinstance(answer, StoreError)]
        super().__init__(
            f"The store could not answer for {len(failures)} of {len(answers)} items; see "
            f"`answers`. {failures[0] if failures else ''}"
        )
        self.answers = answers
        self.retryable: bool = any(failure.retryable for failure in failures)


class ParameterError(RefusedError):
    """A parameter is missing or malformed."""

    code = StatusCode.required_params_missing_error


class HTTPStatusError(UnavailableError):
    """WeChat answered with an HTTP status other than 200: `status`."""

    code = StatusCode.http_error
    http_status = 502

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, status)
        self.status = status

    def _text(self) -> str:
        return str(self.args[0])


class EmptyResponseError(UnavailableError):
    """WeChat answered with an empty body."""

    code = StatusCode.response_is_null
    http_status = 502


class InvalidResponseError(UnavailableError):
    """WeChat's answer is not the JSON that it documents."""

    code = StatusCode.json_parsed_error
    http_status = 502
    retryable = False


class IncompleteResponseError(UnavailableError):
    """WeChat's answer ended early."""

    code = StatusCode.http_response_error_event
    http_status = 502


class ConnectionFailedError(UnavailableError):
    """WeChat could not be reached, or did not answer in time.

    Attributes:
        sent: whether WeChat may have received the request, and so have consumed its code.
    """

    code = StatusCode.http_request_error_event

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class WeChatAPIError(MPAuthXError):
    """WeChat refused the call. The base of one class for each side that can correct it.

    Attributes:
        errcode: WeChat's error number.
        errmsg: WeChat's message without rid and hint, at most 500 characters.
        rid: the request's id for WeChat's support: the answer's rid, or its hint if it has no rid,
            as with WeCom; None if it has neither.
        hint: what a developer can do; empty if the errcode is unknown to this package.
    """

    code = StatusCode.session_key_and_open_id_request_error

    def __init__(
        self, errcode: int, errmsg: str, *, rid: str | None = None, hint: str = ""
    ) -> None:
        super().__init__(errcode, errmsg)
        self.errcode = errcode
        self.errmsg = errmsg
        self.rid = rid
        self.hint = hint

    def _text(self) -> str:
        rid = f" (rid {self.rid})" if self.rid else ""
        hint = f": {self.hint}" if self.hint else ""
        return f"WeChat answered errcode {self.errcode}, {self.errmsg!r}{rid}{hint}"


class WeChatRefusedError(WeChatAPIError, RefusedError):
    """WeChat refused what the client sent, such as an unknown or used code."""


class WeChatUnavailableError(WeChatAPIError, UnavailableError):
    """WeChat is busy or limits the rate of calls: errcodes -1, 45009 and 45011."""


class WeChatOperatorError(WeChatAPIError, OperatorError):
    """WeChat refused the app or this server, or with an errcode unknown to this package."""

    http_status = 502


class NoOAuthTokenError(RefusedError):
    """No web OAuth token of this user is stored, or it does not decrypt: they have to authorize."""

    code = StatusCode.invalid_access_token
    http_status = 401


class IdentityMismatchError(RefusedError):
    """The user data and the code belong to different users."""

    code = StatusCode.open_id_or_union_id_not_match


class UserNotFoundError(RefusedError):
    """The user store has no user with this id: they never logged in, or were erased."""

    code = StatusCode.user_not_exist_in_db
    http_status = 401


class DecryptionError(RefusedError):
    """The user data does not decrypt for this login and app, or is older than `max_age`."""

    code = StatusCode.user_info_decryption_error


class ClosedError(OperatorError):
    """The service, or a store or connection that it uses, is closed or closing."""

    code = StatusCode.closed


class ConfigurationError(OperatorError):
    """The configuration, or the way a method is used, cannot work."""

    code = StatusCode.invalid_configuration


class InvalidStateError(RefusedError):
    """The state of a web login is forged, expired, used, or from another browser."""

    code = StatusCode.invalid_state


class InvalidPushEventError(RefusedError):
    """A pushed event is not from WeChat, malformed, stale, repeated, or for another app."""

    code = StatusCode.invalid_push_event


class SnapshotUserError(RefusedError):
    """WeChat showed the page to a snapshot (virtual) account that represents no real user."""

    code = StatusCode.snapshot_user
    http_status = 403


class InvalidTokenError(RefusedError):
    """The token was not issued for this app and sku, or is no longer valid.

    The HTTP status is 401; it is 403 if the user is banned, since a new login would be refused.

    Attributes:
        status: the reason, TokenStatus.unknown if it is not known.
    """

    code = StatusCode.invalid_token
    http_status: int = 401

    def __init__(self, message: str, status: TokenStatus = TokenStatus.unknown) -> None:
        super().__init__(message)
        self.status = status
        if status is TokenStatus.banned:
            self.http_status = 403


class SessionKeyLostError(RefusedError):
    """No session key is stored for this token, or WeChat replaced it: the user has to log in."""

    code = StatusCode.session_key_lost
    http_status = 401


class BannedError(RefusedError):
    """The user is banned.

    Attributes:
        user_id: the user.
        reason: the reason given to `ban`; may be empty.
        until: when the ban ends, in Unix milliseconds; None if it is permanent.
    """

    code = StatusCode.banned
    http_status = 403

    def __init__(self, user_id: str, reason: str, until: int | None) -> None:
        super().__init__(user_id, reason, until)
        self.user_id = user_id
        self.reason = reason
        self.until = until

    def _text(self) -> str:
        end = "permanently"
        if self.until is not None:
            end = f"until {datetime.fromtimestamp(self.until / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
        return f"This user is banned {end}: {self.reason or 'no reason was given'}"


class OverloadedError(UnavailableError):
    """The login waited too long to begin, or too many were waiting. Its code was not used."""

    code = StatusCode.overloaded


class UnknownAppError(RefusedError):
    """The app_id is malformed, or unknown to the `load` function of `Apps`."""

    code = StatusCode.unknown_app
    http_status = 404


def mark_code_used(error: MPAuthXError) -> None:
    """Mark the error of a call that has used up a code, or may have: it cannot be repeated."""
    if error.retryable:
        error.retryable = False
        error._advice = (
            "The code is used up, or may be: the client has to get a new one, as with wx.login."
        )
