"""What the token's form promises: only what this app and this sku minted ever verifies."""

import base64
import re
from collections.abc import Callable
from functools import reduce
from operator import and_, or_

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from mpauthx_async import ConfigurationError, ParameterError, SessionRef, WeChatSimulator
from mpauthx_async.tokens.format import TokenSigner, new_nonce, parse_token

APP_ID = "wx4f4bc4dec97d474b"
KEY = "an old key of the app"
NEWER_KEY = "the newer key of the app"
OPEN_ID = "oGZUI0egBJY1zhBYw2KhdUfwVJJE"
BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
LONE_SURROGATE = "\ud800"

ANY_TEXT = st.text(st.characters(exclude_categories=()))
PRINTABLE = st.characters(exclude_categories=("Cs", "Cc", "Z"), exclude_characters="|")
USER_IDS = st.text(PRINTABLE, min_size=1, max_size=128)
SKUS = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
NONCES = st.binary(min_size=12, max_size=12).map(lambda raw: base64.urlsafe_b64encode(raw).decode())
GENERATIONS = st.integers(0, 2**32 - 1)


def signer(app_id: str = APP_ID, sku: str = "shop", keys: tuple[str | bytes, ...] = (KEY,)):
    return TokenSigner(app_id=app_id, sku=sku, keys=keys)


def decoded_session(token: str) -> bytes:
    return base64.urlsafe_b64decode(token.rpartition("|")[2] + "=")


# What was minted verifies


@given(USER_IDS, SKUS, NONCES, GENERATIONS)
@example(OPEN_ID, "shop", "_" * 16, 2**32 - 1)
def test_a_minted_token_verifies_and_gives_back_its_session(user_id, sku, nonce, generation):
    token = signer(sku=sku).mint(user_id, nonce, generation)
    assert signer(sku=sku).verify(token) == SessionRef(sku, user_id, nonce, generation)
    assert parse_token(token) == (user_id, sku, token[-43:])


@pytest.mark.parametrize("generation", [0, 1, 258, 2**32 - 1])
def test_a_session_is_its_nonce_its_generation_and_a_mac_of_12_4_and_16_bytes(generation):
    nonce = new_nonce()
    token = signer().mint(OPEN_ID, nonce, generation)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token.rpartition("|")[2])
    session = decoded_session(token)
    assert len(session) == 32
    assert session[:12] == base64.urlsafe_b64decode(nonce)
    assert session[12:16] == generation.to_bytes(4)


def test_a_token_that_was_never_rotated_is_of_generation_0():
    nonce = new_nonce()
    assert signer().mint(OPEN_ID, nonce) == signer().mint(OPEN_ID, nonce, 0)


def test_the_mac_covers_every_part_of_the_token():
    nonce = new_nonce()
    macs = {
        decoded_session(signer(app_id, sku, keys).mint(user_id, nonce))[16:]
        for app_id, sku, keys, user_id in (
            (APP_ID, "shop", (KEY,), OPEN_ID),
            ("wx0000000000000000", "shop", (KEY,), OPEN_ID),
            (APP_ID, "blog", (KEY,), OPEN_ID),
            (APP_ID, "shop", (NEWER_KEY,), OPEN_ID),
            (APP_ID, "shop", (KEY,), "another user"[:7]),
        )
    }
    macs.add(decoded_session(signer().mint(OPEN_ID, new_nonce()))[16:])
    macs.add(decoded_session(signer().mint(OPEN_ID, nonce, 1))[16:])
    assert len(macs) == 7


def test_a_token_given_out_by_an_earlier_release_still_verifies():
    # Whoever changes how tokens are made logs every user of every app out: this is to be noticed.
    token = f"{OPEN_ID}|shop|AAECAwQFBgcICQoLDA0OD_RCuDxH6E5Unr5Npnr7Nlg"
    ref = SessionRef("shop", OPEN_ID, "AAECAwQFBgcICQoL", 0x0C0D0E0F)
    assert signer().mint(OPEN_ID, ref.nonce, ref.generation) == token
    assert signer().verify(token) == ref


def test_a_token_of_a_subclass_of_str_verifies_as_the_text_that_it_is():
    class Text(str):
        __slots__ = ()

    token = signer().mint(OPEN_ID, new_nonce())
    assert signer().verify(Text(token)) == signer().verify(token) is not None


