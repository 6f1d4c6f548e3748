from pathlib import Path

import pytest

from tests.helpers.command_line import Command, empty_store


@pytest.fixture(params=["sqlite", "redis"])
def sessions(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Command:
    """The command line on an empty store of each kind."""
    return Command(empty_store(request, tmp_path), capsys)
