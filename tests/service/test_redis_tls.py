"""TLS with an authority of one's own: a single Redis, one behind Sentinels, and a Cluster."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme
from redis import Redis
from redis.exceptions import RedisError

from mpauthx_async import Identity, RedisTokenStore, StoreError
from mpauthx_async.stores.conformance import new_session
from mpauthx_async.stores.conformance.examples import until
from tests.helpers.server_process import free_port, wait_until

PRIMARY = "shop"
MAX_PORT = 55_000  # a node of a cluster also listens on its port + 10,000


class TlsServers:
    """Servers that speak nothing but TLS, with certificates of one authority.

    Attributes:
        directory: holds `ca.pem`.
    """

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        self.directory = directory
        self._stack = stack
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(directory / "ca.pem"))
        certificate = authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem
        certificate.write_to_path(str(directory / "server.pem"))

    def start(self, settings: Sequence[str], *arguments: str) -> int:
        """Start a server; returns its port."""
        port = next(port for port in iter(free_port, 0) if port < MAX_PORT)
        file = self.directory / f"{port}.conf"
        lines = (
            *("bind 127.0.0.1", "port 0", f"tls-port {port}", f"dir {self.directory}"),
            f"tls-cert-file {self.directory}/server.pem",
            f"tls-key-file {self.directory}/server.pem",
            f"tls-ca-cert-file {self.directory}/ca.pem",
            *("tls-auth-clients no", "tls-replication yes", *settings),
        )
        file.write_text("\n".join(lines))
        process = subprocess.Popen(
            [find_tls_server(), str(file), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        wait_until(lambda: self._answers(port, process))
        return port

    def ask(self, port: int, *command: str | int) -> object:
        ca = str(self.directory / "ca.pem")
        with Redis(port=port, host="127.0.0.1", ssl=True, ssl_ca_certs=ca) as client:
            return client.execute_command(*command)

    def _answers(self, port: int, process: "subprocess.Popen[bytes]") -> bool:
        assert process.poll() is None
        try:
            self.ask(port, "PING")
        except (RedisError, OSError):
            return False
        return True


def find_tls_server() -> str:
    """The first redis-server on PATH that is built with TLS: those in wheels are not."""
    for directory in os.get_exec_path():
        path = shutil.which("redis-server", path=directory)
        if path is not None and b"No tls-cert-file configured" in Path(path).read_bytes():
            return path
    raise RuntimeError(
        "TLS is tested with a redis-server that is built with it: 'apt-get install redis-server' "
        "or 'brew install redis'."
    )


@pytest.fixture(scope="module")
def servers() -> Iterator[TlsServers]:
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        yield TlsServers(stack, Path(directory))


@pytest.fixture(scope="module")
def single(servers: TlsServers) -> str:
    return f"rediss://127.0.0.1:{servers.start(())}/0"


@pytest.fixture(scope="module")
def sentinel(servers: TlsServers) -> str:
    primary = servers.start(())
    monitor = f"sentinel monitor {PRIMARY} 127.0.0.1 {primary} 1"
    port = servers.start((monitor,), "--sentinel")
    return f"rediss+sentinel://127.0.0.1:{port}/{PRIMARY}"


@pytest.fixture(scope="module")
def cluster(servers: TlsServers) -> str:
    port = servers.start(("cluster-enabled yes", "tls-cluster yes"))
    servers.ask(port, "CLUSTER", "ADDSLOTS", *range(16384))
    wait_until(lambda: "cluster_state:ok" in str(servers.ask(port, "CLUSTER", "INFO")))
    return f"rediss+cluster://127.0.0.1:{port}"


@pytest.fixture(params=["single", "sentinel", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
async def test_an_authority_of_ones_own_is_trusted_when_the_url_names_it(
    url: str, scheme: str, servers: TlsServers
) -> None:
    named = f"{url.replace('rediss', scheme)}?ssl_ca_certs={servers.directory}/ca.pem"
    session = new_session("bob")
    async with RedisTokenStore(named) as store:
        await store.check()
        await store.issue([session])
        assert await store.lookup([session.ref]) != [None]


@pytest.mark.parametrize("server", ["single", "sentinel"])
async def test_changes_are_pushed_over_tls(
    server: str, request: pytest.FixtureRequest, servers: TlsServers
) -> None:
    url = f"{request.getfixturevalue(server)}?ssl_ca_certs={servers.directory}/ca.pem"
    session = new_session("bob")
    ref, token = session.ref, "bob's token"
    async with RedisTokenStore(url) as elsewhere, RedisTokenStore(url, near_cache=10) as store:
        near = store.open_near_cache()
        await store.issue([session])

        async def is_kept() -> bool:
            expected = near.expect(ref.nonce)
            (end,) = await store.lookup([ref])
            near.keep(expected, Identity(ref.user_id, ref.nonce, ref.sku, token), end)
            return near.known(token) is not None

        async def is_forgotten() -> bool:
            return near.is_on and near.known(token) is None

        await until(is_kept)
        await elsewhere.revoke([ref])
        await until(is_forgotten)


async def test_an_unknown_authority_is_an_error_that_names_the_option(url: str) -> None:
    async with RedisTokenStore(url) as store:
        with pytest.raises(StoreError, match=r"\?ssl_ca_certs=FILE"):
            await store.lookup([new_session("bob").ref])


async def test_a_url_without_tls_reaches_no_server_that_insists_on_it(url: str) -> None:
    async with RedisTokenStore(url.replace("rediss", "redis")) as store:
        with pytest.raises(StoreError):
            await store.lookup([new_session("bob").ref])
