"""The merge of profiles, the same for all user stores."""

from collections.abc import Iterable
from dataclasses import replace

from ..models import PROFILE_FIELDS, User

__all__ = ["complete_profile", "merge_profile"]


def merge_profile(stored: User, newer: User) -> User:
    """Update a stored user's profile and unionId from a later login of the same user.

    A new value replaces an old one. An empty value never does, nor does a value of an anonymous
    profile. The openId, the times and all else stay as stored.

    Args:
        stored: the user as stored.
        newer: the user as WeChat gave them at the later login.

    Returns:
        The merged user; `stored` itself if nothing changes.
    """
    changes = {}
    for name in PROFILE_FIELDS:
        new, old = getattr(newer, name), getattr(stored, name)
        if new and new != old and not (old and newer.is_anonymous):
            changes[name] = new
    if newer.union_id and newer.union_id != stored.union_id:
        changes["union_id"] = newer.union_id
    return replace(stored, **changes) if changes else stored


def complete_profile(user: User, others: Iterable[User]) -> User:
    """Fill the gaps in a user's profile from other rows of the same user.

    An anonymous profile counts as a gap.

    Args:
        user: the user whose known values stay, with their ids and times.
        others: the rows to take values from; an earlier one takes precedence.

    Returns:
        The completed user.
    """
    for other in others:
        merged = merge_profile(other, user)
        user = replace(user, **{name: getattr(merged, name) for name in PROFILE_FIELDS})
    return user
