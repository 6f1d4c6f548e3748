"""Sealing session keys: a sealed key opens for its own session, openId and app, and no other."""

import base64
import hashlib
import secrets
import string
from typing import Any

import pytest
from Crypto.Cipher import AES
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mpauthx_async.tokens.format import new_nonce
from mpauthx_async.tokens.sealing import SessionKeySealer, split_open_id, with_open_id

APP_ID = "wx4f4bc4dec97d474b"
SECRET = "5e4c2e7d00c0ffee5e4c2e7d00c0ffee"
SEALER = SessionKeySealer(app_id=APP_ID, keys=[SECRET])
NONCE, OTHER_NONCE = "AAECAwQFBgcICQoL", "AAECAwQFBgcICQoM"
OPEN_ID = "oGZUI0egBJY1zhBYw2KhdUfwVJJE"
KEY = "tiihtNczf5v6AKRyjwEUhQ=="
ALPHABET = string.ascii_letters + string.digits + "-_"

# Of KEY, NONCE and OPEN_ID. The second one's IV is F0 F1 … FB.
FIRST = "8osCzZAvUQMS0wG3IfdRj9y1wWOug0LNZWJ4wrnpkvk"
REPLACEMENT = "8PHy8_T19vf4-fr7GeStqApU7wr5vuntLtdDM8IeUXNVlymV-jBSbFEBdT0"
BOTH = pytest.mark.parametrize("sealed_key", [FIRST, REPLACEMENT], ids=["first", "replacement"])

nonces = st.binary(min_size=12, max_size=12).map(lambda raw: base64.urlsafe_b64encode(raw).decode())
session_keys = st.binary(min_size=16, max_size=16).map(lambda raw: base64.b64encode(raw).decode())
open_ids = st.text(st.characters(exclude_characters="|"), min_size=1, max_size=128)


def seal(
    key: str = KEY, nonce: str = NONCE, open_id: str = OPEN_ID, sealer: SessionKeySealer = SEALER
) -> str:
    (sealed_key,) = sealer.seal([(nonce, open_id, key)])
    assert sealed_key is not None
    return sealed_key


def reseal(
    key: str = KEY, nonce: str = NONCE, open_id: str = OPEN_ID, sealer: SessionKeySealer = SEALER
) -> str:
    sealed_key = sealer.reseal(nonce, open_id, key)
    assert sealed_key is not None
    return sealed_key


def opened(
    sealed_key: str, nonce: str = NONCE, open_id: str = OPEN_ID, sealer: SessionKeySealer = SEALER
) -> str | None:
    (session_key,) = sealer.open([(nonce, open_id, sealed_key)])
    return session_key


def raw(sealed_key: str) -> bytes:
    return base64.urlsafe_b64decode(sealed_key + "=")


def text(record: bytes) -> str:
    return base64.urlsafe_b64encode(record).decode().rstrip("=")


def by_hand(session_key: str, nonce: str, open_id: str, iv: bytes | None = None) -> bytes:
    """What the construction gives, one record at a time, from hashlib and one block of AES."""
    secret = hashlib.blake2b(SECRET.encode()).digest()
    encryption_key, mac_key = (
        hashlib.blake2b(APP_ID.encode(), key=secret, person=purpose).digest()
        for purpose in (b"mpauthx key enc", b"mpauthx key mac")
    )
    session = base64.urlsafe_b64decode(nonce)
    block = session + b"\0\0\0\1" if iv is None else iv + b"\0\0\0\2"
    keystream = AES.new(encryption_key[:32], AES.MODE_ECB).encrypt(block)
    plain = base64.b64decode(session_key)
    ciphertext = bytes(left ^ right for left, right in zip(plain, keystream, strict=True))
    tag = hashlib.blake2b(key=mac_key, digest_size=16)
    for field in (b"\1", block, session, ciphertext, open_id.encode(errors="surrogatepass")):
        tag.update(field)
    return (iv or b"") + ciphertext + tag.digest()


# The construction


def test_the_test_vectors_hold() -> None:
    assert seal() == FIRST == text(by_hand(KEY, NONCE, OPEN_ID))
    assert text(by_hand(KEY, NONCE, OPEN_ID, bytes(range(0xF0, 0xFC)))) == REPLACEMENT
    assert [opened(FIRST), opened(REPLACEMENT)] == [KEY, KEY]


