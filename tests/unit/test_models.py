"""The values that the application meets, the status codes, and the public names."""

import dataclasses
import json
import pickle

import pytest

import mpauthx_async
from mpauthx_async import (
    AuthResult,
    BannedError,
    CodeSession,
    ConnectionFailedError,
    HTTPStatusError,
    InvalidTokenError,
    MPAuthX,
    MPAuthXError,
    NewSession,
    OAuthUser,
    OperatorError,
    PartialStoreError,
    RefusedError,
    Session,
    SessionRef,
    StatusCode,
    StoreError,
    Subject,
    TokenStatus,
    UnavailableError,
    User,
    WeChatAPIError,
    decrypt_user_data,
    errors,
)
from mpauthx_async.wechat.sample_user_data import (
    APP_ID,
    ENCRYPTED_DATA,
    IV,
    OPEN_ID,
    SESSION_KEY,
    UNION_ID,
)

BOB = CodeSession("bob", SESSION_KEY)
PROFILE = {
    "nick_name": "Band",
    "gender": 1,
    "city": "Guangzhou",
    "province": "Guangdong",
    "country": "CN",
    "language": "zh_CN",
    "avatar_url": "https://thirdwx.qlogo.cn/band",
}
REF = SessionRef("shop", "bob", "AAECAwQFBgcICQoLDA0ODw")
SESSION = Session(REF, 1_000, 2_000)
TOKEN = "bob|shop|AAECAwQFBgcICQoLDA0OD_RCuDxH6E5Unr5Npnr7Nlg"


# Users


def test_a_user_is_known_by_the_unionid_where_there_is_one_and_else_by_the_openid():
    assert User("bob", "union-bob").id == "union-bob"
    assert User("bob").id == "bob"
    assert User("bob", "").id == "bob"


def test_the_stand_in_that_wechat_gives_for_a_profile_is_anonymous():
    assert User("bob", nick_name="微信用户").is_anonymous
    assert not User("bob", nick_name="Band").is_anonymous
    assert not User("bob", nick_name="").is_anonymous
    assert not User("bob").is_anonymous


def test_wechats_published_sample_becomes_a_user():
    payload = decrypt_user_data(SESSION_KEY, ENCRYPTED_DATA, IV, APP_ID)
    user = User.from_wechat(CodeSession(OPEN_ID, SESSION_KEY, UNION_ID), payload)
    assert user == User(OPEN_ID, UNION_ID, **{**PROFILE, "avatar_url": payload["avatarUrl"]})


def test_the_identity_is_that_of_the_code_whatever_the_data_says():
    payload = {"openId": "eve", "unionId": "union-eve", "city": "Wuhan"}
    assert User.from_wechat(BOB, payload) == User("bob", city="Wuhan")
    with_union_id = CodeSession("bob", SESSION_KEY, "union-bob")
    assert User.from_wechat(with_union_id, payload) == User("bob", "union-bob", city="Wuhan")


def test_the_profile_of_a_web_user_holds_no_ids():
    payload = {"openid": "eve", "unionid": "union-eve", "unionId": "union-eve", "nickname": "Bob"}
    assert OAuthUser.from_wechat("bob", None, payload) == OAuthUser("bob", nick_name="Bob")
    assert OAuthUser.from_wechat("bob", "union-bob", payload).union_id == "union-bob"


def test_a_user_has_all_ids_once_and_the_current_one_first():
    assert User("bob").ids == ("bob",)
    assert User("bob", "union-bob").ids == ("union-bob", "bob")
    linked = User("bob", "union-bob", linked_ids=("bob-web", "bob"))
    assert linked.ids == ("union-bob", "bob", "bob-web")


def test_a_user_is_made_with_no_times_because_the_store_knows_them():
    user = User.from_wechat(BOB, {"createdAt": 1, "updatedAt": 2, "created_at": 3})
    assert (user.created_at, user.updated_at) == (None, None)


@pytest.mark.parametrize("wrong", [None, 7, 0.5, True, [], ["x"], {"x": "y"}])
def test_profile_values_of_other_types_are_ignored(wrong):
    names = ("nickName", "city", "province", "country", "language", "avatarUrl")
    assert User.from_wechat(BOB, dict.fromkeys(names, wrong)) == User("bob")


@pytest.mark.parametrize("gender", [0, 1, 2])
def test_each_gender_that_wechat_knows_is_taken(gender):
    assert User.from_wechat(BOB, {"gender": gender}).gender == gender


@pytest.mark.parametrize("wrong", [None, "1", "", 0.5, 1.0, [], [1], {}, True, False, -1, 3, 2**63])
def test_a_gender_that_wechat_does_not_know_is_ignored(wrong):
    assert User.from_wechat(BOB, {"gender": wrong}).gender is None


# Sessions and results


def test_a_session_tells_whose_it_is():
    session = Session(REF, issued_at=1_000, expires_at=1_500)
    assert (session.user_id, session.sku, session.id) == ("bob", "shop", REF.nonce)
    assert REF.subject == Subject("shop", "bob")


def test_what_a_session_replaced_makes_it_no_other():
    session = Session(REF, issued_at=1_000, expires_at=1_500)
    assert session == dataclasses.replace(session, replaced=(REF,))
    assert session != dataclasses.replace(session, ref=REF._replace(generation=1))


