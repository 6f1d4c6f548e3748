"""A web backend of docs/examples, served as its users do: by a process of its own."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.helpers.serve_process import ServeProcess

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@asynccontextmanager
async def serving_backend(
    command: Sequence[str], folder: Path, environment: Mapping[str, str]
) -> AsyncIterator[ServeProcess]:
    """Run a module of Python beside the examples, in a folder, with warnings of what stays open."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-u", "-W", "always::ResourceWarning", "-m", *command),
        cwd=folder,
        env={
            **os.environ,
            **environment,
            "PYTHONPATH": os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")]),
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    backend = ServeProcess(process)
    try:
        backend.url = (await backend.printed(r"[Rr]unning on (http://127\.0\.0\.1:\d+)"))[1]
        yield backend
    finally:
        if process.returncode is None:
            process.kill()
        await backend.ended()
