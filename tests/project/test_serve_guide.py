"""The guide to the server names each of its options."""

import dataclasses
import re
from pathlib import Path

from mpauthx_async.cli.serve.options import ServerOptions

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "serve.md"


def test_the_table_has_every_option_and_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \|(?: `(\S+)`| needed)? \| \S", GUIDE.read_text(), re.MULTILINE)
    assert rows == [(each.name, shown(each.default)) for each in dataclasses.fields(ServerOptions)]


def shown(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:.0f}" if isinstance(default, float) else str(default or "")
