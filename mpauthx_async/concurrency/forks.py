"""Forks: what a child process finds in its memory and has to leave to its parent.

A socket, a selector or a SQLite file that both processes use corrupts what the parent does, and so
does closing it in the child: closing a transport takes it off the selector that both share. Freeing
an object closes it as well, so in the child such objects are never freed.
"""

import os
from functools import cache
from typing import Protocol
from weakref import WeakSet

__all__ = ["Inheritable", "never_free", "unwatch", "watch"]


class Inheritable(Protocol):
    """Something that a child process must not use."""

    def leave_to_parent(self) -> None:
        """Called in a child process right after the fork. It must not touch any file or socket."""


_watched: WeakSet[Inheritable] = WeakSet()  # global because a fork is


def watch(thing: Inheritable) -> None:
    """Call `leave_to_parent` in each child process that is forked from now on."""
    _register()
    _watched.add(thing)


def never_free(thing: object) -> None:
    """Keep an object, and all that it refers to, from being freed, even when the process ends."""
    import ctypes  # only a forked child needs it

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def unwatch(thing: Inheritable) -> None:
    """Let child processes do as they like with it, because it is closed."""
    _watched.discard(thing)


@cache
def _register() -> None:
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(after_in_child=_leave_all)


def _leave_all() -> None:
    things = list(_watched)
    _watched.clear()
    for thing in things:
        thing.leave_to_parent()