def test_a_result_becomes_just_the_three_keys_that_mpauthxs_clients_know():
    for success in (1, StatusCode.success):
        result = AuthResult(success, "OK", TOKEN, User("bob", **PROFILE), SESSION, is_new_user=True)
        answer = f'{{"status_code": 1, "status_message": "OK", "response": "{TOKEN}"}}'
        assert json.dumps(result.to_dict()) == answer


def test_a_user_of_a_result_is_not_new_by_default():
    assert AuthResult(1, "OK", TOKEN, User("bob"), SESSION).is_new_user is False


def test_the_token_of_a_result_is_its_response():
    assert AuthResult(1, "OK", TOKEN, User("bob"), SESSION).token == TOKEN


def test_the_repr_of_a_result_holds_no_token():
    text = repr(AuthResult(1, "OK", TOKEN, User("bob"), SESSION))
    assert "status_code=1" in text
    assert TOKEN not in text
    assert TOKEN.rpartition("|")[2] not in text


def test_the_repr_of_a_code_session_holds_no_session_key():
    session = CodeSession("bob", SESSION_KEY, "union-bob")
    for text in (repr(session), str(session)):
        assert "union-bob" in text
        assert SESSION_KEY.rstrip("=") not in text


@pytest.mark.parametrize(
    "value",
    [BOB, User("bob"), SESSION, NewSession(REF, 1), AuthResult(1, "", "", User("b"), SESSION)],
    ids=lambda value: type(value).__name__,
)
def test_values_are_frozen_and_take_no_other_attributes(value):
    field = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, field, None)
    with pytest.raises((AttributeError, TypeError)):
        value.unheard_of = 1


# Status codes and errors


def test_the_status_codes_are_those_of_mpauthx_and_new_ones_start_at_6100():
    old = {
        "success": 1,
        "database_related_error": 6000,
        "required_params_missing_error": 6001,
        "http_error": 6002,
        "response_is_null": 6003,
        "json_parsed_error": 6004,
        "http_response_error_event": 6005,
        "http_request_error_event": 6006,
        "internet_connection_error": 6006,
        "invalid_access_token": 6007,
        "session_key_and_open_id_request_error": 6008,
        "open_id_or_union_id_not_match": 6009,
        "user_not_exist_in_db": 6010,
        "user_info_decryption_error": 6011,
        "unknown_error": 9999,
    }
    codes = {name: int(code) for name, code in StatusCode.__members__.items()}
    assert {name: code for name, code in codes.items() if not 6100 <= code < 9999} == old
    assert MPAuthX.constants is StatusCode


ERRORS = [getattr(errors, name) for name in errors.__all__]


BRANCHES = (RefusedError, UnavailableError, OperatorError)


@pytest.mark.parametrize(
    "error", [one for one in ERRORS if one not in (MPAuthXError, WeChatAPIError)]
)
def test_each_error_is_of_one_branch(error):
    assert sum(issubclass(error, branch) for branch in BRANCHES) == 1
    assert error.http_status in (400, 401, 403, 404, 429, 502, 503)
    assert not (error.retryable and issubclass(error, (RefusedError, OperatorError)))
    assert (error.http_status < 500) == issubclass(error, RefusedError)


def test_every_error_is_public_and_no_other():
    public = {getattr(mpauthx_async, name) for name in mpauthx_async.__all__}
    classes = {value for value in public if isinstance(value, type)}
    assert {one for one in classes if issubclass(one, Exception)} == set(ERRORS)


def test_an_error_tells_what_it_knows():
    assert str(HTTPStatusError("It answered 502.", 502)) == "It answered 502."
    assert HTTPStatusError("It answered 502.", 502).status == 502
    assert ConnectionFailedError("No connection.", sent=False).sent is False
    partial = PartialStoreError([1, StoreError("It is damaged."), None])
    assert partial.answers[::2] == [1, None]
    told = "The store could not answer for 1 of 3 items; see `answers`. It is damaged."
    assert str(partial) == told
    revoked = InvalidTokenError("Log in again.", TokenStatus.revoked)
    error = WeChatAPIError(40029, "invalid code", rid="6129ee10", hint="Log in again.")
    assert (error.errcode, error.errmsg) == (40029, "invalid code")
    assert (error.rid, error.hint) == ("6129ee10", "Log in again.")
    told = "WeChat answered errcode 40029, 'invalid code' (rid 6129ee10): Log in again."
    assert str(error) == told
    assert str(BannedError("bob", "spam", None)) == "This user is banned permanently: spam"
    told = "This user is banned until 1970-01-01 00:00:01 UTC: no reason was given"
    assert str(BannedError("bob", "", 1_500)) == told
    assert (str(revoked), revoked.status) == ("Log in again.", TokenStatus.revoked)
    assert str(WeChatAPIError(99999, "oh")) == "WeChat answered errcode 99999, 'oh'"


@pytest.mark.parametrize(
    "error",
    [
        StoreError("down"),
        HTTPStatusError("It answered 502.", 502),
        ConnectionFailedError("No connection.", sent=False),
        WeChatAPIError(40029, "invalid code", rid="6129ee10", hint="Log in again."),
        InvalidTokenError("Log in again.", TokenStatus.revoked),
        BannedError("bob", "spam", 1_500),
    ],
)
def test_an_error_comes_through_a_pickle_with_all_it_knows(error):
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


# Names


def test_every_public_name_resolves_and_stands_once():
    for name in mpauthx_async.__all__:
        assert hasattr(mpauthx_async, name), name
    assert len(set(mpauthx_async.__all__)) == len(mpauthx_async.__all__)
