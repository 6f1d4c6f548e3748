"""The options of the server. Flags override the environment, which overrides a TOML file."""

import argparse
import os
import re
import stat
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ...errors import ConfigurationError
from ..arguments import nearest

__all__ = ["ServerOptions", "add_server_options", "inspect_options", "server_options"]

_PREFIX = "MPAUTHX_"
_CONFIG = f"{_PREFIX}CONFIG"
_TEST_PREFIX = f"{_PREFIX}TEST_"
_CREDENTIALS = re.compile(r"://[^/]*:[^/]+@|[?&]\w*password=", re.IGNORECASE)  # in a URL
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_INCLUDED = ("phone", "forget")
_KOA = "koa"
_KOA_TTL = 86_400.0  # seconds, as the koa scaffold's


def _option(
    default: Any, parse: Callable[[str], Any], text: str, *, is_secret: bool = False
) -> Any:
    return field(
        default=default,
        repr=not is_secret and parse is not _url,
        metadata={"parse": parse, "help": text, "is_secret": is_secret},
    )


def _text(text: str) -> str:
    if not text:
        raise ValueError("must not be empty")
    return text


def _url(text: str) -> str:
    """The URL of a store, which may hold a password."""
    return _text(text)


def _number(lowest: float, highest: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not lowest <= number <= highest:
            raise ValueError(f"must be a number from {lowest:g} to {highest:g}")
        return number

    return parse


def _whole(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not lowest <= int(text) <= highest:
            raise ValueError(f"must be a whole number from {lowest} to {highest}")
        return int(text)

    return parse


def _flag(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError("must be true or false")
    return text.lower() in _TRUE


def _prefix(text: str) -> str:
    if f"{text}/".startswith("/verify/"):  # a route below it would answer a proxy without X-User-Id
        raise ValueError("must not be /verify, which proxies call: use another, such as /auth")
    return text


def _list(text: str) -> tuple[str, ...]:
    return tuple(_text(part.strip()) for part in text.split(","))


def _included(text: str) -> tuple[str, ...]:
    parts = _list(text) if text else ()
    if any(part not in _INCLUDED for part in parts):
        raise ValueError(f"must be one or more of {', '.join(_INCLUDED)}")
    return parts


def _compat(text: str) -> str:
    if text != _KOA:
        raise ValueError(f"must be {_KOA}")
    return text


def _aes_key(text: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z+/]{43}", text):
        raise ValueError("must be the EncodingAESKey of the message push: 43 letters and digits")
    return text


_duration = _number(0.001, 315_360_000)


@dataclass(frozen=True)
class ServerOptions:
    """The options of the server, each by one name: `--app-id`, `MPAUTHX_APP_ID`, `app_id`."""

    app_id: str = _option("", _text, "the mini-program's AppID")
    app_secret: str = _option("", _text, "its secret", is_secret=True)
    signing_keys: tuple[str, ...] | None = _option(
        None, _list, "the signing keys, oldest to newest; default: the app_secret", is_secret=True
    )
    sku: str = _option("default", _text, "the project or build that issues the tokens")
    users: str = _option("sqlite:///mpauthx-users.db", _url, "the URL of the user store")
    tokens: str = _option("sqlite:///mpauthx-tokens.db", _url, "the URL of the token store")
    token_ttl: float = _option(259_200.0, _duration, "seconds that a token lives")
    absolute_ttl: float | None = _option(
        None, _duration, "seconds that a session lives at most; token_ttl then counts from its use"
    )
    max_sessions: int = _option(100, _whole(1, 1000), "sessions of a user at the same time")
    api_base: tuple[str, ...] | None = _option(None, _list, "WeChat's address, or several")
    host: str = _option("127.0.0.1", _text, "the address to listen at")
    port: int = _option(8000, _whole(0, 65_535), "the port to listen at; 0 for a free one")
    workers: int = _option(1, _whole(1, 256), "how many processes serve")
    prefix: str = _option("", _prefix, "where the routes are, such as /auth")
    include: tuple[str, ...] = _option((), _included, "more routes: phone, forget")
    push_token: str | None = _option(
        None, _text, "the Token of WeChat's message push, for /wechat/push", is_secret=True
    )
    push_aes_key: str | None = _option(
        None, _aes_key, "the EncodingAESKey of the push, in safe mode", is_secret=True
    )
    cookies: bool = _option(False, _flag, "also accept tokens from a cookie, for web pages")
    compat: str | None = _option(None, _compat, "also serve the routes of the koa scaffold: koa")
    metrics: bool = _option(False, _flag, "serve /metrics for Prometheus")
    access_log: bool = _option(True, _flag, "print a line for each request")
    drain_delay: float = _option(
        0.0, _number(0, 3600), "seconds to keep serving after SIGTERM, with /readyz at 503"
    )
    shutdown_timeout: float = _option(
        30.0, _number(0, 3600), "seconds that requests in flight get to finish"
    )


_FIELDS = {each.name: each for each in fields(ServerOptions)}


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add the options to a command's parser; `server_options` reads them."""
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f'a TOML file with these options, such as app_id = "wx…"; also {_CONFIG}',
    )
    for name, each in _FIELDS.items():
        default = each.default
        shown = "" if default in (None, "", ()) or default is False else f"; default: {default}"
        flag, text = f"--{name.replace('_', '-')}", f"{each.metadata['help']}{shown}"
        if each.metadata["parse"] is _flag:
            parser.add_argument(flag, nargs="?", const="true", metavar="BOOL", help=text)
        else:
            parser.add_argument(flag, metavar="VALUE", help=text)


def server_options(
    arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ
) -> ServerOptions:
    """Read the options from flags, environment and file, in this order."""
    options, faults = inspect_options(arguments, environment)
    if options is None or faults:
        raise ConfigurationError(faults[0])
    return options


def inspect_options(
    arguments: argparse.Namespace, environment: Mapping[str, str] = os.environ
) -> tuple[ServerOptions | None, list[str]]:
    """Read the options, with the default for each faulty value, and all faults.

    The options are None if the file cannot be read.
    """
    faults: list[str] = []
    flags = {name: getattr(arguments, name) for name in _FIELDS}
    flags = {name: value for name, value in flags.items() if value is not None}
    _warn_of_secrets(flags)
    variables = _variables(environment, faults)
    config = environment.get(_CONFIG) if arguments.config is None else arguments.config
    file = {} if config is None else _file(config, faults)
    if file is None:
        return None, faults
    _warn_of_readers(config, file)
    written = [(name, value, f"{name} in {config}") for name, value in file.items()]
    written += [(name, value, f"{_PREFIX}{name.upper()}") for name, value in variables.items()]
    written += [(name, value, f"--{name.replace('_', '-')}") for name, value in flags.items()]
    values: dict[str, Any] = {}
    for name, value, form in written:
        try:
            values[name] = _FIELDS[name].metadata["parse"](_written(value))
        except ValueError as error:  # its text has no value, which may be a secret
            faults.append(f"{form} {error}.")
    if values.get("compat") == _KOA:
        values.setdefault("token_ttl", _KOA_TTL)
    for name in ("app_id", "app_secret"):
        if name not in {name for name, _, _ in written}:
            faults.append(
                f"{name} is missing: set {_PREFIX}{name.upper()}, or {name} in the --config file."
            )
    if values.get("push_aes_key") and not values.get("push_token"):
        faults.append("push_aes_key has no effect without push_token.")
    return ServerOptions(**values), faults


def _variables(environment: Mapping[str, str], faults: list[str]) -> dict[str, str]:
    known = {f"{_PREFIX}{name.upper()}": name for name in _FIELDS}
    found = {}
    for variable, value in environment.items():
        if not variable.startswith(_PREFIX) or variable.startswith(_TEST_PREFIX):
            continue
        if variable in known:
            found[known[variable]] = value
        elif variable != _CONFIG:
            hint = nearest(variable, [*known, _CONFIG])
            faults.append(f"There is no option {variable} for the environment{hint}")
    return found


def _file(path: str, faults: list[str]) -> dict[str, Any] | None:
    """The options in a file; None if it cannot be read."""
    if not path:
        faults.append(f"{_CONFIG} or --config is empty: name a file, or leave it out.")
        return None
    try:
        found = tomllib.loads(Path(path).read_text("utf-8-sig"))
    except tomllib.TOMLDecodeError as error:  # its text has the place and no value
        faults.append(f"The file {path} is not TOML: {error}")
        return None
    except (OSError, ValueError) as error:
        faults.append(f"The file {path} cannot be read: {_reason(error)}.")
        return None
    for name in [name for name in found if name not in _FIELDS]:
        hint = nearest(name, list(_FIELDS))
        faults.append(f"There is no option {name!r} for the file {path}{hint}")
    return {name: value for name, value in found.items() if name in _FIELDS}


def _written(value: Any) -> str:
    """A value of TOML, as the environment would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (str, int, float)):
        return str(value)
    if isinstance(value, list) and all(isinstance(one, str) and "," not in one for one in value):
        return ",".join(value)
    raise ValueError("must be a text, a number, true, false or a list of texts")


def _holds_secret(name: str, value: Any) -> bool:
    parse, is_secret = (_FIELDS[name].metadata[key] for key in ("parse", "is_secret"))
    return is_secret or (parse is _url and _CREDENTIALS.search(str(value)) is not None)


def _warn_of_secrets(flags: Mapping[str, str]) -> None:
    for name, value in flags.items():
        if _holds_secret(name, value):
            print(
                f"warning: --{name.replace('_', '-')} shows in the list of processes: use "
                f"{_PREFIX}{name.upper()} or the --config file instead.",
                file=sys.stderr,
            )


def _warn_of_readers(path: str | None, file: Mapping[str, Any]) -> None:
    """Warn of a file with secrets that other users of this machine can read."""
    if path is None or os.name != "posix" or not any(_holds_secret(*each) for each in file.items()):
        return
    if Path(path).stat().st_mode & stat.S_IROTH:
        print(
            f"warning: other users can read the secrets in {path}: run chmod o-r on it.",
            file=sys.stderr,
        )


def _reason(error: Exception) -> str:
    return (error.strerror or "") if isinstance(error, OSError) else "it is not UTF-8"
