import time
from pathlib import Path

import pytest

from mpauthx_async.cli.text import columns
from mpauthx_async.models import SessionRef
from tests.helpers import sqlite_files
from tests.helpers.command_line import HOUR, SKU, Command, Outcome, process, run

NASTY = "\x1b[2J\x07微信\u202e😀" * 12


class TestList:
    def test_it_shows_the_sessions_newest_first(self, sessions: Command) -> None:
        (old,) = sessions.begin("alice", device="iPhone 15", device_kind="phone")
        (new,) = sessions.begin("alice", device="小米平板", ttl=50 * HOUR)
        sessions.begin("bob")
        outcome = sessions("list", "alice")
        assert (outcome.code, outcome.err) == (0, "")
        heading, blank, header, first, second = outcome.out.splitlines()
        assert heading.startswith("2 sessions of alice in shop, times in UTC")
        assert not blank
        assert header.split() == ["SESSION", "ID", "ISSUED", "EXPIRES", "SEEN", "DEVICE"]
        assert first.startswith(new)
        assert "in 2d" in first
        assert first.endswith("小米平板")
        assert second.startswith(old)
        assert "in 60m" in second
        assert second.endswith("iPhone 15 (phone)")

    def test_json_has_all_fields(self, sessions: Command) -> None:
        before = time.time() * 1000
        (session_id,) = sessions.begin("alice", device="小米", device_kind="phone")
        outcome = sessions("list", "alice", "--json")
        assert "小米" in outcome.out
        (session,) = outcome.document["sessions"]
        issued = session.pop("issued_at")
        assert before - 1 <= issued <= time.time() * 1000 + 1
        assert session == {
            "id": session_id,
            "generation": 0,
            "device": "小米",
            "device_kind": "phone",
            "expires_at": issued + HOUR,
            "last_seen": None,
        }
        assert outcome.document["user_id"] == "alice"
        assert outcome.document["sku"] == SKU
        assert outcome.document["ban"] is None

    def test_a_user_without_sessions_is_not_an_error(self, sessions: Command) -> None:
        outcome = sessions("list", "alice")
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out == "No living sessions of alice in shop.\n"
        assert sessions("list", "alice", "--json").document["sessions"] == []

    def test_a_ban_is_shown_first(self, sessions: Command) -> None:
        sessions("ban", "alice", "--reason", "spam")
        outcome = sessions("list", "alice")
        assert outcome.out.startswith("BANNED for ever.\nSince ")
        assert "Reason: spam\n" in outcome.out
        assert sessions("list", "alice", "--json").document["ban"]["reason"] == "spam"

    def test_nothing_that_a_client_sends_garbles_the_terminal(self, sessions: Command) -> None:
        user_id = "\u202e微😀" * 42
        (session_id,) = sessions.begin(user_id, device=NASTY, device_kind=NASTY)
        for call in (["list", user_id], ["show", user_id, session_id], ["online"]):
            outcome = sessions(*call)
            assert outcome.code == 0
            lines = outcome.out.splitlines()
            assert all(line.isprintable() for line in lines)
            assert call[0] != "list" or columns(lines[-1]) <= 80  # the row of the table
            assert len(outcome.out.split("\n")) == len(lines) + 1
            outcome = sessions(*call, "--json")
            assert all(char.isprintable() or char == "\n" for char in outcome.out)
        assert outcome.document["user_ids"] == [user_id]
        (session,) = sessions("list", user_id, "--json").document["sessions"]
        assert session["device"] == NASTY


