"""The status codes that results and errors carry, and what can have become of a token."""

from enum import IntEnum

__all__ = ["StatusCode", "TokenStatus"]


class StatusCode(IntEnum):
    """What became of a call: 1 is success, all else a failure.

    Numbers below 6100 and 9999 are mpauthx's own, so that its clients go on unchanged; the ones
    from 6100 up are new here.
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
    unknown_error = 9999


class TokenStatus(IntEnum):
    """What has become of a token. Those below zero are remembered, for a time, of dead sessions."""

    active = 1
    unknown = 0
    """Expired, or never given out here."""
    replaced = -1
    """A newer login took its place."""
    revoked = -2
    """Logged out, or thrown out."""
    banned = -3
    """Its user was banned."""
    rotated = -4
    """`rotate` gave the client another token in its place, which may be alive."""
    reused = -5
    """A token that had been rotated away was used again, a sign of theft: its session ended."""
