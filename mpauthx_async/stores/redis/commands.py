"""Commands for Redis, and the Lua scripts that they run."""

from collections.abc import Sequence
from functools import cache
from hashlib import sha1
from importlib.resources import files
from typing import Any, NamedTuple

__all__ = ["Command", "Script", "load_script", "script_command"]

_SHARED = {"issue": ("prelude", "login_policy")}  # by script; others share only the prelude


class Command(NamedTuple):
    """A command whose keys, of which `key` is one, are all in one slot of a Redis Cluster."""

    key: str
    args: tuple[Any, ...]
    script: str = ""  # the text of what an EVALSHA runs

    def with_script(self) -> "Command":
        """Turn an EVALSHA into an EVAL, for a server that does not know the script yet."""
        return self._replace(args=("EVAL", self.script, *self.args[2:]))


class Script(NamedTuple):
    """A Lua script, with what it shares with others; `sha` is its name in an EVALSHA."""

    text: str
    sha: str


def script_command(name: str, keys: Sequence[str], args: Sequence[str | int]) -> Command:
    """Make the command that runs a script with these KEYS and ARGV."""
    script = load_script(name)
    return Command(keys[0], ("EVALSHA", script.sha, len(keys), *keys, *args), script.text)


@cache
def load_script(name: str) -> Script:
    """Load a Lua script by its name."""
    folder = files(__package__) / "scripts"
    parts = [*_SHARED.get(name, ("prelude",)), name]
    text = "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in parts)
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())
