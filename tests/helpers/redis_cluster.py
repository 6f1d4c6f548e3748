"""RedisClusterServers: a real Redis Cluster of three primaries, each with a replica."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self

from redis import Redis
from redis.crc import key_slot

from tests.helpers.redis_server import RedisServer
from tests.helpers.server_process import wait_until

_PRIMARIES = 3
_SLOTS = 16_384
_NODE_TIMEOUT = "2000"  # milliseconds after which a silent node counts as failed


@contextmanager
def cluster_of_one_node() -> Iterator[RedisServer]:
    """A Redis Cluster that refuses what would cross slots as a large one does."""
    with RedisServer(cluster_enabled="yes") as server:
        ask(server, "CLUSTER", "ADDSLOTS", *range(_SLOTS))
        wait_for_cluster(server)
        yield server


def wait_for_cluster(node: RedisServer) -> None:
    """Return when the node takes commands: a primary waits two seconds before it takes writes."""
    wait_until(lambda: _info(node, "cluster_state") == "ok")


class RedisClusterServers:
    """Six nodes; each primary holds a third of the slots.

    Attributes:
        primaries: the nodes that were primaries at the start, in the order of their slots.
        replicas: their replicas at the start, in the same order.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.primaries: Sequence[RedisServer] = ()
        self.replicas: Sequence[RedisServer] = ()

    @property
    def port(self) -> int:
        """The port of a node that tells a client about all others."""
        return self.primaries[0].port

    def __enter__(self) -> Self:
        nodes = [self._stack.enter_context(_node()) for _ in range(2 * _PRIMARIES)]
        self.primaries, self.replicas = nodes[:_PRIMARIES], nodes[_PRIMARIES:]
        for i, primary in enumerate(self.primaries):
            slots = range(i * _SLOTS // _PRIMARIES, (i + 1) * _SLOTS // _PRIMARIES)
            ask(primary, "CLUSTER", "ADDSLOTS", *slots)
            ask(primary, "CLUSTER", "SET-CONFIG-EPOCH", i + 1)
        for node in nodes[1:]:
            ask(node, "CLUSTER", "MEET", "127.0.0.1", self.port)
        wait_until(
            lambda: all(_info(node, "cluster_known_nodes") == str(len(nodes)) for node in nodes)
        )
        for primary, replica in zip(self.primaries, self.replicas, strict=True):
            ask(replica, "CLUSTER", "REPLICATE", node_id(primary))
        self.wait_until_whole()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wait_until_whole(self) -> None:
        """Return when all nodes take commands and agree, and each replica follows its primary."""
        nodes = [*self.primaries, *self.replicas]
        wait_until(lambda: all(map(_is_whole, nodes)) and len(set(map(_slots, nodes))) == 1)

    def current_primaries(self) -> list[RedisServer]:
        """The nodes that are primaries now, in the order of `primaries`."""
        pairs = zip(self.primaries, self.replicas, strict=True)
        return [next(node for node in pair if _role(node) == "master") for pair in pairs]

    def wait_for_takeover(self, i: int) -> None:
        """Return when the replica that followed a primary at the start is one itself."""
        wait_until(lambda: _role(self.replicas[i]) == "master")

    def fail_over(self, i: int) -> None:
        """Swap the roles of a primary and its replica; returns when all nodes know."""
        successor = next(
            node for node in (self.primaries[i], self.replicas[i]) if _role(node) == "slave"
        )
        ask(successor, "CLUSTER", "FAILOVER")
        wait_until(lambda: _role(successor) == "master")
        self.wait_until_whole()


class MovingSlot:
    """A slot on its way from the primary that has its keys to another primary.

    Args:
        servers: the cluster.
        key: a key in the slot, which exists.

    Attributes:
        target: where it moves to.
    """

    def __init__(self, servers: RedisClusterServers, key: str) -> None:
        self._primaries = servers.current_primaries()
        self._slot = key_slot(key.encode())
        place = next(i for i, node in enumerate(self._primaries) if self._keys_on(node))
        self._source = self._primaries[place]
        self.target = self._primaries[(place + 1) % _PRIMARIES]
        ask(self.target, "CLUSTER", "SETSLOT", self._slot, "IMPORTING", node_id(self._source))
        ask(self._source, "CLUSTER", "SETSLOT", self._slot, "MIGRATING", node_id(self.target))

    def move(self, keys: Sequence[str]) -> None:
        """Move those of these keys that exist."""
        ask(self._source, "MIGRATE", "127.0.0.1", self.target.port, "", 0, 5000, "KEYS", *keys)

    def finish(self) -> None:
        """Move all other keys; returns when all primaries know where the slot is."""
        while keys := self._keys_on(self._source):
            self.move(keys)
        for node in sorted(self._primaries, key=lambda node: node is not self.target):
            ask(node, "CLUSTER", "SETSLOT", self._slot, "NODE", node_id(self.target))

    def _keys_on(self, node: RedisServer) -> list[str]:
        return list(ask(node, "CLUSTER", "GETKEYSINSLOT", self._slot, 100))


def ask(node: RedisServer, *command: Any) -> Any:
    """Send a command to this node."""
    with Redis(port=node.port, decode_responses=True) as client:
        return client.execute_command(*command)


def node_id(node: RedisServer) -> str:
    return str(ask(node, "CLUSTER", "MYID"))


def _node() -> RedisServer:
    return RedisServer(
        cluster_enabled="yes",
        cluster_node_timeout=_NODE_TIMEOUT,
        cluster_replica_validity_factor="0",
        repl_diskless_sync_delay="0",
    )


def _info(node: RedisServer, name: str) -> str:
    with Redis(port=node.port, decode_responses=True) as client:
        return str(client.cluster("INFO")[name])


def _role(node: RedisServer) -> str:
    return str(ask(node, "ROLE")[0])


def _is_whole(node: RedisServer) -> bool:
    role = ask(node, "ROLE")
    is_linked = role[0] == "master" or role[3] == "connected"
    return is_linked and _info(node, "cluster_state") == "ok"


def _slots(node: RedisServer) -> frozenset[tuple[str, ...]]:
    """What a node knows of the slots: who holds them, and since which epoch."""
    lines = [line.split() for line in ask(node, "CLUSTER", "NODES").splitlines()]
    # Id, address, flags, primary, ping, pong, epoch, link and slots.
    return frozenset((line[0], *line[6:7], *line[8:]) for line in lines if "master" in line[2])
