"""Sealing session keys for the store: each opens for its own session, and for no other."""

import base64
import string
from typing import Any

import pytest
from Crypto.Cipher import AES
from hypothesis import example, given
from hypothesis import strategies as st

from mpauthx_async import ConfigurationError
from mpauthx_async.session_keys import SessionKeySealer, with_open_id
from mpauthx_async.tokens import derived_keys, new_nonce

APP_ID = "wx4f4bc4dec97d474b"
SECRET = "5e4c2e7d00c0ffee5e4c2e7d00c0ffee"
SEALER = SessionKeySealer(app_id=APP_ID, keys=[SECRET])
NONCE, OTHER_NONCE = "A" * 22, "A" * 21 + "Q"
KEY = "tiihtNczf5v6AKRyjwEUhQ=="
ALPHABET = string.ascii_letters + string.digits + "-_"

sixteen_bytes = st.binary(min_size=16, max_size=16)
nonces = sixteen_bytes.map(lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("="))
session_keys = sixteen_bytes.map(lambda raw: base64.b64encode(raw).decode())


def seal(session_key: str = KEY, nonce: str = NONCE, sealer: SessionKeySealer = SEALER) -> str:
    (sealed_key,) = sealer.seal([(nonce, session_key)])
    assert sealed_key is not None
    return sealed_key


def by_pycryptodome(session_key: str, nonce: str, iv: bytes) -> bytes:
    """What AES-256-GCM gives, encrypted bytes and tag."""
    (key,) = derived_keys(b"mpauthx sealing", APP_ID, [SECRET])
    cipher = AES.new(key[:32], AES.MODE_GCM, nonce=iv)
    cipher.update(base64.urlsafe_b64decode(nonce + "=="))
    return b"".join(cipher.encrypt_and_digest(base64.b64decode(session_key)))


@given(session_keys, nonces)
@example("A" * 22 + "==", "A" * 22)
@example("/" * 21 + "w==", "_" * 21 + "w")
def test_it_seals_by_aes_gcm_with_the_nonce_authenticated(session_key: str, nonce: str) -> None:
    record = base64.urlsafe_b64decode(seal(session_key, nonce) + "=")
    assert record[12:] == by_pycryptodome(session_key, nonce, record[:12])


@given(session_keys, nonces)
def test_what_was_sealed_opens(session_key: str, nonce: str) -> None:
    assert SEALER.open(nonce, seal(session_key, nonce)) == session_key


@given(st.lists(st.tuples(nonces, session_keys | st.just("none"))))
def test_a_batch_is_sealed_one_by_one_and_in_order(items: list[tuple[str, str]]) -> None:
    sealed_keys = SEALER.seal(items)
    assert [
        sealed and SEALER.open(items[i][0], sealed) for i, sealed in enumerate(sealed_keys)
    ] == [None if key == "none" else key for _, key in items]


def test_a_batch_may_be_empty_or_large() -> None:
    assert SEALER.seal([]) == []
    items = [(new_nonce(), base64.b64encode(bytes([n]) * 16).decode()) for n in range(250)] * 2
    for (nonce, key), sealed in zip(items, SEALER.seal(items), strict=True):
        assert SEALER.open(nonce, sealed or "") == key


def test_a_key_is_never_sealed_the_same_way_twice() -> None:
    assert len(set(SEALER.seal([(NONCE, KEY)] * 500))) == 500


@given(st.integers(0, 58), st.sampled_from(ALPHABET))
@example(58, "A")
def test_a_changed_character_opens_nothing(place: int, character: str) -> None:
    sealed_key = seal()
    changed = sealed_key[:place] + character + sealed_key[place + 1 :]
    assert SEALER.open(NONCE, changed) == (KEY if changed == sealed_key else None)


def test_no_last_character_but_the_right_one_opens() -> None:
    sealed_key = seal()  # its last character stands for two bits that nothing else would check
    opened = [last for last in ALPHABET if SEALER.open(NONCE, sealed_key[:-1] + last)]
    assert opened == [sealed_key[-1]]


