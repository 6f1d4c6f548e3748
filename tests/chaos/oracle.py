"""What a history of calls proves: judges them against what each acknowledged call promises.

All calls begin and end on one clock. A call is done, refused, or of unknown outcome: then it may
take effect at any time from its beginning on. So does a write to Redis that was acknowledged in a
lossy window, because a failover may lose what the replica did not have: it may also never happen.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import NamedTuple

__all__ = ["Call", "Issued", "Kind", "Oracle", "Outcome", "Row", "Token", "Windows"]

Windows = Sequence[tuple[float, float]]


class Kind(Enum):
    LOGIN = "login"
    REFRESH = "refresh"  # ends all other sessions of the person
    ROTATE = "rotate"
    USE = "use"  # is_token_valid or authenticate
    SESSIONS = "sessions"
    ONLINE = "online"
    REVOKE = "revoke"
    REVOKE_USER = "revoke_user"
    BAN = "ban"
    UNBAN = "unban"
    FORGET = "forget"


class Outcome(Enum):
    DONE = "done"
    INVALID = "invalid"  # the token is not valid
    BANNED = "banned"
    NOT_FOUND = "not found"  # the user is not known
    REFUSED = "refused"  # for another reason, and so without any effect
    UNKNOWN = "unknown"


class Token(NamedTuple):
    nonce: str
    generation: int


class Row(NamedTuple):
    """How many rows a person has in the end, and the version of their profile."""

    number: int
    version: int | None


@dataclass(frozen=True, slots=True)
class Issued:
    """What a login, a refresh or a rotation answers."""

    token: Token
    is_new: bool = False


@dataclass(slots=True, eq=False)
class Call:
    """A public call.

    Attributes:
        person: whom it is about; every id of theirs counts as one. -1 for a call about all.
        token: the token that was presented.
        issued: the token that was answered.
        seen: the nonces that `sessions` listed, or the persons that `online` listed.
        version: of the profile that a login brought.
        service: who was called, for the report.
    """

    kind: Kind
    person: int
    begin: float
    end: float
    outcome: Outcome = Outcome.DONE
    token: Token | None = None
    issued: Issued | None = None
    seen: frozenset[str] | frozenset[int] = field(default_factory=frozenset)
    version: int | None = None
    service: str = ""

    def __str__(self) -> str:
        return (
            f"{self.kind.value}({self.person}){_shown(self.token)}"
            f"{' ->' + _shown(self.issued.token) if self.issued else ''} {self.outcome.value} "
            f"[{self.begin:.3f}, {self.end:.3f}] {self.service}"
        )


_ENDS_ALL = (Kind.REVOKE_USER, Kind.BAN, Kind.FORGET, Kind.REFRESH)
_HAPPENED = (Outcome.DONE, Outcome.UNKNOWN)
_PRESENTS = (Kind.USE, Kind.ROTATE)
_MAX_ERASURES = 4  # of a user by one forget: once, and for each id that a login saved meanwhile


class Oracle:
    """Judges a history.

    Args:
        calls: the history, in any order.
        windows: when acknowledged writes to Redis may have been lost.
        bound: seconds for which a near cache may accept a token that has ended; 0 without one.
        grace: seconds for which a repeated rotation gets the same answer.
    """

    def __init__(
        self, calls: Iterable[Call], windows: Windows = (), *, bound: float = 0, grace: float = 0
    ) -> None:
        self._calls = sorted(calls, key=lambda call: call.begin)
        self._windows = windows
        self._bound, self._grace = bound, grace
        self._of_person: dict[int, dict[Kind, list[Call]]] = defaultdict(lambda: defaultdict(list))
        self._of_session: dict[str, list[Call]] = defaultdict(list)  # that present its tokens
        self._issues: dict[Token, list[Call]] = defaultdict(list)
        self._session_issue: dict[str, Call] = {}
        for call in self._calls:
            self._of_person[call.person][call.kind].append(call)
            if call.token is not None:
                self._of_session[call.token.nonce].append(call)
            if call.issued is not None and call.outcome is Outcome.DONE:
                self._issues[call.issued.token].append(call)
                if call.kind in (Kind.LOGIN, Kind.REFRESH):
                    self._session_issue[call.issued.token.nonce] = call
        self.violations: list[str] = []

    def judge(self, rows: Mapping[int, Row] | None = None) -> list[str]:
        """Judge the calls, and the rows of all persons at the end; returns the violations."""
        for nonce, issue in self._session_issue.items():
            self._judge_session(nonce, issue)
        for person in self._of_person:
            self._judge_bans(person)
            self._judge_novelty(person)
            self._judge_finding(person)
            if rows is not None and person >= 0:
                self._judge_row(person, rows.get(person, Row(0, None)))
        self._judge_online()
        return self.violations

    def _is_certain(self, call: Call) -> bool:
        """Whether what it wrote to Redis is written for ever."""
        return call.outcome is Outcome.DONE and not self._is_in_window(call)

    def _is_in_window(self, call: Call) -> bool:
        return any(start <= call.end and call.begin <= end for start, end in self._windows)

    def _last_effect(self, call: Call) -> float:
        return call.end if self._is_certain(call) else math.inf

    def _enders(self, call_of: Call) -> list[Call]:
        """What may end all sessions of a person but the one that a call issued."""
        kinds = self._of_person[call_of.person]
        return [one for kind in _ENDS_ALL for one in kinds[kind] if one is not call_of]

    def _judge_session(self, nonce: str, issue: Call) -> None:
        presented = self._of_session[nonce]
        ended = min(
            (
                call.end
                for call in (*self._enders(issue), *presented)
                if self._is_certain(call)
                and (
                    call.kind is Kind.REVOKE or (call.kind in _ENDS_ALL and issue.end < call.begin)
                )
            ),
            default=math.inf,
        )
        self._judge_accepted(presented, ended)
        self._judge_refused(issue, presented)
        for call in self._of_person[issue.person][Kind.SESSIONS]:
            if call.outcome is not Outcome.DONE:
                continue
            if nonce in call.seen and call.begin > ended:
                self._report("A session that had ended is listed", call, f"ended by {ended:.3f}")
            if nonce not in call.seen and self._is_alive(issue.issued, call):
                self._report("A living session is not listed", call, issue)

    def _judge_accepted(self, presented: Sequence[Call], ended: float) -> None:
        rotated: dict[Token, float] = {}
        refused: dict[Token, float] = {}
        for call in presented:
            if call.token is None:
                continue
            if call.kind is Kind.ROTATE and self._is_certain(call):
                rotated[call.token] = min(rotated.get(call.token, math.inf), call.end)
            if call.outcome is Outcome.INVALID and not self._is_in_window(call):
                refused[call.token] = min(refused.get(call.token, math.inf), call.end)
        for call in presented:
            if call.token is None or call.outcome is not Outcome.DONE:
                continue
            replaced = rotated.get(call.token, math.inf)
            if call.kind is Kind.USE:
                death = min(ended, replaced, refused.get(call.token, math.inf)) + self._bound
            elif call.kind is Kind.ROTATE:
                death = min(ended, replaced + self._grace)
            else:
                continue
            if (late := call.begin - death) > 0:
                self._report(f"A dead token is accepted, {late:.3f} s beyond its bound", call)

    def _judge_refused(self, issue: Call, presented: Sequence[Call]) -> None:
        for call in presented:
            is_invalid = call.outcome is Outcome.INVALID
            if is_invalid and call.token and self._is_alive(Issued(call.token), call):
                self._report("A living token is called invalid", call, issue)

    def _is_alive(self, issued: Issued | None, at: Call) -> bool:
        """Whether a token was acknowledged before a call, and nothing may have ended it since."""
        if issued is None or issued.token not in self._issues:
            return False
        token = issued.token
        session = self._session_issue.get(token.nonce)
        issues = self._issues[token]
        if session is None or not self._is_certain(session) or not self._is_certain(issues[0]):
            return False
        if at.begin <= min(issue.end for issue in issues):
            return False
        if any(
            call.outcome in _HAPPENED
            and call.begin < at.end
            and self._last_effect(call) > session.begin
            for call in self._enders(session)
        ):
            return False
        if at.kind is Kind.SESSIONS or at.kind is Kind.ONLINE:  # of whatever generation
            return not any(
                call.begin < at.end and (call.kind is Kind.REVOKE or self._may_be_reuse(call))
                for call in self._of_session[token.nonce]
            )
        return not any(
            call.begin < at.end and call is not at and self._may_end(call, token, issues[0])
            for call in self._of_session[token.nonce]
        )

    def _may_end(self, call: Call, token: Token, issue: Call) -> bool:
        """Whether a call that presents a token of the same session may end this one."""
        if call.token is None or call.kind is Kind.REVOKE:
            return call.outcome in _HAPPENED
        if call.token.generation < token.generation:  # a sign of theft
            return (
                call.kind in _PRESENTS
                and (call.outcome is Outcome.UNKNOWN or call.end > issue.begin)
                and call is not issue
                and call not in self._issues[token]
            )
        return call.kind is Kind.ROTATE and call.outcome in _HAPPENED

    def _may_be_reuse(self, call: Call) -> bool:
        """Whether a token that may have been rotated away was presented."""
        if call.token is None or call.kind not in _PRESENTS:
            return False
        return any(
            other.kind is Kind.ROTATE
            and other.outcome in _HAPPENED
            and other is not call
            and other.token is not None
            and other.token.generation >= call.token.generation
            for other in self._of_session[call.token.nonce]
        )

    def _judge_bans(self, person: int) -> None:
        kinds = self._of_person[person]
        bans = [ban for ban in kinds[Kind.BAN] if ban.outcome in _HAPPENED]
        unbans = [unban for unban in kinds[Kind.UNBAN] if unban.outcome in _HAPPENED]
        for call in (*kinds[Kind.LOGIN], *kinds[Kind.REFRESH]):
            if call.outcome is Outcome.DONE:
                for ban in bans:
                    if (
                        self._is_certain(ban)
                        and ban.end < call.begin
                        and not any(
                            unban.begin < call.end and self._last_effect(unban) > ban.begin
                            for unban in unbans
                        )
                    ):
                        self._report("A banned user is let in", call, ban)
            elif call.outcome is Outcome.BANNED and not any(
                ban.begin < call.end
                and not any(
                    self._is_certain(unban)
                    and unban.begin > self._last_effect(ban)
                    and unban.end < call.begin
                    and not self._may_unlink(person, ban, unban)
                    for unban in unbans
                )
                for ban in bans
            ):
                self._report("A user who is not banned is refused", call)

    def _may_unlink(self, person: int, ban: Call, unban: Call) -> bool:
        """Whether a ban may stay under other ids, because the user was forgotten before its end."""
        return any(
            forget.outcome in _HAPPENED
            and forget.begin < unban.end
            and self._last_effect(forget) > ban.begin
            for forget in self._of_person[person][Kind.FORGET]
        )

    def _judge_novelty(self, person: int) -> None:
        kinds = self._of_person[person]
        forgets = [forget for forget in kinds[Kind.FORGET] if forget.outcome in _HAPPENED]
        new = [
            call
            for call in kinds[Kind.LOGIN]
            if call.outcome is Outcome.DONE and call.issued is not None and call.issued.is_new
        ]
        new.sort(key=lambda call: call.end)
        for earlier, later in pairwise(new):
            if not any(
                forget.begin < later.end
                and (forget.outcome is Outcome.UNKNOWN or forget.end > earlier.begin)
                for forget in forgets
            ):
                self._report("A user is new twice", later, earlier)
        if len(new) > 1 + _MAX_ERASURES * len(forgets):
            self._report("A user is new more often than they were forgotten", new[-1])

    def _judge_finding(self, person: int) -> None:
        forgets = [one for one in self._of_person[person][Kind.FORGET] if one.outcome in _HAPPENED]
        for calls in self._of_person[person].values():
            for call in calls:
                if call.outcome is Outcome.NOT_FOUND and not any(
                    forget.begin < call.end for forget in forgets
                ):
                    self._report("A user who logged in is not known", call)

    def _judge_row(self, person: int, row: Row) -> None:
        """Of what the user database holds: it does not lose what Redis may lose."""
        kinds = self._of_person[person]
        forgets = [one for one in kinds[Kind.FORGET] if one.outcome in _HAPPENED]
        logins = [one for one in kinds[Kind.LOGIN] if one.outcome is Outcome.DONE]
        if row.number > 1:
            self._report(f"A user has {row.number} rows", logins[-1] if logins else person)

        def may_be_forgotten(login: Call) -> bool:
            return any(
                forget.outcome is Outcome.UNKNOWN or forget.end > login.begin for forget in forgets
            )

        if row.number == 0:
            for login in logins:
                if not may_be_forgotten(login):
                    self._report("An acknowledged user is lost", login)
                    break
        written = [
            one
            for one in kinds[Kind.LOGIN]
            if one.version is not None and one.outcome is not Outcome.REFUSED
        ]
        kept = [one for one in written if one.outcome is Outcome.DONE and not may_be_forgotten(one)]
        if kept and row.number and row.version is None:
            self._report("An acknowledged profile is lost", kept[-1])
        for login in written:
            if login.version == row.version and login.outcome is Outcome.DONE:
                for later in kept:
                    if later.begin > login.end:
                        self._report("An acknowledged profile was undone", later, login)
                        break

    def _judge_online(self) -> None:
        calls = [call for call in self._of_person[-1][Kind.ONLINE] if call.outcome is Outcome.DONE]
        for issue in self._session_issue.values():
            for call in calls:
                if issue.person not in call.seen and self._is_alive(issue.issued, call):
                    self._report("A user with a living session is not online", call, issue)

    def _report(self, what: str, *about: object) -> None:
        self.violations.append("; ".join((what, *map(str, about))))


def _shown(token: Token | None) -> str:
    return f" {token.nonce}.{token.generation}" if token else ""
