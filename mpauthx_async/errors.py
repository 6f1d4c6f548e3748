"""One exception class for each way to fail, in a tree that tells who can mend it.

MPAuthXError
    RefusedError: the client's doing; it has to send something else, or the user has to log in.
    UnavailableError: a store or WeChat does not answer as it should; later it may.
    OperatorError: only whoever runs the service can mend it.
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
    "UserNotFoundError",
    "WeChatAPIError",
    "WeChatOperatorError",
    "WeChatRefusedError",
    "WeChatUnavailableError",
]


class MPAuthXError(Exception):
    """The base of every error here.

    Attributes:
        code: its StatusCode.
        http_status: the HTTP status for a client that meets it: 400, 401 where they have to log in
            again, 403, 429, 502 or 503.
        retryable: whether the same call with the same arguments may succeed later without anybody's
            action. It is False where a code was used up.
    """

    code: ClassVar[StatusCode] = StatusCode.unknown_error
    http_status: int = 503
    retryable: bool = False


class RefusedError(MPAuthXError):
    """The base of errors that are the client's doing."""

    http_status = 400


class UnavailableError(MPAuthXError):
    """The base of errors of stores and servers that do not answer as they should."""

    retryable = True


class OperatorError(MPAuthXError):
    """The base of errors that only whoever runs the service can mend."""


class StoreError(UnavailableError):
    """A store could not answer: the question is still open.

    Attributes:
        is_logged: whether this package has logged it.
    """

    code = StatusCode.database_related_error
    is_logged: bool = False


class PartialStoreError(StoreError):
    """A store could answer for some items of a batch only; services tell each caller their own.

    Attributes:
        answers: of each item the answer or a StoreError, in the order of the batch.
    """

    def __init__(self, answers: Sequence[Any]) -> None:
        failures = [answer for answer in answers if isinstance(answer, StoreError)]
        super().__init__(
            f"The store could not answer for {len(failures)} of {len(answers)} items, which "
            f"`answers` has with the others. {failures[0] if failures else ''}"
        )
        self.answers = answers


class ParameterError(RefusedError):
    """A required parameter is missing, or is not what it has to be."""

    code = StatusCode.required_params_missing_error


class HTTPStatusError(UnavailableError):
    """WeChat answered with an HTTP status other than 200, which is in `status`."""

    code = StatusCode.http_error
    http_status = 502

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, status)
        self.status = status

    def __str__(self) -> str:
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
    """WeChat's answer broke off while it was read."""

    code = StatusCode.http_response_error_event
    http_status = 502


class ConnectionFailedError(UnavailableError):
    """WeChat could not be reached, or did not answer in time.

    Attributes:
        sent: whether the request may have reached WeChat, which then has consumed the code.
    """

    code = StatusCode.http_request_error_event

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class WeChatAPIError(MPAuthXError):
    """WeChat refused the call: the base of one class each for the client's, WeChat's own and the
    operator's doing.

    Attributes:
        errcode: WeChat's number for what happened.
        errmsg: WeChat's text, without rid and hint; at most 500 characters.
        rid: the request's id, which WeChat's support asks for: the rid, or the hint in an answer
            without a rid, such as WeCom's; None in an answer without either.
        hint: what a developer can do about it; empty for an errcode that is not known here.
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

    def __str__(self) -> str:
        rid = f" (rid {self.rid})" if self.rid else ""
        hint = f": {self.hint}" if self.hint else ""
        return f"WeChat answered errcode {self.errcode}, {self.errmsg!r}{rid}{hint}"


class WeChatRefusedError(WeChatAPIError, RefusedError):
    """WeChat refused what the client sent, such as a code that is unknown or used."""


class WeChatUnavailableError(WeChatAPIError, UnavailableError):
    """WeChat is busy, or was asked too often: errcodes -1, 45009 and 45011."""


class WeChatOperatorError(WeChatAPIError, OperatorError):
    """WeChat refused the app or this server, or for a reason that is not known here."""

    http_status = 502


class NoOAuthTokenError(RefusedError):
    """No web OAuth token of this user is kept, or it does not open: they have to authorize."""

    code = StatusCode.invalid_access_token
    http_status = 401


class IdentityMismatchError(RefusedError):
    """The user data belongs to somebody else than the code."""

    code = StatusCode.open_id_or_union_id_not_match


class UserNotFoundError(RefusedError):
    """No user with this id has ever logged in."""

    code = StatusCode.user_not_exist_in_db
    http_status = 401


class DecryptionError(RefusedError):
    """The user data could not be decrypted, or is not meant for this app."""

    code = StatusCode.user_info_decryption_error


class ClosedError(OperatorError):
    """The service, or what it stands on, is closed or closing."""

    code = StatusCode.closed


class ConfigurationError(OperatorError):
    """Something was set up in a way that cannot work."""

    code = StatusCode.invalid_configuration


class InvalidStateError(RefusedError):
    """The state of a web login is forged, expired, used up or another browser's."""

    code = StatusCode.invalid_state


class InvalidPushEventError(RefusedError):
    """A pushed event is not from WeChat, is malformed, stale or repeated, or is another app's."""

    code = StatusCode.invalid_push_event


class SnapshotUserError(RefusedError):
    """WeChat showed the page to a snapshot (virtual) account that represents no real user."""

    code = StatusCode.snapshot_user
    http_status = 403


class InvalidTokenError(RefusedError):
    """The token was not issued for this app and sku, or is no longer valid.

    Its HTTP status is 401, but 403 for a token that ended when its user was banned: a new login
    would be refused.

    Attributes:
        status: why, as far as it is known.
    """

    code = StatusCode.invalid_token
    http_status = 401

    def __init__(self, message: str, status: TokenStatus = TokenStatus.unknown) -> None:
        super().__init__(message, status)
        self.status = status
        if status is TokenStatus.banned:
            self.http_status = 403

    def __str__(self) -> str:
        return str(self.args[0])


class SessionKeyLostError(RefusedError):
    """No session key is kept for this token, or WeChat replaced it: the client has to log in."""

    code = StatusCode.session_key_lost
    http_status = 401


class BannedError(RefusedError):
    """The user is banned.

    Attributes:
        user_id: who is.
        reason: why, as whoever banned them put it.
        until: when the ban ends by itself, in Unix milliseconds; None for never.
    """

    code = StatusCode.banned
    http_status = 403

    def __init__(self, user_id: str, reason: str, until: int | None) -> None:
        super().__init__(user_id, reason, until)
        self.user_id = user_id
        self.reason = reason
        self.until = until

    def __str__(self) -> str:
        end = "for ever"
        if self.until is not None:
            until = datetime.fromtimestamp(self.until / 1000, UTC)
            end = f"until {until.isoformat(' ', timespec='seconds')}"
        return f"This user is banned {end}: {self.reason or 'no reason was given'}"


class OverloadedError(UnavailableError):
    """The login did not begin, because too many others wait. Its code was not used.

    The same call may succeed later.
    """

    code = StatusCode.overloaded