def test_nonces_are_96_random_bits_in_16_characters_that_are_safe_in_a_url():
    nonces = {new_nonce() for _ in range(1000)}
    assert len(nonces) == 1000
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{16}", nonce) for nonce in nonces)
    values = [int.from_bytes(base64.urlsafe_b64decode(nonce)) for nonce in nonces]
    # Every one of the 96 bits is sometimes set and sometimes not.
    assert reduce(or_, values) == 2**96 - 1
    assert reduce(and_, values) == 0


# What was changed does not


def test_no_other_character_anywhere_in_the_session_verifies():
    # Three others at its end mean the same bytes: 43 characters hold 2 bits more than 32 bytes.
    token = signer().mint(OPEN_ID, new_nonce())
    for position in range(len(token) - 43, len(token)):
        for character in set(BASE64URL) - {token[position]}:
            forged = token[:position] + character + token[position + 1 :]
            assert signer().verify(forged) is None, (position, character)


def test_no_character_left_out_or_put_in_anywhere_verifies():
    token = signer().mint(OPEN_ID, new_nonce())
    for position in range(len(token) + 1):
        left_out = token[:position] + token[position + 1 :]
        assert left_out == token or signer().verify(left_out) is None, position
        for text in (*"A-|= \0é\n\t\ufeff", "==", "\r\n"):
            put_in = token[:position] + text + token[position:]
            assert signer().verify(put_in) is None, (position, text)


@given(data=st.data())
@settings(max_examples=200)
def test_no_change_of_any_single_character_verifies(data):
    token = signer().mint(OPEN_ID, new_nonce())
    position = data.draw(st.integers(0, len(token) - 1))
    character = data.draw(st.characters(exclude_categories=()))
    assume(character != token[position])
    assert signer().verify(token[:position] + character + token[position + 1 :]) is None
    assert signer().verify(token[:position] + character + token[position:]) is None


def test_no_truncation_verifies():
    token = signer().mint(OPEN_ID, new_nonce())
    for length in range(len(token)):
        assert signer().verify(token[:length]) is None, length
        assert signer().verify(token[len(token) - length :]) is None, length


@pytest.mark.parametrize("nonce", ["_" * 16, "-" * 16])
def test_the_other_base64_alphabet_does_not_verify(nonce):
    head, _, session = signer().mint(OPEN_ID, nonce).rpartition("|")
    other = session.replace("-", "+").replace("_", "/")
    assert other != session
    assert signer().verify(f"{head}|{other}") is None


@pytest.mark.parametrize(
    "forge",
    [
        lambda user_id, sku, session: f"{user_id}x|{sku}|{session}",
        lambda user_id, sku, session: f"{user_id[:-1]}|{sku}|{session}",
        lambda user_id, sku, session: f"{user_id.lower()}|{sku}|{session}",
        lambda user_id, sku, session: f"|{sku}|{session}",
        lambda user_id, sku, session: f"{user_id}||{session}",
        lambda user_id, sku, session: f"{user_id}|{sku}|",
        lambda user_id, sku, session: f"{user_id}|{sku}",
        lambda user_id, sku, session: f"{user_id}|{session}",
        lambda user_id, sku, session: f"{sku}|{user_id}|{session}",
        lambda user_id, sku, session: f"{user_id}|{sku}|{session}|",
        lambda user_id, sku, session: f"{user_id}|{sku}|{session[:22]}",
        lambda user_id, sku, session: f"{user_id}|{sku}|{session[22:] + session[:22]}",
        lambda user_id, sku, session: f"{user_id}|{sku}|{session[:22]}{'A' * 21}",
        lambda user_id, sku, session: f"{user_id}|{sku}|{'é' * 43}",
        lambda user_id, sku, session: f"{user_id}|{sku}|{session[:-1]}{LONE_SURROGATE}",
        lambda user_id, sku, session: f"{LONE_SURROGATE}|{sku}|{session}",
        lambda user_id, sku, session: f"{user_id}|{sku}|{session}" * 2,
    ],
)
def test_a_token_put_together_of_other_parts_does_not_verify(forge: Callable[..., str]):
    token = signer().mint(OPEN_ID, new_nonce())
    assert signer().verify(forge(*parse_token(token))) is None


def test_a_signer_that_has_seen_a_token_refuses_its_changes_as_before():
    warm = signer()
    token = warm.mint(OPEN_ID, new_nonce())
    ref = warm.verify(token)
    for changed in (token[:-1], token + "A", token.upper(), token.replace("|shop|", "|blog|")):
        assert warm.verify(changed) is None
    assert warm.verify(token) == ref is not None


