"""The options of the server: flags, environment and file."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpauthx_async import ConfigurationError
from mpauthx_async.cli.main import main
from mpauthx_async.cli.serve.options import ServerOptions, add_server_options, server_options

SECRET = "s" * 32
Warn = Callable[..., str]
GIVEN = {"MPAUTHX_APP_ID": "wxaaaa", "MPAUTHX_APP_SECRET": SECRET}


def read(*flags: str, **environment: str) -> ServerOptions:
    parser = argparse.ArgumentParser()
    add_server_options(parser)
    return server_options(parser.parse_args(flags), environment)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mpauthx.toml"


def test_two_options_are_enough() -> None:
    assert read(**GIVEN) == ServerOptions(app_id="wxaaaa", app_secret=SECRET)


def test_flags_come_before_the_environment_and_that_before_the_file(file: Path) -> None:
    file.write_text('sku = "file"\nport = 1\nhost = "::1"\n')
    variables = {**GIVEN, "MPAUTHX_PORT": "2", "MPAUTHX_SKU": "variable"}
    options = read("--config", str(file), "--port", "3", **variables)
    assert (options.port, options.sku, options.host) == (3, "variable", "::1")


def test_the_environment_may_name_the_file(file: Path) -> None:
    file.write_text('sku = "file"\n')
    assert read(**GIVEN, MPAUTHX_CONFIG=str(file)).sku == "file"


@pytest.mark.parametrize(
    ("name", "text", "toml", "value"),
    [
        ("token_ttl", "60.5", "60.5", 60.5),
        ("workers", "4", "4", 4),
        ("metrics", "yes", "true", True),
        ("access_log", "off", "false", False),
        ("api_base", "http://a, http://b", '["http://a", "http://b"]', ("http://a", "http://b")),
        ("include", "phone,forget", '["phone", "forget"]', ("phone", "forget")),
        ("signing_keys", "k1,k2", '["k1", "k2"]', ("k1", "k2")),
        ("compat", "koa", '"koa"', "koa"),
    ],
)
def test_an_option_means_the_same_wherever_it_is(
    file: Path, name: str, text: str, toml: str, value: Any
) -> None:
    file.write_text(f"{name} = {toml}\n")
    flag, variable = f"--{name.replace('_', '-')}", f"MPAUTHX_{name.upper()}"
    for options in (
        read(flag, text, **GIVEN),
        read(**GIVEN, **{variable: text}),
        read("--config", str(file), **GIVEN),
    ):
        assert getattr(options, name) == value


def test_a_flag_for_a_boolean_needs_no_value() -> None:
    assert read("--metrics", **GIVEN).metrics


def test_the_koa_scaffolds_tokens_live_a_day() -> None:
    assert read("--compat", "koa", **GIVEN).token_ttl == 86_400
    assert read("--compat", "koa", "--token-ttl", "60", **GIVEN).token_ttl == 60


@pytest.mark.parametrize("missing", GIVEN)
def test_what_has_no_default_must_be_given(missing: str) -> None:
    others = {name: value for name, value in GIVEN.items() if name != missing}
    with pytest.raises(ConfigurationError, match=f"set {missing}"):
        read(**others)


class TestOptionsThatDoNotExist:
    def test_an_unknown_flag_suggests_the_nearest(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as exited:
            main(["serve", "--app-di", "wxaaaa"])
        assert exited.value.code == 2
        assert "did you mean --app-id?" in capsys.readouterr().err

    @pytest.mark.parametrize("flag", ["-app-secret", "\N{EM DASH}app-secret", "--app-secre"])
    def test_a_misspelt_secret_flag_is_refused_without_its_value(
        self, flag: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for arguments in ([flag, SECRET], [f"{flag}={SECRET}"]):
            with pytest.raises(SystemExit) as exited:
                main(["serve", "--app-id", "wxaaaa", *arguments])
            assert exited.value.code == 2
            shown = capsys.readouterr().err
            assert "did you mean --app-secret?" in shown
            assert SECRET not in shown

    def test_an_unknown_variable_suggests_the_nearest(self) -> None:
        with pytest.raises(ConfigurationError, match=r"APPID .*did you mean MPAUTHX_APP_ID\?"):
            read(**GIVEN, MPAUTHX_APPID="wxaaaa")

    def test_an_unknown_key_in_the_file_suggests_the_nearest(self, file: Path) -> None:
        file.write_text('token = "redis://localhost"\n')
        with pytest.raises(ConfigurationError, match=r"file .*did you mean tokens\?"):
            read("--config", str(file), **GIVEN)

    def test_other_environment_variables_are_ignored(self) -> None:
        read(**GIVEN, PATH="/bin", MPAUTHX_TEST_MONGO="mongodb://localhost")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("port", "65536", "must be a whole number from 0 to 65535"),
        ("port", "http", "must be a whole number"),
        ("workers", "0", "must be a whole number from 1 to 256"),
        ("token_ttl", "nan", "must be a number from 0.001"),
        ("shutdown_timeout", "-1", "must be a number from 0 to 3600"),
        ("metrics", "maybe", "must be true or false"),
        ("include", "phone,oauth", "must be one or more of phone, forget"),
        ("compat", "express", "must be koa"),
        ("sku", "", "must not be empty"),
        ("signing_keys", "k1,,k2", "must not be empty"),
    ],
)
def test_an_invalid_value_names_its_option(name: str, text: str, message: str) -> None:
    flag, variable = f"--{name.replace('_', '-')}", f"MPAUTHX_{name.upper()}"
    with pytest.raises(ConfigurationError, match=f"^{flag} {message}"):
        read(flag, text, **GIVEN)
    with pytest.raises(ConfigurationError, match=f"^{variable} {message}"):
        read(**GIVEN, **{variable: text})


def test_an_empty_flag_overrides_the_file(file: Path) -> None:
    file.write_text('prefix = "/auth"\ninclude = ["phone"]\n')
    options = read("--config", str(file), "--prefix", "", "--include", "", **GIVEN)
    assert (options.prefix, options.include) == ("", ())


class TestFiles:
    def test_rejects_invalid_toml_without_quoting_it(self, file: Path) -> None:
        file.write_text(f'app_secret = "{SECRET}\n')
        with pytest.raises(ConfigurationError, match=r"is not TOML: .*line 1") as caught:
            read("--config", str(file), **GIVEN)
        assert SECRET not in str(caught.value)

    def test_rejects_a_file_that_is_missing_or_not_utf_8(self, file: Path) -> None:
        with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
            read("--config", str(file), **GIVEN)
        file.write_bytes(b"\xff\xfe")
        with pytest.raises(ConfigurationError, match="cannot be read: it is not UTF-8"):
            read("--config", str(file), **GIVEN)

    def test_reads_a_file_with_a_byte_order_mark(self, file: Path) -> None:
        file.write_text('sku = "file"\n', "utf-8-sig")
        assert read("--config", str(file), **GIVEN).sku == "file"

    def test_rejects_an_empty_file_name(self, file: Path) -> None:
        file.write_text('sku = "file"\n')
        for flags, named in (([], ""), (["--config", ""], str(file))):
            with pytest.raises(ConfigurationError, match="MPAUTHX_CONFIG or --config is empty"):
                read(*flags, **GIVEN, MPAUTHX_CONFIG=named)

    @pytest.mark.parametrize("toml", ["{}", "[1]", "2026-01-01", '["a,b"]'])
    def test_rejects_a_value_of_a_wrong_type(self, file: Path, toml: str) -> None:
        file.write_text(f"signing_keys = {toml}\n")
        with pytest.raises(ConfigurationError, match=r"^signing_keys in .* must be a text"):
            read("--config", str(file), **GIVEN)


class TestSecrets:
    @pytest.fixture
    def warning(self, capsys: pytest.CaptureFixture[str]) -> Warn:
        """Reads options, and returns what is warned of."""

        def warning(*flags: str, **environment: str) -> str:
            read(*flags, **environment)
            shown = capsys.readouterr().err
            assert SECRET not in shown
            return shown

        return warning

    def test_warns_of_a_secret_on_the_command_line(self, warning: Warn) -> None:
        shown = warning("--app-id", "wxaaaa", "--app-secret", SECRET)
        assert shown.startswith("warning: --app-secret shows in the list of processes")
        assert "MPAUTHX_APP_SECRET" in shown

    @pytest.mark.parametrize(
        "url", [f"redis://:{SECRET}@h/0", f"redis://u:{SECRET}@h", f"redis://h?password={SECRET}"]
    )
    @pytest.mark.parametrize("name", ["users", "tokens"])
    def test_a_url_with_a_password_is_a_secret(self, warning: Warn, name: str, url: str) -> None:
        shown = warning(f"--{name}", url, **GIVEN)
        assert shown.startswith(f"warning: --{name} shows in the list of processes")
        options = read(f"--{name}", url, **GIVEN)
        assert getattr(options, name) == url
        assert SECRET not in repr(options)

    @pytest.mark.parametrize(
        "flag",
        ["--sku=shop", "--tokens=redis://localhost:6379/0?near_cache=9", "--users=sqlite:///u@h"],
    )
    def test_does_not_warn_of_what_is_no_secret(self, warning: Warn, flag: str) -> None:
        assert not warning(flag, **GIVEN)

    @pytest.mark.parametrize(
        "line", [f'app_secret = "{SECRET}"', f'tokens = "redis://:{SECRET}@h"']
    )
    def test_a_file_that_others_can_read_is_warned_of(
        self, warning: Warn, file: Path, line: str
    ) -> None:
        file.write_text(f"{line}\n")
        file.chmod(0o640)
        assert not warning("--config", str(file), **GIVEN)
        file.chmod(0o644)
        told = f"warning: other users can read the secrets in {file}: run chmod o-r on it.\n"
        assert warning("--config", str(file), **GIVEN) == told

    def test_others_may_read_a_file_without_secrets(self, warning: Warn, file: Path) -> None:
        file.write_text('sku = "shop"\ntokens = "redis://localhost"\n')
        file.chmod(0o644)
        assert not warning("--config", str(file), **GIVEN)

    def test_the_repr_of_the_options_shows_no_secret(self) -> None:
        options = read(**GIVEN, MPAUTHX_SIGNING_KEYS="key-one", MPAUTHX_PUSH_TOKEN="push-token")
        assert not {SECRET, "key-one", "push-token"} & set(repr(options).split("'"))


@pytest.mark.parametrize("prefix", ["/verify", "/verify/auth"])
def test_rejects_a_prefix_below_verify(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="--prefix must not be /verify"):
        read("--prefix", prefix, **GIVEN)
    assert read("--prefix", "/verifying", **GIVEN).prefix == "/verifying"


def test_push_without_its_token_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="without push_token"):
        read(**GIVEN, MPAUTHX_PUSH_AES_KEY="a" * 43)