@given(session_keys, nonces, open_ids)
@example("A" * 22 + "==", "A" * 16, "a")
@example("/" * 21 + "w==", "_" * 16, "微" * 128)
def test_a_first_key_is_encrypted_under_the_nonce_and_authenticated(
    session_key: str, nonce: str, open_id: str
) -> None:
    sealed_key = seal(session_key, nonce, open_id)
    assert len(sealed_key) == 43
    assert raw(sealed_key) == by_hand(session_key, nonce, open_id)
    assert opened(sealed_key, nonce, open_id) == session_key


@given(session_keys, nonces, open_ids)
@example("A" * 22 + "==", "A" * 16, "a")
@example("/" * 21 + "w==", "_" * 16, "微" * 128)
def test_a_replacement_has_a_random_iv_in_front(session_key: str, nonce: str, open_id: str) -> None:
    sealed_key = reseal(session_key, nonce, open_id)
    assert len(sealed_key) == 59
    assert raw(sealed_key) == by_hand(session_key, nonce, open_id, raw(sealed_key)[:12])
    assert opened(sealed_key, nonce, open_id) == session_key


def test_a_key_is_sealed_differently_in_each_session_and_each_time_it_is_replaced() -> None:
    items = [(new_nonce(), OPEN_ID, KEY) for _ in range(500)]
    ciphertexts = [raw(sealed_key or "")[:16] for sealed_key in SEALER.seal(items)]
    ciphertexts += [raw(reseal())[12:28] for _ in range(50)]
    assert len(set(ciphertexts)) == 550


def test_an_iv_equal_to_the_nonce_gives_another_keystream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(secrets, "token_bytes", lambda size: raw(NONCE + "==="))
    first, replacement = raw(seal()), raw(reseal())
    assert replacement[:12] == base64.urlsafe_b64decode(NONCE)
    assert replacement[12:28] != first[:16]
    assert opened(text(replacement)) == KEY
    # Nor is either accepted as the other kind.
    assert opened(text(replacement[:12] + first)) is None
    assert opened(text(replacement[12:])) is None


# Batches


@pytest.mark.parametrize("size", [*range(20), 255, 256, 257, 1000])
def test_batches_of_every_size_are_sealed_and_opened(size: int) -> None:
    items = [
        (nonce, f"user-{place}", base64.b64encode(secrets.token_bytes(16)).decode())
        for place, nonce in enumerate(new_nonce() for _ in range(size))
    ]
    sealed_keys = SEALER.seal(items)
    assert [raw(each or "") for each in sealed_keys] == [
        by_hand(session_key, nonce, open_id) for nonce, open_id, session_key in items
    ]
    stored = [(*item[:2], sealed or "") for item, sealed in zip(items, sealed_keys, strict=True)]
    assert SEALER.open(stored) == [session_key for _, _, session_key in items]


@given(st.lists(st.tuples(nonces, open_ids, session_keys | st.just("malformed"))))
def test_malformed_keys_do_not_shift_others_of_a_batch(items: list[tuple[str, str, str]]) -> None:
    sealed_keys = SEALER.seal(items)
    expected = [None if key == "malformed" else key for _, _, key in items]
    assert [sealed is None for sealed in sealed_keys] == [key is None for key in expected]
    stored = [(*item[:2], sealed or "") for item, sealed in zip(items, sealed_keys, strict=True)]
    assert SEALER.open(stored) == expected


@given(st.lists(st.tuples(session_keys, st.sampled_from(["old", "new", "foreign", "damaged"]))))
def test_a_batch_may_mix_keys_old_and_new_and_bad_ones(kinds: list[tuple[str, str]]) -> None:
    sealers = {name: SessionKeySealer(app_id=APP_ID, keys=[name * 8]) for name in ("old", "new")}
    sealers["foreign"] = SessionKeySealer(app_id="wx0", keys=["new" * 8])
    both = SessionKeySealer(app_id=APP_ID, keys=["old" * 8, "new" * 8])
    items = []
    for place, (session_key, kind) in enumerate(kinds):
        make, nonce, sealer = (seal, reseal)[place % 2], new_nonce(), sealers.get(kind)
        sealed_key = make(session_key, nonce, sealer=sealer) if sealer else "damaged"
        items.append((nonce, OPEN_ID, sealed_key))
    assert both.open(items) == [
        session_key if kind in ("old", "new") else None for session_key, kind in kinds
    ]


