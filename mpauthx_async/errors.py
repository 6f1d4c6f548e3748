"""One exception class for each way to fail, each with its status code."""

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
    "OverloadedError",
    "ParameterError",
    "PartialStoreError",
    "SessionKeyLostError",
    "SnapshotUserError",
    "StoreError",
    "UserNotFoundError",
    "WeChatAPIError",
]


class MPAuthXError(Exception):
    """The base of every error here; `code` is its StatusCode."""

    code: ClassVar[StatusCode] = StatusCode.unknown_error


class StoreError(MPAuthXError):
    """A store could not answer: the question is still open."""

    code = StatusCode.database_related_error


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


class ParameterError(MPAuthXError):
    """A required parameter is missing, or is not what it has to be."""

    code = StatusCode.required_params_missing_error


class HTTPStatusError(MPAuthXError):
    """WeChat answered with an HTTP status other than 200, which is in `status`."""

    code = StatusCode.http_error

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message, status)
        self.status = status

    def __str__(self) -> str:
        return str(self.args[0])


class EmptyResponseError(MPAuthXError):
    """WeChat answered with an empty body."""

    code = StatusCode.response_is_null


class InvalidResponseError(MPAuthXError):
    """WeChat's answer is not the JSON that it documents."""

    code = StatusCode.json_parsed_error


class IncompleteResponseError(MPAuthXError):
    """WeChat's answer broke off while it was read."""

    code = StatusCode.http_response_error_event


class ConnectionFailedError(MPAuthXError):
    """WeChat could not be reached, or did not answer in time.

    Attributes:
        sent: whether the request may have reached WeChat, which then has consumed the code.
    """

    code = StatusCode.http_request_error_event

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class WeChatAPIError(MPAuthXError):
    """WeChat refused the call.

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


class NoOAuthTokenError(MPAuthXError):
    """No web OAuth token of this user is kept, or it does not open: they have to authorize."""

    code = StatusCode.invalid_access_token


class IdentityMismatchError(MPAuthXError):
    """The user data belongs to somebody else than the code."""

    code = StatusCode.open_id_or_union_id_not_match


class UserNotFoundError(MPAuthXError):
    """No user with this id has ever logged in."""

    code = StatusCode.user_not_exist_in_db


class DecryptionError(MPAuthXError):
    """The user data could not be decrypted, or is not meant for this app."""

    code = StatusCode.user_info_decryption_error


class ClosedError(MPAuthXError):
    """The service, or what it stands on, is closed or closing."""

    code = StatusCode.closed


class ConfigurationError(MPAuthXError):
    """Something was set up in a way that cannot work."""

    code = StatusCode.invalid_configuration


class InvalidStateError(MPAuthXError):
    """The state of a web login is forged, expired, used up or another browser's."""

    code = StatusCode.invalid_state


class InvalidPushEventError(MPAuthXError):
    """A pushed event is not from WeChat, is malformed, stale or repeated, or is another app's."""

    code = StatusCode.invalid_push_event


class SnapshotUserError(MPAuthXError):
    """WeChat showed the page to a snapshot (virtual) account that represents no real user."""

    code = StatusCode.snapshot_user


class InvalidTokenError(MPAuthXError):
    """The token is none of this app and sku, or no longer alive; `status` tells why, if known."""

    code = StatusCode.invalid_token

    def __init__(self, message: str, status: TokenStatus = TokenStatus.unknown) -> None:
        super().__init__(message, status)
        self.status = status

    def __str__(self) -> str:
        return str(self.args[0])


class SessionKeyLostError(MPAuthXError):
    """No session key is kept for this token, or WeChat replaced it: the client has to log in."""

    code = StatusCode.session_key_lost


class BannedError(MPAuthXError):
    """The user is banned.

    Attributes:
        user_id: who is.
        reason: why, as whoever banned them put it.
        until: when the ban ends by itself, in Unix milliseconds; None for never.
    """

    code = StatusCode.banned

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


class OverloadedError(MPAuthXError):
    """The login did not begin, because too many others wait. Its code was not used.

    The same call may succeed later.
    """

    code = StatusCode.overloaded
