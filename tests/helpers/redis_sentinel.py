"""RedisSentinels: a real primary with its replica, watched by three real Sentinels."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

from redis import Redis
from redis.exceptions import RedisError

from tests.helpers.redis_server import RedisServer, answers, launch
from tests.helpers.server_process import ServerProcess, free_port, wait_until

PRIMARY_NAME = "mymaster"
_SENTINELS = 3
_DOWN_AFTER = 1000  # milliseconds after which a silent Redis counts as down
_FAILOVER_TIMEOUT = 5000  # milliseconds


class _Sentinel(ServerProcess):
    """A Sentinel process."""

    def __init__(self, primary: RedisServer) -> None:
        super().__init__()
        self._primary = primary
        self.port = 0

    def start(self) -> None:
        """Start it, or start it again with what it knew."""
        for _ in range(1 if self.port else 10):
            port = self.port or free_port()
            settings = self.folder / "sentinel.conf"
            if not self.port:
                settings.write_text(self._settings(port))
            self.process = launch([str(settings), "--sentinel"])
            if answers(self.process, port):
                self.port = port
                return
        raise RuntimeError("The Sentinel did not start.")

    def _settings(self, port: int) -> str:
        return "\n".join(
            (
                "bind 127.0.0.1",
                f"port {port}",
                f"dir {self.folder}",
                f"sentinel monitor {PRIMARY_NAME} 127.0.0.1 {self._primary.port} 2",
                f"sentinel down-after-milliseconds {PRIMARY_NAME} {_DOWN_AFTER}",
                f"sentinel failover-timeout {PRIMARY_NAME} {_FAILOVER_TIMEOUT}",
                "",
            )
        )


class RedisSentinels:
    """A primary and its replica, whose roles the Sentinels swap.

    Attributes:
        servers: the two.
        sentinels: the three.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.servers: Sequence[RedisServer] = ()
        self.sentinels: Sequence[_Sentinel] = ()

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{PRIMARY_NAME}"

    @property
    def primary(self) -> RedisServer:
        """The server that most Sentinels name."""
        named = [port for port in map(_named_port, self.sentinels) if port]
        port = max(set(named), key=named.count)
        return next(server for server in self.servers if server.port == port)

    @property
    def replica(self) -> RedisServer:
        primary = self.primary
        return next(server for server in self.servers if server is not primary)

    def wait_until_whole(self) -> None:
        """Return when all Sentinels agree, see one another and a replica that has caught up."""
        wait_until(self._is_whole)

    def wait_for_failover(self, earlier: RedisServer) -> None:
        """Return when all living Sentinels name another primary."""
        wait_until(lambda: earlier.port not in map(_named_port, self.sentinels))

    def wait_for_replicas(self, number: int) -> None:
        """Return when each Sentinel sees so many replicas, and they follow the primary."""
        wait_until(lambda: all(_replica_links(one) == ["ok"] * number for one in self.sentinels))

    def fail_over(self) -> None:
        """Let the Sentinels swap the roles; the earlier primary goes on for some seconds."""
        with Redis(port=self.sentinels[0].port) as client:
            client.execute_command("SENTINEL", "FAILOVER", PRIMARY_NAME)

    def __enter__(self) -> Self:
        self.servers = [
            self._stack.enter_context(RedisServer(repl_diskless_sync_delay="0")) for _ in range(2)
        ]
        primary, replica = self.servers
        with Redis(port=replica.port) as client:
            client.execute_command("REPLICAOF", "127.0.0.1", primary.port)
        self.sentinels = [self._stack.enter_context(_Sentinel(primary)) for _ in range(_SENTINELS)]
        self.wait_until_whole()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _is_whole(self) -> bool:
        primary = self.primary
        for sentinel in self.sentinels:
            with Redis(port=sentinel.port, decode_responses=True) as client:
                state = client.execute_command("SENTINEL MASTER", PRIMARY_NAME)
                if state["port"] != primary.port:
                    return False
                others = state["num-other-sentinels"], state["num-slaves"]
                if others != (_SENTINELS - 1, 1) or "down" in state["flags"]:
                    return False
                (replica,) = client.sentinel_slaves(PRIMARY_NAME)
                if replica["master-link-status"] != "ok" or replica["is_sdown"]:
                    return False
        with Redis(port=self.replica.port, decode_responses=True) as client:
            role = client.execute_command("ROLE")
        return bool(role[0] == "slave" and role[3] == "connected")


def _named_port(sentinel: _Sentinel) -> int | None:
    """The port of the primary that a Sentinel names; None if it does not answer."""
    try:
        with Redis(port=sentinel.port, socket_timeout=1) as client:
            _, port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", PRIMARY_NAME)
    except RedisError:
        return None
    return int(port)


def _replica_links(sentinel: _Sentinel) -> list[str]:
    """What a Sentinel knows of the replicas' connections to the primary."""
    with Redis(port=sentinel.port, decode_responses=True) as client:
        return [replica["master-link-status"] for replica in client.sentinel_slaves(PRIMARY_NAME)]
