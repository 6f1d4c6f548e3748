"""RecordSealer: a text opens for its own record, purpose and app, and for no other."""

import base64

from Crypto.Cipher import AES
from hypothesis import example, given
from hypothesis import strategies as st

from mpauthx_async.tokens.keys import derived_keys
from mpauthx_async.tokens.sealing import RecordSealer

APP_ID = "wx4f4bc4dec97d474b"
SECRET = "5e4c2e7d00c0ffee5e4c2e7d00c0ffee"
PURPOSE = b"mpauthx oauth"
RECORD = f"oauth_token|{APP_ID}|alice"
SEALER = RecordSealer(PURPOSE, app_id=APP_ID, keys=[SECRET])

# Of "a text" under the nonce 00 01 … 0B.
VECTOR = "AAECAwQFBgcICQoLGsQp6lmNTFNCLK5JBWbdUCi5WEjX4w"


def sealer(*keys: str, purpose: bytes = PURPOSE, app_id: str = APP_ID) -> RecordSealer:
    return RecordSealer(purpose, app_id=app_id, keys=keys or (SECRET,))


def raw(sealed: str) -> bytes:
    return base64.urlsafe_b64decode(sealed + "=" * (-len(sealed) % 4))


def test_the_test_vector_opens() -> None:
    assert SEALER.open(RECORD, VECTOR) == "a text"


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text())
@example("", "")
@example("x" * 100_000, "é|\ud800")
def test_it_is_aes_gcm_with_the_records_key_as_associated_data(text: str, record_key: str) -> None:
    sealed = raw(SEALER.seal(record_key, text))
    (key,) = derived_keys(PURPOSE, APP_ID, [SECRET])
    cipher = AES.new(key[:32], AES.MODE_GCM, nonce=sealed[:12])
    cipher.update(record_key.encode(errors="surrogatepass"))
    assert cipher.decrypt_and_verify(sealed[12:-16], sealed[-16:]) == text.encode()
    assert SEALER.open(record_key, SEALER.seal(record_key, text)) == text


def test_a_text_is_sealed_differently_each_time() -> None:
    assert len({SEALER.seal(RECORD, "a text") for _ in range(100)}) == 100


def test_another_record_purpose_app_or_key_opens_nothing() -> None:
    for record_key in ("", RECORD + "x", RECORD.replace("alice", "bob"), "\ud800"):
        assert SEALER.open(record_key, VECTOR) is None
    assert sealer(purpose=b"mpauthx access").open(RECORD, VECTOR) is None
    assert sealer(app_id="wx0").open(RECORD, VECTOR) is None
    assert sealer("x" * 16).open(RECORD, VECTOR) is None


def test_old_keys_open_and_the_newest_seals() -> None:
    old, new = "an-old-key-of-ours", "a-new-key-of-ours!"
    sealed = sealer(old).seal(RECORD, "a text")
    assert sealer(old, new).open(RECORD, sealed) == "a text"
    assert sealer(new).open(RECORD, sealed) is None
    assert sealer(new).open(RECORD, sealer(old, new).seal(RECORD, "a text")) == "a text"


def test_no_flipped_bit_opens() -> None:
    record = raw(VECTOR)
    for bit in range(8 * len(record)):
        changed = (int.from_bytes(record) ^ 1 << bit).to_bytes(len(record))
        sealed = base64.urlsafe_b64encode(changed).decode().rstrip("=")
        assert SEALER.open(RECORD, sealed) is None


@given(st.text() | st.text("AB-_=+/"))
@example("")
@example("A" * 37)  # 27 bytes: less than a nonce and a tag
@example("A" * 38)
@example(VECTOR + "=")
@example(VECTOR + "\n")
@example(VECTOR[:-1])
@example(VECTOR[:-1] + "5")  # the same bytes in another spelling
@example("\ud800" * 50)
def test_any_other_text_opens_nothing_and_raises_nothing(text: str) -> None:
    assert SEALER.open(RECORD, text) is None


def test_repr_and_attributes_hold_no_secret() -> None:
    assert SECRET not in repr(SEALER)
    assert "b'" not in repr(SEALER)
    assert not hasattr(SEALER, "__dict__")