@given(st.integers(0, 59), st.sampled_from("=\n\r\t !+/é\0\ud800|"))
def test_an_inserted_character_opens_nothing(place: int, character: str) -> None:
    sealed_key = seal()
    assert SEALER.open(NONCE, sealed_key[:place] + character + sealed_key[place:]) is None


def test_the_standard_alphabet_opens_nothing() -> None:
    sealed_key = next(key for key in iter(seal, "") if "-" in key)
    assert SEALER.open(NONCE, sealed_key.replace("-", "+")) is None


@given(st.text() | st.text(ALPHABET, min_size=58, max_size=60) | st.text("=-_A"))
@example("")
@example("é" * 59)
@example("\ud800" * 59)
@example("A" * 59)
@example("A" * 1_000_000)
def test_any_other_text_opens_nothing_and_raises_nothing(text: str) -> None:
    assert SEALER.open(NONCE, text) is None


def test_another_session_app_or_key_opens_nothing() -> None:
    sealed_key = seal()
    assert SEALER.open(OTHER_NONCE, sealed_key) is None
    assert SessionKeySealer(app_id="wx0", keys=[SECRET]).open(NONCE, sealed_key) is None
    assert SessionKeySealer(app_id=APP_ID, keys=["x" * 16]).open(NONCE, sealed_key) is None


def test_keys_of_old_open_and_the_newest_seals() -> None:
    old, new = "an-old-key-of-ours", "a-new-key-of-ours!"
    before = SessionKeySealer(app_id=APP_ID, keys=[old])
    between = SessionKeySealer(app_id=APP_ID, keys=[old, new])
    after = SessionKeySealer(app_id=APP_ID, keys=[new])
    assert between.open(NONCE, seal(sealer=before)) == KEY
    assert after.open(NONCE, seal(sealer=before)) is None
    assert after.open(NONCE, seal(sealer=between)) == KEY
    assert before.open(NONCE, seal(sealer=between)) is None


@pytest.mark.parametrize(
    "session_key",
    [
        "",
        KEY[:-1],
        KEY[:-2],
        KEY + "=",
        KEY + "\n",
        " " + KEY,
        KEY[:5] + "!" + KEY[5:],
        KEY[:-3] + "R==",  # the same 16 bytes in another spelling
        KEY.replace("t", "_"),
        "A" * 20 + "==",
        "A" * 24,
        base64.b64encode(bytes(15)).decode(),
        base64.b64encode(bytes(17)).decode(),
        base64.b64encode(bytes(32)).decode(),
        "é" * 24,
        "\ud800",
        "\0",
    ],
)
def test_what_is_no_session_key_is_not_sealed(session_key: str) -> None:
    first, second = (NONCE, KEY), (OTHER_NONCE, KEY)
    sealed = SEALER.seal([first, (NONCE, session_key), second])
    assert sealed[1] is None
    assert [SEALER.open(NONCE, sealed[0] or ""), SEALER.open(OTHER_NONCE, sealed[2] or "")] == [
        KEY,
        KEY,
    ]


@given(st.text())
def test_any_text_is_sealed_and_opens_or_is_not_sealed(session_key: str) -> None:
    (sealed_key,) = SEALER.seal([(NONCE, session_key)])
    assert sealed_key is None or SEALER.open(NONCE, sealed_key) == session_key


@pytest.mark.parametrize("keys", [[], ["short"], "a text instead of a list"])
def test_keys_that_cannot_work_are_refused(keys: Any) -> None:
    with pytest.raises(ConfigurationError):
        SessionKeySealer(app_id=APP_ID, keys=keys)


def test_an_open_id_stands_along_where_it_is_not_the_users_id() -> None:
    assert with_open_id("sealed", "bob", "bob") == "sealed"
    assert with_open_id("sealed", "bob", "union-bob") == "sealed|bob"


def test_neither_the_sealer_nor_what_it_seals_tells_a_secret() -> None:
    for text in (repr(SEALER), seal()):
        assert SECRET not in text
        assert KEY not in text