def test_the_memory_of_a_signer_is_bounded():
    warm = signer()
    tokens = [warm.mint(OPEN_ID, new_nonce()) for _ in range(33_000)]
    assert all(warm.verify(token) for token in tokens)
    assert len(warm._verified) < 32_768
    assert all(warm.verify(token) for token in tokens[:10])


# Nothing makes verify raise


ANY_OBJECT = st.one_of(
    *(ANY_TEXT, st.none(), st.booleans(), st.integers(), st.floats(), st.lists(ANY_TEXT)),
    *(st.binary(), st.binary().map(bytearray), st.binary().map(memoryview), st.builds(object)),
    st.dictionaries(st.integers(), ANY_TEXT),
    st.sampled_from([str, ValueError("x"), test_no_truncation_verifies, ..., 1j]),
)
NEARLY_A_TOKEN = st.builds(
    "{}|{}|{}".format,
    ANY_TEXT,
    st.just("shop") | ANY_TEXT,
    st.text(st.characters(exclude_categories=()), min_size=43, max_size=43)
    | st.text(BASE64URL, min_size=43, max_size=43)
    | st.text("A=\0\n +/", min_size=43, max_size=43),
)


@given(ANY_OBJECT | NEARLY_A_TOKEN)
@settings(max_examples=400)
@example("||")
@example("|shop|" + "A" * 43)
@example("o|shop|" + "=" * 43)
@example("o|shop|" + "A" * 42 + "\0")
@example(LONE_SURROGATE)
def test_nothing_that_was_not_minted_verifies_or_makes_verify_raise(anything):
    assert signer().verify(anything) is None


