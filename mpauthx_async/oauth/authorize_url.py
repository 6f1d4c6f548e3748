"""The URLs of WeChat's authorize pages."""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import quote, urlencode

from ..errors import ParameterError
from .state import MAX_STATE_BYTES, encoded

__all__ = ["PAGE_BASE", "authorize_url"]

PAGE_BASE = "https://open.weixin.qq.com"
"""The server of the authorize pages."""

_REDIRECT_URI = re.compile(r"https?://[^\s\x00-\x1f\x7f\ud800-\udfff]+", re.IGNORECASE)
_UNESCAPED = "!'()*"  # by JavaScript's encodeURIComponent, beyond what Python leaves unescaped


def authorize_url(
    page: str,
    app_id: str,
    redirect_uri: str,
    state: str,
    scope: str,
    scopes: Sequence[str],
    more: Mapping[str, str],
) -> str:
    """Build the URL of an authorize page, which knows `scopes` and takes `more` parameters."""
    if isinstance(redirect_uri, str) and re.search(r"\s", redirect_uri):
        raise ParameterError(
            "redirect_uri contains white space: remove it around the URL, and percent-encode it "
            "inside."
        )
    if not isinstance(redirect_uri, str) or not _REDIRECT_URI.fullmatch(redirect_uri):
        raise ParameterError("redirect_uri must be a URL that begins with http:// or https://.")
    raw_state = encoded(state)
    if raw_state is None or len(raw_state) > MAX_STATE_BYTES:
        raise ParameterError(f"state must be a text of at most {MAX_STATE_BYTES} bytes.")
    if scope not in scopes:
        raise ParameterError(f"The scope of this page must be {' or '.join(scopes)}.")
    parameters = {  # in the order that WeChat requires
        "appid": app_id,
        "redirect_uri": redirect_uri,
        "response_type": "code",
        "scope": scope,
        "state": state,
        **more,
    }
    query = urlencode(parameters, safe=_UNESCAPED, quote_via=quote)
    return f"{page}?{query}#wechat_redirect"
