"""Sealing session keys for the store: each opens for its own session, and for no other."""

import asyncio
import base64
import string
from collections.abc import Sequence
from typing import Any

import pytest
from Crypto.Cipher import AES
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mpauthx_async import ConfigurationError, InvalidResponseError, SessionRef
from mpauthx_async.session_keys import SessionKeySealer, with_open_id
from mpauthx_async.tokens import derived_keys, new_nonce, new_nonces

APP_ID = "wx4f4bc4dec97d474b"
SECRET = "5e4c2e7d00c0ffee5e4c2e7d00c0ffee"
SEALER = SessionKeySealer(app_id=APP_ID, keys=[SECRET])
NONCE, OTHER_NONCE = "A" * 16, "A" * 15 + "B"
KEY = "tiihtNczf5v6AKRyjwEUhQ=="
ALPHABET = string.ascii_letters + string.digits + "-_"

sixteen_bytes = st.binary(min_size=16, max_size=16)
nonces = st.binary(min_size=12, max_size=12).map(lambda raw: base64.urlsafe_b64encode(raw).decode())
session_keys = sixteen_bytes.map(lambda raw: base64.b64encode(raw).decode())


def seal(session_key: str = KEY, nonce: str = NONCE, sealer: SessionKeySealer = SEALER) -> str:
    (sealed_key,) = sealer.seal([(nonce, session_key)])
    assert sealed_key is not None
    return sealed_key


class OneKey:
    """A SessionKeyStore of one session that is alive, which keeps what it is given."""

    sealed_key: str | None = None

    async def sealed_keys(self, refs: Sequence[SessionRef]) -> Sequence[str | None]:
        return [self.sealed_key for _ in refs]

    async def replace_sealed_key(self, ref: SessionRef, sealed_key: str) -> bool:
        self.sealed_key = sealed_key
        return True


def replaced(session_key: str = KEY, nonce: str = NONCE, open_id: str = "bob") -> str:
    """What is stored in the place of an earlier session key of bob's."""
    store = OneKey()
    ref = SessionRef("shop", "bob", nonce)
    assert asyncio.run(SEALER.replace(store, ref, session_key, open_id))
    assert store.sealed_key is not None
    return store.sealed_key


def by_pycryptodome(session_key: str, nonce: str, iv: bytes) -> bytes:
    """What AES-256-GCM gives, encrypted bytes and tag."""
    (key,) = derived_keys(b"mpauthx sealing", APP_ID, [SECRET])
    cipher = AES.new(key[:32], AES.MODE_GCM, nonce=iv)
    cipher.update(base64.urlsafe_b64decode(nonce))
    return b"".join(cipher.encrypt_and_digest(base64.b64decode(session_key)))


@given(session_keys, nonces)
@example("A" * 22 + "==", "A" * 16)
@example("/" * 21 + "w==", "_" * 16)
def test_it_seals_by_aes_gcm_under_the_nonce_which_is_authenticated(
    session_key: str, nonce: str
) -> None:
    record = base64.urlsafe_b64decode(seal(session_key, nonce) + "=")
    assert record == by_pycryptodome(session_key, nonce, base64.urlsafe_b64decode(nonce))


@given(session_keys, nonces)
@example("A" * 22 + "==", "A" * 16)
@example("/" * 21 + "w==", "_" * 16)
@settings(deadline=None)
def test_a_key_in_the_place_of_another_has_an_iv_of_its_own_in_front(
    session_key: str, nonce: str
) -> None:
    record = base64.urlsafe_b64decode(replaced(session_key, nonce) + "=")
    assert len(record) == 12 + 16 + 16
    assert record[:12] != base64.urlsafe_b64decode(nonce)
    assert record[12:] == by_pycryptodome(session_key, nonce, record[:12])
    assert SEALER.open(nonce, replaced(session_key, nonce)) == session_key


def test_a_sealed_key_is_of_43_characters_or_59_with_an_iv_of_its_own() -> None:
    assert len(seal()) == 43
    assert len(replaced()) == 59
    assert replaced(open_id="o-bob")[59:] == "|o-bob"


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


def test_a_key_is_sealed_differently_in_each_session_and_each_time_it_is_replaced() -> None:
    nonces = new_nonces(500)
    assert len(set(SEALER.seal([(nonce, KEY) for nonce in nonces]))) == 500
    assert len({replaced() for _ in range(50)}) == 50


@pytest.mark.parametrize("sealed_key", [seal(), replaced()], ids=["sealed", "replaced"])
def test_a_changed_character_opens_nothing(sealed_key: str) -> None:
    for place in range(len(sealed_key)):
        for character in ALPHABET:
            changed = sealed_key[:place] + character + sealed_key[place + 1 :]
            assert SEALER.open(NONCE, changed) == (KEY if changed == sealed_key else None)


@pytest.mark.parametrize("sealed_key", [seal(), replaced()], ids=["sealed", "replaced"])
def test_no_last_character_but_the_right_one_opens(sealed_key: str) -> None:
    # It stands for two bits that nothing else would check.
    opened = [last for last in ALPHABET if SEALER.open(NONCE, sealed_key[:-1] + last)]
    assert opened == [sealed_key[-1]]


@pytest.mark.parametrize("sealed_key", [seal(), replaced()], ids=["sealed", "replaced"])
def test_an_inserted_or_missing_character_opens_nothing(sealed_key: str) -> None:
    for place in range(len(sealed_key) + 1):
        before, behind = sealed_key[:place], sealed_key[place:]
        assert behind == "" or SEALER.open(NONCE, before + behind[1:]) is None
        for character in "A=\n\r\t !+/é\0\ud800|":
            assert SEALER.open(NONCE, before + character + behind) is None


def test_a_sealed_key_with_its_nonce_or_another_iv_in_front_opens_nothing() -> None:
    record = base64.urlsafe_b64decode(seal(nonce=OTHER_NONCE) + "=")
    for iv in (bytes(12), base64.urlsafe_b64decode(OTHER_NONCE)):
        moved = base64.urlsafe_b64encode(iv + record).decode().rstrip("=")
        assert SEALER.open(NONCE, moved) is None


def test_a_replaced_key_opens_nothing_without_its_iv_nor_in_another_session() -> None:
    sealed_key = replaced()
    assert SEALER.open(NONCE, sealed_key) == KEY
    assert SEALER.open(NONCE, sealed_key[16:]) is None
    assert SEALER.open(OTHER_NONCE, sealed_key) is None


def test_the_standard_alphabet_opens_nothing() -> None:
    nonce = next(nonce for nonce in iter(new_nonce, "") if "-" in seal(nonce=nonce))
    assert SEALER.open(nonce, seal(nonce=nonce)) == KEY
    assert SEALER.open(nonce, seal(nonce=nonce).replace("-", "+")) is None


@given(
    st.text()
    | st.text(ALPHABET, min_size=42, max_size=44)
    | st.text(ALPHABET, min_size=58, max_size=60)
    | st.text("=-_A")
)
@example("")
@example("é" * 43)
@example("é" * 59)
@example("\ud800" * 43)
@example("\ud800" * 59)
@example("A" * 43)
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
    with pytest.raises(InvalidResponseError):
        replaced(session_key)
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
