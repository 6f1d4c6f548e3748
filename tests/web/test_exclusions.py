import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpauthx_async import ConfigurationError
from mpauthx_async.web.excluded_paths import Exclusions

EXCLUSIONS = Exclusions(("/login", "GET /public/*", "/open*"))


def matches(method: str, path: str) -> bool:
    return EXCLUSIONS.match(method, path, path.encode())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", "/login"), ("POST", "/login"), ("WEBSOCKET", "/login"), ("POST", "/opened")),
        *(("GET", "/public/a"), ("HEAD", "/public/a/b"), ("GET", "/public/.well-known/a..b")),
    ],
)
def test_matches_whole_paths_and_prefixes(method: str, path: str) -> None:
    assert matches(method, path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", path) for path in ("", "/login/", "/Login", "/login/a", "/a/login", "/open")),
        *(("GET", f"/public{path}") for path in ("", "/", "/../me", "/..", "//a", "/a\\b", "/a\0")),
        *(("POST", "/public/a"), ("WEBSOCKET", "/public/a")),
    ],
)
def test_does_not_match_other_or_ambiguous_paths(method: str, path: str) -> None:
    assert not matches(method, path)


@pytest.mark.parametrize("raw", [b"/public%2fa", b"/public/%2E%2e/a", b"/public/a%5Cb"])
def test_an_encoding_that_is_read_in_two_ways_does_not_match(raw: bytes) -> None:
    assert not EXCLUSIONS.match("GET", "/public/a", raw)


@given(st.text(alphabet="/.%\\ab2fFeE5c", max_size=12))
def test_a_matching_path_stays_below_its_prefix(rest: str) -> None:
    if matches("GET", f"/public/{rest}"):
        assert ".." not in rest.split("/")
        assert "\\" not in rest
        assert "//" not in f"/public/{rest}"


@pytest.mark.parametrize(
    "pattern", ["login", "", "*", "GET", "GET  /a", "get /a", "/a/*/b", "/a b", 1, None, b"/a"]
)
def test_rejects_a_malformed_pattern(pattern: str) -> None:
    with pytest.raises(ConfigurationError, match="exclude has"):
        Exclusions((pattern,))


def test_rejects_a_single_text() -> None:
    with pytest.raises(ConfigurationError, match="a list of patterns"):
        Exclusions("/login")
