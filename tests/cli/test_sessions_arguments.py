import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from mpauthx_async.cli.main import main
from mpauthx_async.tokens.format import new_nonce
from tests.helpers.command_line import SKU, Command, Outcome


@pytest.fixture
def no_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """A command that fails before it asks the store."""
    return Command(f"sqlite:///{tmp_path}/none.db", capsys)


@pytest.fixture
def no_options(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MPAUTHX_TOKENS", "MPAUTHX_SKU"):
        monkeypatch.delenv(name, raising=False)


class TestArguments:
    @pytest.mark.parametrize("dashed", ["-", "--", "-h", "--all"])
    def test_session_ids_that_begin_with_a_dash_are_no_options(
        self, sessions: Command, dashed: str
    ) -> None:
        session_id = dashed + new_nonce()[len(dashed) :]
        sessions.issue("alice", session_id)
        shown = sessions("show", "alice", session_id, "--json").document
        assert shown["session"]["id"] == session_id
        assert sessions("revoke", "--json", "alice", session_id).document["ended"] == 1

    def test_ids_may_begin_with_a_dash(self, sessions: Command) -> None:
        session_id = "-" + new_nonce()[1:]
        sessions.issue("-alice", session_id)
        assert session_id in sessions("list", "--", "-alice").out
        assert sessions("show", "--", "-alice", session_id).code == 0
        assert sessions("revoke", "--", "-alice", session_id).code == 0
        assert sessions("list", "--", "--").code == 0
        assert "[--] USER_ID SESSION_ID" in sessions("show", "-x").err

    def test_the_environment_names_the_store_and_the_sku(
        self, sessions: Command, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sessions.begin("alice")
        monkeypatch.setenv("MPAUTHX_TOKENS", sessions.url)
        monkeypatch.setenv("MPAUTHX_SKU", SKU)
        assert main(["sessions", "online", "--count"]) == 0
        assert main(["sessions", "--sku", "other", "online", "--count"]) == 0
        assert main(["sessions", "--json", "online", "--count"]) == 0
        count, other, *document = capsys.readouterr().out.splitlines()
        assert (count, other) == ("1", "0")
        assert json.loads("".join(document))["count"] == 1

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--sku", SKU], "give --tokens, or set MPAUTHX_TOKENS"),
            (["--tokens", "sqlite:///x.db"], "give --sku, or set MPAUTHX_SKU"),
            (["--tokens", "", "--sku", SKU], "give --tokens, or set MPAUTHX_TOKENS"),
            (["--tokens", "sqlite:///x.db", "--sku", "a b"], "a sku is"),
            (["--tokens", "default:hush@host:6379", "--sku", SKU], "named by a URL"),
        ],
    )
    @pytest.mark.usefixtures("no_options")
    def test_says_which_option_is_missing(
        self, arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["sessions", "online", *arguments])
        assert caught.value.code == 2
        err = capsys.readouterr().err
        assert message in err
        assert "hush" not in err

    @pytest.mark.parametrize(
        "arguments",
        [
            *(["list", *user_ids] for user_ids in ([], [""], ["a|b"], ["a b"], ["x" * 129])),
            ["show", "alice"],
            ["show", "alice", "short"],
            ["revoke", "alice", "alice|shop|" + "x" * 43],
            *(["ban", "alice", "--reason", text] for text in ("\udcff", "one\ntwo", "x" * 1001)),
            ["ban", "alice", "--for", "36501d"],
            ["unknown"],
        ],
    )
    def test_refuses_invalid_arguments(self, no_store: Command, arguments: list[str]) -> None:
        outcome = no_store(*arguments)
        assert outcome.code == 2
        assert "usage: python -m mpauthx_async sessions" in outcome.err

    @pytest.mark.parametrize(
        "arguments",
        [
            ["list", "alice", "redis://:hush@host"],
            ["list", "redis://:hush me@host"],
            ["redis://:hush@host"],
            ["show", "alice", "redis://host?password=hush"],
            ["online", "--limit", "redis://:hush@host"],
        ],
    )
    def test_a_url_in_the_wrong_place_is_not_quoted(
        self, no_store: Command, arguments: list[str]
    ) -> None:
        outcome = no_store(*arguments)
        assert outcome.code == 2
        assert "hush" not in outcome.err

    @pytest.mark.parametrize("text", ["", "0s", "1", "h", "1w", "-1h", "1.5h", "1 h", "123456d"])
    def test_rejects_an_invalid_duration(self, no_store: Command, text: str) -> None:
        outcome = no_store("ban", "alice", f"--for={text}")
        assert outcome.code == 2
        assert "a duration is" in outcome.err

    @pytest.mark.parametrize("limit", ["0", "-1", "x", "10001", "9" * 30])
    def test_rejects_an_invalid_limit(self, no_store: Command, limit: str) -> None:
        assert no_store("online", f"--limit={limit}").code == 2


class TestStoresThatFail:
    def test_a_file_that_is_not_there_is_not_created(
        self, no_store: Command, tmp_path: Path
    ) -> None:
        outcome = no_store("list", "alice")
        assert outcome == Outcome(1, "", f"error: There is no file {tmp_path}/none.db.\n")
        assert not list(tmp_path.iterdir())

    def test_reports_a_file_that_is_not_a_database(self, no_store: Command, tmp_path: Path) -> None:
        (tmp_path / "none.db").write_text("no database, " * 100)
        outcome = no_store("list", "alice")
        assert outcome.code == 1
        assert outcome.err.startswith("error: The SQLite database")

    @pytest.mark.parametrize("url", ["mysql://me:hush@host", "redis://me:hush@host/x y"])
    def test_reports_a_url_that_no_store_has(
        self, url: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        outcome = Command(url, capsys)("online")
        assert outcome.code == 1
        assert outcome.err.startswith("error: ")
        assert "hush" not in outcome.err