@pytest.mark.parametrize("piece", ["x", "|", "\0", "é", LONE_SURROGATE, "a|shop|"])
def test_a_megabyte_of_anything_does_not_verify(piece):
    assert signer().verify(piece * (1_048_576 // len(piece))) is None


@pytest.mark.parametrize(
    "as_other_type",
    [str.encode, lambda token: bytearray(token, "ascii"), lambda token: [token], parse_token],
)
def test_rejects_a_token_that_is_not_a_string(as_other_type):
    token = signer().mint(OPEN_ID, new_nonce())
    assert signer().verify(as_other_type(token)) is None


@given(ANY_OBJECT | NEARLY_A_TOKEN)
def test_parsing_gives_three_texts_that_make_up_the_token_or_nothing(anything):
    parts = parse_token(anything)
    if isinstance(anything, str) and anything.count("|") == 2:
        assert "|".join(parts) == anything
        assert (parts.open_id, parts.sku, parts.session) == parts
    else:
        assert parts is None


# Whose tokens


def test_another_skus_token_does_not_verify():
    token = signer(sku="blog").mint(OPEN_ID, new_nonce())
    assert signer(sku="shop").verify(token) is None
    assert signer(sku="shop").verify(token.replace("|blog|", "|shop|")) is None


@pytest.mark.parametrize(("sku", "other"), [("shop", "Shop"), ("shop", "shop2"), ("a.b", "a-b")])
def test_skus_that_resemble_each_other_are_different(sku, other):
    assert signer(sku=other).verify(signer(sku=sku).mint(OPEN_ID, new_nonce())) is None


def test_another_apps_token_does_not_verify_under_the_same_signing_keys():
    token = signer(app_id="wx0000000000000000").mint(OPEN_ID, new_nonce())
    assert signer().verify(token) is None


# Keys


def test_tokens_of_an_old_key_verify_while_it_is_listed_and_no_longer():
    token = signer(keys=(KEY,)).mint(OPEN_ID, new_nonce())
    assert signer(keys=(KEY, NEWER_KEY)).verify(token) == signer(keys=(KEY,)).verify(token)
    assert signer(keys=("the oldest key of all", KEY, NEWER_KEY)).verify(token) is not None
    assert signer(keys=(NEWER_KEY,)).verify(token) is None


def test_the_newest_key_signs():
    token = signer(keys=(KEY, NEWER_KEY)).mint(OPEN_ID, new_nonce())
    assert signer(keys=(NEWER_KEY,)).verify(token) is not None
    assert signer(keys=(KEY,)).verify(token) is None


def test_a_key_may_be_text_or_the_same_as_bytes():
    token = signer(keys=("ключ ключ ключ",)).mint(OPEN_ID, new_nonce())
    assert signer(keys=("ключ ключ ключ".encode(),)).verify(token) is not None


def test_keys_that_differ_beyond_any_block_of_the_hash_are_different():
    token = signer(keys=("k" * 1000 + "1",)).mint(OPEN_ID, new_nonce())
    assert signer(keys=("k" * 1000 + "1",)).verify(token) is not None
    assert signer(keys=("k" * 1000 + "2",)).verify(token) is None


async def test_a_service_without_signing_keys_signs_with_its_app_secret(make, wx: WeChatSimulator):
    async with make() as auth:
        token = (await auth.authorize(wx.login(OPEN_ID))).response
    assert signer(wx.app_id, keys=(wx.app_secret,)).verify(token).user_id == OPEN_ID
    assert signer(wx.app_id, keys=(KEY,)).verify(token) is None


@pytest.mark.parametrize("key", ["k" * 16, b"k" * 16, "ключключ", b"\0" * 16])
def test_a_key_of_16_bytes_is_long_enough(key):
    assert signer(keys=(key,)).verify(signer(keys=(key,)).mint(OPEN_ID, new_nonce())) is not None


@pytest.mark.parametrize(
    "keys",
    [
        *(["geheim-geheim-1"], [b"geheim-geheim-1"]),  # 15 bytes
        ["geheim", "geheim-geheim-geheim"],
        *(["geheim-geheim-geheim", bad] for bad in ("geheim", "", None, 10**18)),
        *([["geheim-geheim-geheim"]], [], (), None),
        *("geheim-geheim-geheim", b"geheim-geheim-geheim"),
    ],
)
def test_rejects_short_or_missing_keys_without_quoting_them(keys):
    with pytest.raises(ConfigurationError) as refusal:
        TokenSigner(app_id=APP_ID, sku="shop", keys=keys)
    assert "geheim" not in f"{refusal.value!s} {refusal.value!r}"
    assert refusal.value.__cause__ is None
    assert refusal.value.__context__ is None


@pytest.mark.parametrize("key", [KEY, KEY.encode()])
def test_rejects_a_single_key_outside_a_list(key):
    with pytest.raises(ConfigurationError, match="list"):
        TokenSigner(app_id=APP_ID, sku="shop", keys=key)


def test_a_key_may_be_any_text():
    # os.environ gives lone surrogates for what is not UTF-8.
    key, other = (f"a key that is not UTF-8 {surrogate}" for surrogate in ("\udc80", "\udc81"))
    token = signer(keys=(key,)).mint(OPEN_ID, new_nonce())
    assert signer(keys=(key,)).verify(token) is not None
    assert signer(keys=(other,)).verify(token) is None


def test_the_repr_of_a_signer_holds_no_key():
    told = f"{signer(keys=(KEY, NEWER_KEY))!r} {signer(keys=(KEY, NEWER_KEY))!s}"
    assert KEY not in told
    assert NEWER_KEY not in told


# Limits


@pytest.mark.parametrize("sku", ["s", "s" * 64, "AZaz09._-", ".", "-", "__main__"])
def test_a_sku_is_1_to_64_letters_digits_dots_underscores_and_hyphens(sku):
    assert signer(sku=sku).verify(signer(sku=sku).mint(OPEN_ID, new_nonce())).sku == sku


OTHER_SIGNS = ["shöp", "٣", "ﬀ", "a/b"]
WHITE_SPACE = [" ", "a b", " a", "a ", "a\n", "\na", "a\tb"]
NOT_PRINTABLE = ["a\0b", "a\x1fb", "a\x7fb", f"user{LONE_SURROGATE}"]
NO_TEXTS = [None, 7, b"text", ["text"]]


@pytest.mark.parametrize(
    "sku",
    ["", "s" * 65, "shop\n", "\nshop", "sh op", "sh|op", "{shop}", "a:b", *OTHER_SIGNS, *NO_TEXTS],
)
def test_rejects_a_malformed_sku(sku):
    with pytest.raises(ConfigurationError, match="sku"):
        signer(sku=sku)


@pytest.mark.parametrize(
    "user_id", ["u", "u" * 128, "ü" * 128, "用户", "a/b?c=d&e#f", "~!@$%^*()=+"]
)
def test_a_user_id_is_1_to_128_characters(user_id):
    assert signer().verify(signer().mint(user_id, new_nonce())).user_id == user_id


def test_the_longest_token_of_all_verifies():
    longest = signer(sku="s" * 64).mint("用" * 128, new_nonce())
    assert signer(sku="s" * 64).verify(longest) is not None


@pytest.mark.parametrize(
    "user_id", ["", "u" * 129, "a|b", "|", *WHITE_SPACE, *NOT_PRINTABLE, *NO_TEXTS]
)
def test_rejects_a_user_id_that_a_token_cannot_hold(user_id):
    with pytest.raises(ParameterError):
        signer().mint(user_id, new_nonce())
