"""Exclusions: the paths of an app that need no login."""

import re
from collections.abc import Iterable

from ..errors import ConfigurationError

__all__ = ["Exclusions"]

_PATTERN = re.compile(r"(?:([A-Z]+) )?(/[^\s*]*)(\*?)")
# Frameworks, proxies and file servers disagree on what these mean.
_AMBIGUOUS = re.compile(r"//|\\|/\.{1,2}(?:/|$)|[\x00-\x1f\x7f]")
_AMBIGUOUS_RAW = re.compile(rb"%(?:2f|5c|2e|25|00)", re.IGNORECASE)


class Exclusions:
    """Decides which requests need no login.

    A pattern is a path, and may begin with a method and end in `*`: `/login`, `GET /public/*`. It
    matches the whole path, case-sensitively; `*` stands for at least one more character. `GET`
    includes HEAD. A path that could be read in two ways (`//`, `..`, `%2f`, a backslash) is never
    excluded.

    Raises:
        ConfigurationError: for a text that is not such a pattern.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._exact: set[tuple[str | None, str]] = set()
        self._beginnings: list[tuple[str | None, str]] = []
        if isinstance(patterns, str) or not isinstance(patterns, Iterable):
            raise ConfigurationError('exclude must be a list of patterns, such as ["/login"].')
        for pattern in patterns:
            match = _PATTERN.fullmatch(pattern) if isinstance(pattern, str) else None
            if match is None:
                raise ConfigurationError(
                    f'exclude has {pattern!r}, not a pattern such as "/login" or "GET /public/*".'
                )
            method, path, star = match.groups()
            if star:
                self._beginnings.append((method, path))
            else:
                self._exact.add((method, path))

    def match(self, method: str, path: str, raw_path: bytes) -> bool:
        """Whether a request needs no login, by its decoded path and the path as it was sent."""
        method = "GET" if method == "HEAD" else method
        if not self._matches(method, path):
            return False
        return not (_AMBIGUOUS.search(path) or _AMBIGUOUS_RAW.search(raw_path))

    def _matches(self, method: str, path: str) -> bool:
        if (None, path) in self._exact or (method, path) in self._exact:
            return True
        return any(
            wanted in (None, method) and path.startswith(beginning) and path != beginning
            for wanted, beginning in self._beginnings
        )
