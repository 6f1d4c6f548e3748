"""The status codes of results and errors, and the states of tokens."""

from enum import IntEnum

__all__ = ["StatusCode", "TokenStatus"]


class StatusCode(IntEnum):
    """The outcome of a call: 1 is success, all others are failures.

    9999 and the numbers below 6100 are those of mpauthx, so that its clients work unchanged.
    """

    success = 1
    database_related_error = 6000
    required_params_missing_error = 6001
    http_error = 6002
    response_is_null = 6003
    json_parsed_error = 6004
    http_response_error_event = 6005
    http_request_error_event = 6006
    internet_connection_error = 6006
    invalid_access_token = 6007
    session_key_and_open_id_request_error = 6008
    open_id_or_union_id_not_match = 6009
    user_not_exist_in_db = 6010
    user_info_decryption_error = 6011
    closed = 6100
    invalid_configuration = 6101
    invalid_state = 6102
    snapshot_user = 6103
    invalid_token = 6104
    session_key_lost = 6105
    banned = 6106
    overloaded = 6107
    invalid_push_event = 6108
    unknown_app = 6109
    unknown_error = 9999


class TokenStatus(IntEnum):
    """The state of a token. Stores keep those below zero for a time after a session ended."""

    active = 1
    unknown = 0
    """Expired, or never issued by this service."""
    replaced = -1
    """A newer login replaced its session."""
    revoked = -2
    """Its session was revoked."""
    banned = -3
    """Its user was banned."""
    rotated = -4
    """`rotate` replaced it by another token, which may be valid."""
    reused = -5
    """A rotated token was used again, which is a sign of theft, so its session was ended."""