class TestShow:
    def test_a_living_session_is_shown_in_full(self, sessions: Command) -> None:
        (session_id,) = sessions.begin("alice", device="iPhone 15", device_kind="phone")
        outcome = sessions("show", "alice", session_id)
        told = dict(line.split(maxsplit=1) for line in outcome.out.splitlines())
        assert outcome.code == 0
        shown = {"Session": session_id, "User": "alice", "Status": "active"}
        shown["Device"] = "iPhone 15 (phone)"
        assert shown.items() <= told.items()
        assert told["Expires"].endswith("(in 60m)")
        document = sessions("show", "alice", session_id, "--json").document
        assert (document["status"], document["session"]["id"]) == ("active", session_id)

    def test_a_session_whose_token_was_rotated_is_found(self, sessions: Command) -> None:
        (session_id,) = sessions.begin("alice")
        ref = SessionRef(SKU, "alice", session_id)
        sessions.ask(lambda store: store.rotate([ref], ttl=HOUR, grace=0))
        document = sessions("show", "alice", session_id, "--json").document
        assert document["status"] == "active"
        assert document["session"]["generation"] == 1
        assert document["session"]["last_seen"] is not None
        assert sessions("revoke", "alice", session_id).code == 0
        assert sessions("show", "alice", session_id, "--json").document["status"] == "revoked"

    @pytest.mark.parametrize(
        ("end", "status"),
        [(["revoke", "alice", "--all"], "revoked"), (["ban", "alice"], "banned")],
    )
    def test_shows_why_a_session_ended(
        self, sessions: Command, end: list[str], status: str
    ) -> None:
        (session_id,) = sessions.begin("alice")
        assert sessions(*end).code == 0
        outcome = sessions("show", "alice", session_id)
        assert outcome.code == 0
        assert f"Status      {status}: " in outcome.out
        document = sessions("show", "alice", session_id, "--json").document
        assert (document["status"], document["session"]) == (status, None)

    @pytest.mark.parametrize("json_", [[], ["--json"]])
    def test_show_fails_for_an_unknown_session(self, sessions: Command, json_: list[str]) -> None:
        (session_id,) = sessions.begin("bob")
        outcome = sessions("show", "alice", session_id, *json_)
        assert outcome.code == 1
        assert outcome.err.startswith(f"error: No session {session_id} of alice in shop is known")
        if json_:
            assert outcome.document["status"] == "unknown"
        else:
            assert not outcome.out


class TestRevoke:
    def test_revokes_one_session(self, sessions: Command) -> None:
        first, second = sessions.begin("alice", "alice")
        outcome = sessions("revoke", "alice", first)
        assert outcome == Outcome(0, f"Ended session {first} of alice in shop.\n", "")
        (left,) = sessions("list", "alice", "--json").document["sessions"]
        assert left["id"] == second
        outcome = sessions("revoke", "alice", first)
        assert outcome.code == 1
        assert outcome.err.startswith(f"error: Nothing ended: there is no living session {first}")
        document = sessions("revoke", "alice", second, "--json").document
        assert document == {"sku": SKU, "user_id": "alice", "session_id": second, "ended": 1}

    def test_revokes_all_sessions(self, sessions: Command) -> None:
        sessions.begin("alice", "alice", "bob")
        outcome = sessions("revoke", "alice", "--all")
        assert outcome == Outcome(0, "Ended 2 sessions of alice in shop.\n", "")
        outcome = sessions("revoke", "alice", "--all", "--json")
        assert (outcome.code, outcome.document["ended"]) == (1, 0)
        assert outcome.err == "error: Nothing ended: there is no session of alice in shop.\n"
        assert sessions("online", "--count").out == "1\n"

    def test_a_forgotten_argument_ends_no_session(self, sessions: Command) -> None:
        (session_id,) = sessions.begin("alice")
        outcome = sessions("revoke", "alice")
        assert outcome.code == 2
        assert "--all" in outcome.err
        assert sessions("revoke", "alice", session_id, "--all").code == 2
        assert len(sessions("list", "alice", "--json").document["sessions"]) == 1


class TestBans:
    def test_bans_for_a_time(self, sessions: Command) -> None:
        sessions.begin("alice", "alice")
        outcome = sessions("ban", "alice", "--for", "12h", "--reason", "spam, and more spam")
        assert outcome.code == 0
        done, until, since, reason = outcome.out.splitlines()
        assert done == "Banned alice in shop, and ended 2 sessions."
        assert until.startswith("BANNED until ")
        assert until.endswith("(in 12h).")
        assert since.startswith("Since ")
        assert reason == "Reason: spam, and more spam"
        assert sessions("ban-of", "alice").out.splitlines()[0] == until
        ban = sessions("ban-of", "alice", "--json").document["ban"]
        assert ban["until"] == ban["banned_at"] + 12 * HOUR

    def test_bans_permanently_and_unbans(self, sessions: Command) -> None:
        document = sessions("ban", "alice", "--json").document
        assert document["ended"] == 0
        assert document["ban"]["until"] is None
        assert sessions("unban", "alice").out == "alice may log in to shop again.\n"
        for action in ("unban", "ban-of"):
            outcome = sessions(action, "alice")
            assert outcome == Outcome(1, "", "error: alice is not banned in shop.\n")
        outcome = sessions("ban-of", "alice", "--json")
        assert (outcome.code, outcome.document["ban"]) == (1, None)

    def test_a_ban_lasts_for_the_given_duration(self, sessions: Command) -> None:
        for text, length in (("90s", 90_000), ("30m", 1_800_000), ("7d", 604_800_000)):
            ban = sessions("ban", "alice", "--for", text, "--json").document["ban"]
            assert ban["until"] - ban["banned_at"] == length