# What does not open


@BOTH
def test_no_changed_character_opens(sealed_key: str) -> None:
    # The last one stands for two or four bits that the bytes do not hold.
    changed = {
        sealed_key[:place] + character + sealed_key[place + 1 :]
        for place in range(len(sealed_key))
        for character in ALPHABET + "+/=|é\n"
    }
    good = [each for each in changed if opened(each) is not None]
    assert good == [sealed_key]


@BOTH
def test_no_inserted_or_missing_character_opens(sealed_key: str) -> None:
    for place in range(len(sealed_key) + 1):
        before, behind = sealed_key[:place], sealed_key[place:]
        assert behind == "" or opened(before + behind[1:]) is None
        for inserted in (*"A=\n\r\t !+/é\0\ud800|", "=="):
            assert opened(before + inserted + behind) is None


@pytest.mark.parametrize("make", [seal, reseal])
def test_another_session_open_id_app_or_key_opens_nothing(make: Any) -> None:
    sealed_key = make()
    assert opened(sealed_key) == KEY
    assert opened(sealed_key, nonce=OTHER_NONCE) is None
    for open_id in ("", "eve", OPEN_ID[:-1], OPEN_ID + "A", OPEN_ID.swapcase(), "\ud800"):
        assert opened(sealed_key, open_id=open_id) is None
    assert opened(sealed_key, sealer=SessionKeySealer(app_id="wx0", keys=[SECRET])) is None
    assert opened(sealed_key, sealer=SessionKeySealer(app_id=APP_ID, keys=["x" * 16])) is None


@given(st.tuples(nonces, open_ids), st.tuples(nonces, open_ids))
def test_a_record_opens_for_its_own_nonce_and_open_id_alone(
    own: tuple[str, str], other: tuple[str, str]
) -> None:
    for make in (seal, reseal):
        assert (opened(make(KEY, *own), *other) == KEY) is (own == other)


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
    assert opened(text) is None
    assert opened(FIRST, open_id=text) is None


# Keys, and what is sealed


def test_old_keys_open_and_the_newest_seals() -> None:
    old, new = "an-old-key-of-ours", "a-new-key-of-ours!"
    before = SessionKeySealer(app_id=APP_ID, keys=[old])
    between = SessionKeySealer(app_id=APP_ID, keys=[old, new])
    after = SessionKeySealer(app_id=APP_ID, keys=[new])
    for make in (seal, reseal):
        assert opened(make(sealer=before), sealer=between) == KEY
        assert opened(make(sealer=before), sealer=after) is None
        assert opened(make(sealer=between), sealer=after) == KEY
        assert opened(make(sealer=between), sealer=before) is None


@pytest.mark.parametrize(
    "session_key",
    [
        *("", KEY[:-1], KEY[:-2], KEY + "=", KEY + "\n", " " + KEY, KEY[:5] + "!" + KEY[5:]),
        KEY[:-3] + "R==",  # the same 16 bytes in another spelling
        *(KEY.replace("t", "_"), "A" * 20 + "==", "A" * 24, "é" * 24, "\ud800", "\0"),
        *(base64.b64encode(bytes(size)).decode() for size in (15, 17, 32)),
    ],
)
def test_a_malformed_session_key_is_not_sealed(session_key: str) -> None:
    assert SEALER.reseal(NONCE, OPEN_ID, session_key) is None
    assert SEALER.seal([(NONCE, OPEN_ID, session_key)]) == [None]


@given(st.text())
@settings(max_examples=300)
def test_any_text_is_sealed_and_opens_or_is_not_sealed(session_key: str) -> None:
    (sealed_key,) = SEALER.seal([(NONCE, OPEN_ID, session_key)])
    assert sealed_key is None or opened(sealed_key) == session_key


@pytest.mark.parametrize(("open_id", "stored"), [("bob", "sealed"), ("o-bob", "sealed|o-bob")])
def test_the_open_id_follows_unless_it_is_the_user_id(open_id: str, stored: str) -> None:
    assert with_open_id("sealed", open_id, "bob") == stored
    assert split_open_id(stored, "bob") == (open_id, "sealed")


def test_neither_the_sealer_nor_what_it_seals_tells_a_secret() -> None:
    for told in (repr(SEALER), repr(vars(SEALER)), seal(), reseal()):
        assert SECRET not in told
        assert KEY not in told
        assert "b'" not in told
