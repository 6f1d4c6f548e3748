"""Steps: what happened between two parties, in words for the page."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...constants import TokenStatus
from ...errors import BannedError, InvalidTokenError, MPAuthXError
from ...events import (
    Banned,
    Event,
    LoggedIn,
    LoginFailed,
    Replaced,
    Revoked,
    Rotated,
    TokenReuseDetected,
    TokensValidated,
    Unbanned,
    UserForgotten,
)
from ...models import Ban, Session, User
from .round_trips import Trip

__all__ = ["WHY", "Step", "of_error", "of_event", "of_trip"]

WHY = {
    TokenStatus.active: "It is good.",
    TokenStatus.unknown: "It is not known here: expired, forgotten with its user, or forged.",
    TokenStatus.replaced: "A newer login replaced its session.",
    TokenStatus.revoked: "Its session was ended.",
    TokenStatus.banned: "Its user was banned.",
    TokenStatus.rotated: "It was rotated: a newer token took its place.",
    TokenStatus.reused: "An old token of this session was used again: a sign of theft.",
}
"""What each status of a token means."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened."""

    source: str  # who acted: phone, laptop, thief, operator, server or listener
    target: str  # on whom: one of these, or wechat, users or tokens
    title: str
    detail: str = ""  # why, or what it means
    value: str = ""  # the code, token or call itself
    seconds: float | None = None  # None if it was not timed
    story: str | None = None  # the thing to see that this completes
    is_bad: bool = False  # whether a request was refused


def of_trip(trip: Trip) -> Step:
    """Tell a trip of the server."""
    if trip.system == "wechat":
        (title, detail), value = _TO_WECHAT, trip.operation
    else:
        describe = _of_users if trip.system == "users" else _of_tokens
        title, detail = describe(trip.operation, _first(trip.result))
        value = f"{trip.system}.{trip.operation}"
    return Step("server", trip.system, title, detail, value, trip.seconds)


_TO_WECHAT = (
    "The code is exchanged",
    "WeChat tells whose code it is (the openId) and gives a session key. The key stays on the "
    "server, encrypted.",
)


def _first(result: object) -> object:
    """The answer to the one call of a batch: stores take and return sequences."""
    return result[0] if isinstance(result, Sequence) and len(result) == 1 else result


def _of_users(operation: str, result: object) -> tuple[str, str]:
    match operation, result:
        case "save", True:
            return "The user is saved", "Their first login: a new row."
        case "save", _:
            return "The user is saved", "A known user: the row is kept up to date."
        case "get", User():
            return "The user is looked up", "Found, with all ids they were ever seen with."
        case "get", _:
            return "The user is looked up", "Nobody of this id has logged in."
        case _, found:
            return "The user's row is erased", "" if found else "There was no row."


def _of_tokens(operation: str, result: object) -> tuple[str, str]:
    match operation, result:
        case "issue", Session(replaced=replaced):
            ended = f", and ended {_count(len(replaced))}" if replaced else ""
            return "A session begins", f"One atomic step applies the policy{ended}."
        case "issue" | "bans", Ban():
            return "Is the user banned?", "Yes. No session begins."
        case "bans", _:
            return "Is the user banned?", "No."
        case "lookup", int(end) if end > 0:
            return "Is the session alive?", "Yes."
        case "lookup", int(status):
            return "Is the session alive?", f"No. {WHY[TokenStatus(status)]}"
        case "lookup", _:
            return "Is the session alive?", "It is not known: expired, or forgotten with its user."
        case "rotate", Session() as session:
            new = f"Generation {session.ref.generation} takes over. "
            return "The token is rotated", new + _NO_GRACE
        case "rotate", TokenStatus() as status:
            return "The token is not rotated", WHY[status]
        case "end_reused", True:
            return "The session is ended", "Thief and owner both lose it; the owner logs in again."
        case "end_reused", _:
            return "The session is left as it is", "It has ended already."
        case "revoke", ended:
            return "The session is ended", "" if ended else "It was not alive."
        case "ban", ended:
            return "The ban is written", f"It ended {_count(ended)} in the same step."
        case "unban", was_banned:
            return "The ban is lifted", "" if was_banned else "There was no ban."
        case _, ended:
            return "The user's sessions are erased", f"{_count(ended).capitalize()} alive."


_NO_GRACE = "rotation_grace is 0 here, so that theft shows at once; by default it is 10 seconds."


def _count(sessions: object) -> str:
    return "1 session" if sessions == 1 else f"{sessions} sessions"


def of_event(event: Event) -> Step | None:
    """Tell an event that a listener heard; None for one that repeats what a trip told."""
    match event:
        case LoggedIn(is_new_user=is_new, seconds=seconds):
            return _heard(event, "a new user" if is_new else "a known user", "login", seconds)
        case LoginFailed(error=error, seconds=seconds):
            story = "ban" if isinstance(error, BannedError) else None
            return _heard(event, type(error).__name__, story, seconds)
        case Replaced(by=by):
            return _heard(event, f"by the login on the {by.device}", "second")
        case Rotated(session=session):
            return _heard(event, f"to generation {session.ref.generation}", "rotate")
        case TokenReuseDetected(ref=ref):
            return _heard(event, f"of generation {ref.generation}", "theft")
        case Revoked(ended=ended):
            return _heard(event, _count(ended), "logout")
        case Banned(ended=ended):
            return _heard(event, f"{_count(ended)} ended")
        case Unbanned():
            return _heard(event, "may log in again")
        case UserForgotten(ended=ended):
            return _heard(event, f"{_count(ended)} ended", "forget")
        case TokensValidated(valid=valid, refused=refused, seconds=seconds):
            detail = f"{valid} valid, {refused} refused"
            if seconds:
                return _heard(event, detail)
            return _heard(event, f"{detail}, without asking a store", "forge")
        case _:
            return None


def _heard(
    event: Event, detail: str, story: str | None = None, seconds: float | None = None
) -> Step:
    return Step("server", "listener", type(event).__name__, detail, "", seconds, story)


def of_error(device: str, error: MPAuthXError) -> Step:
    """Tell the answer to a request that was refused."""
    detail, value = str(error), type(error).__name__
    if isinstance(error, InvalidTokenError):
        detail, value = WHY[error.status], f"{value}: {error.status.name}"
    elif isinstance(error, BannedError):
        detail = f"The user is banned: {error.reason}."
    return Step("server", device, f"Refused with {error.http_status}", detail, value, is_bad=True)