class TestOnline:
    def test_lists_users_page_by_page(self, sessions: Command) -> None:
        for user_id in ("alice", "bob", "carol"):
            sessions.begin(user_id)
        sessions.begin("alice")
        first = sessions("online", "--limit", "2")
        heading, blank, *users, blank_too, more = first.out.splitlines()
        assert heading == "Online in shop: 3, newest first."
        assert users == ["carol", "bob"]
        assert (blank, blank_too) == ("", "")
        _, option, cursor = more.split()
        second = sessions("online", "--limit", "2", option, cursor)
        assert second.out.splitlines() == [heading, "", "alice"]
        document = sessions("online", "--limit", "2", "--json").document
        assert document == {"sku": SKU, "count": 3, "user_ids": ["carol", "bob"], "cursor": cursor}

    def test_prints_only_the_count(self, sessions: Command) -> None:
        sessions.begin("alice", "alice", "bob")
        assert sessions("online", "--count").out == "2\n"
        assert sessions("online", "--count", "--json").document == {"sku": SKU, "count": 2}

    def test_an_empty_list_is_not_an_error(self, sessions: Command) -> None:
        outcome = sessions("online")
        assert outcome == Outcome(0, "Online in shop: 0, newest first.\n", "")

    def test_a_malformed_cursor_is_refused(self, sessions: Command) -> None:
        outcome = sessions("online", "--cursor", "nonsense")
        assert outcome.code == 2
        assert "cursor of the previous page" in outcome.err


class TestTheProcess:
    """What only a process of its own shows."""

    def test_an_unreachable_redis_is_reported_without_its_password(self) -> None:
        outcome = run("online", tokens="redis://:hush@127.0.0.1:1")
        assert outcome.code == 1
        assert outcome.err.startswith("error: Redis failed")
        assert "Traceback" not in outcome.err
        assert "hush" not in outcome.err

    def test_the_process_exits_with_0_and_no_warnings(self, sessions: Command) -> None:
        (session_id,) = sessions.begin("alice", device="小米")
        outcome = run("list", "alice", tokens=sessions.url)
        assert (outcome.code, outcome.err) == (0, "")
        assert session_id in outcome.out
        assert outcome.out.endswith("  小米\n")

    def test_characters_that_the_terminal_lacks_are_escaped(self, sessions: Command) -> None:
        sessions.begin("alice", device="小米")
        outcome = run("list", "alice", tokens=sessions.url, PYTHONIOENCODING="ascii")
        assert outcome.out.endswith("  \\u5c0f\\u7c73\n")
        outcome = run("list", "alice", "--json", tokens=sessions.url, PYTHONIOENCODING="ascii")
        assert outcome.out.isascii()
        assert outcome.document["sessions"][0]["device"] == "小米"

    def test_a_closed_pipe_is_not_an_error(self, sessions: Command) -> None:
        sessions.begin("alice")
        with process("list", "alice", tokens=sessions.url) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdout.close()
            assert child.stderr.read() == b""
            assert child.wait(60) == 0


def test_a_database_that_never_kept_sessions_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "users.db"
    sqlite_files.run(file, "CREATE TABLE user (openId TEXT)")
    outcome = run("list", "bob", tokens=f"sqlite:///{file}")
    assert outcome.code == 1
    assert "No sessions were ever kept" in outcome.err
    assert sqlite_files.query(file, "SELECT name FROM sqlite_master") == [("user",)]
