"""ClusterNodes: asks the nodes of a Redis Cluster, each by itself.

redis-py's own client of a cluster shares the fate of its nodes: when one does not answer, the next
command of anybody first asks for the cluster's slots, maybe the same node. So commands go straight
to the nodes here, and the slots are learned anew beside them. Before its version 7.2 it also closes
all connections when it learns the slots, those that wait for an answer too.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode, PipelineCommand
from redis.cluster import PRIMARY, REPLICA, get_node_name
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ConnectionError,
    MovedError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    TimeoutError,
    TryAgainError,
)
from redis.utils import str_if_bytes

from .commands import Command

__all__ = ["ClusterNodes"]

logger = logging.getLogger(__name__)

_UNANSWERED = (ConnectionError, TimeoutError, OSError)
_PATIENCE = 1.0  # seconds for a node to tell the slots, before another one is asked


class ClusterNodes:
    """The nodes of a cluster, as the client knows them.

    Args:
        client: whose nodes and connections are used.
    """

    def __init__(self, client: RedisCluster) -> None:
        self._client = client
        self._manager = client.nodes_manager
        self._first_nodes = dict(self._manager.startup_nodes)
        self._silent: set[str] = set()  # the names of nodes that left their last call unanswered
        self._learning: asyncio.Task[None] | None = None

    @property
    def know_slots(self) -> bool:
        """Whether a node has told which node holds which slots."""
        return bool(self._manager.slots_cache)

    def name_of(self, key: str) -> str:
        """Name the node that holds a key; empty while the slots are not known."""
        node = self._holder(key)
        return "" if node is None else str(node.name)

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one trip to the node that holds the key of the first of them.

        A command for a slot that has moved (MOVED), or for a key that has (ASK), is sent again to
        the node that holds it. While a slot moves, an MGET is refused (TRYAGAIN) when some of its
        keys have moved or do not exist, so each key is then read by itself.

        Returns:
            For each command the answer, or the exception that stands for it.

        Raises:
            RedisError, OSError: what redis-py raises when a node cannot be reached.
        """
        node = self._holder(commands[0].key)
        if node is None:
            await self.learn_slots()
            node = self._holder(commands[0].key)
            if node is None:
                raise RedisClusterException("No node of the Redis Cluster holds this slot.")
        answers = await self._pipeline(node, commands)
        elsewhere: dict[tuple[str, bool], list[int]] = {}
        for i, answer in enumerate(answers):
            if isinstance(answer, AskError):  # MovedError is one, too
                has_moved = isinstance(answer, MovedError)
                elsewhere.setdefault((self._name_in(answer), has_moved), []).append(i)
                if has_moved:
                    self.begin_to_learn_slots(answer)
        for (name, has_moved), places in elsewhere.items():
            followed = [commands[i] for i in places]
            try:
                found = await self._pipeline(self._node(name), followed, asking=not has_moved)
            except Exception as error:  # noqa: BLE001 (theirs alone: the others were answered)
                found = [error] * len(places)
            for i, answer in zip(places, found, strict=True):
                answers[i] = answer
        for i, answer in enumerate(answers):
            if isinstance(answer, TryAgainError) and commands[i].args[0] == "MGET":
                answers[i] = await self._get_each(commands[i].args[1:])
        return answers

    async def learn_slots(self, error: Exception | None = None) -> None:
        """Learn which node holds which slots, together with all who want that now.

        Args:
            error: why. The node that a MOVED names is asked first, for it knows.

        Raises:
            RedisClusterException: no node has ever told.
        """
        await asyncio.shield(self.begin_to_learn_slots(error))

    def begin_to_learn_slots(self, error: Exception | None = None) -> "asyncio.Task[None]":
        """Begin what `learn_slots` waits for, if it has not begun."""
        if self._learning is None or self._learning.done():
            first = self._name_in(error) if isinstance(error, MovedError) else None
            self._learning = asyncio.create_task(self._learn_slots(first))
            self._learning.add_done_callback(_look_at_failure)
        return self._learning

    async def close(self) -> None:
        """Stop what was begun here; the client stays open."""
        if self._learning is not None and not self._learning.done():
            self._learning.cancel()
            with suppress(asyncio.CancelledError, RedisClusterException):
                await self._learning

    async def _learn_slots(self, first: str | None) -> None:
        """Ask one node after another, for redis-py has no limit of time for each."""
        manager = self._manager
        known = self._first_nodes | manager.startup_nodes | manager.nodes_cache
        for name in sorted(known, key=lambda name: (name != first, name in self._silent)):
            try:
                async with asyncio.timeout(_PATIENCE):
                    if manager.slots_cache:
                        await self._ask_for_slots(known[name])
                    else:
                        await self._initialize_client(known[name])
            except Exception as error:  # noqa: BLE001 (also what redis-py does not document)
                self._silent.add(name)
                logger.debug("A node of the Redis Cluster did not tell the slots: %s", error)
            else:
                self._silent &= set(manager.nodes_cache) - {name}
                break
        if not manager.slots_cache:
            raise RedisClusterException("No node of the Redis Cluster tells the slots.")

    async def _initialize_client(self, node: ClusterNode) -> None:
        """Learn the slots for the first time, as redis-py does, but from this node alone."""
        startup = self._manager.startup_nodes
        self._manager.startup_nodes = {node.name: node}
        try:
            await self._client.initialize()
        finally:
            self._manager.startup_nodes = startup

    async def _ask_for_slots(self, node: ClusterNode) -> None:
        """Learn the slots anew from a node, and leave all connections as they are."""
        # Each range is its first and last slot, its primary and its replicas. Each of these is a
        # host, empty for that of the node that is asked, a port, and more.
        holding: set[str] = set()
        for first, last, *holders in await node.execute_command("CLUSTER SLOTS"):
            nodes = []
            for host, port, *_ in holders:
                address = self._manager.remap_host_port(str_if_bytes(host) or node.host, int(port))
                nodes.append(self._node(str(get_node_name(*address))))
                nodes[-1].server_type = REPLICA if nodes[1:] else PRIMARY
            holding.update(node.name for node in nodes)
            for slot in range(first, last + 1):
                self._manager.slots_cache[slot] = [*nodes]
        for name in set(self._manager.nodes_cache) - holding - set(self._first_nodes):
            gone = self._manager.nodes_cache.pop(name)
            with suppress(RedisError, OSError):
                await gone.disconnect()

    async def _pipeline(
        self, node: ClusterNode, commands: Sequence[Command], *, asking: bool = False
    ) -> list[Any]:
        answers = await self._trip(node, commands, asking)
        unknown = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:
            again = [commands[i].with_script() for i in unknown]
            for i, answer in zip(unknown, await self._trip(node, again, asking), strict=True):
                answers[i] = answer
        return answers

    async def _get_each(self, keys: Sequence[str]) -> Any:
        """Answer an MGET key by key, for a command of one key is never refused (TRYAGAIN)."""
        values = await self.send([Command(key, ("GET", key)) for key in keys])
        return next((value for value in values if isinstance(value, Exception)), values)

    async def _trip(
        self, node: ClusterNode, commands: Sequence[Command], asking: bool
    ) -> list[Any]:
        sent = [PipelineCommand(i, *command.args) for i, command in enumerate(commands)]
        if asking:  # it counts for the one command that follows it on this connection
            pairs = [(PipelineCommand(one.position, "ASKING"), one) for one in sent]
            await self._execute(node, [one for pair in pairs for one in pair])
        else:
            await self._execute(node, sent)
        return [one.result for one in sent]

    async def _execute(self, node: ClusterNode, sent: Sequence[PipelineCommand]) -> None:
        try:
            await node.execute_pipeline(list(sent))
        except BaseException:  # a caller's time is over, too
            self._silent.add(node.name)
            raise
        if any(isinstance(one.result, _UNANSWERED) for one in sent):
            self._silent.add(node.name)
            self.begin_to_learn_slots()  # another node may have taken its place
        else:
            self._silent.discard(node.name)

    def _holder(self, key: str) -> ClusterNode | None:
        nodes = self._manager.slots_cache.get(key_slot(key.encode()))
        return nodes[0] if nodes else None

    def _name_in(self, error: MovedError | AskError) -> str:
        return str(get_node_name(error.host, error.port))

    def _node(self, name: str) -> ClusterNode:
        """A node by its name; it may hold no slots yet, so that none told of it."""
        node: ClusterNode | None = self._manager.nodes_cache.get(name)
        if node is None:
            host, _, port = name.rpartition(":")
            node = ClusterNode(host, int(port), **self._manager.connection_kwargs)
            self._manager.set_nodes(self._manager.nodes_cache, {name: node})
        return node


def _look_at_failure(learning: "asyncio.Task[None]") -> None:
    """Look at it once, or asyncio logs that nobody has: whoever waits for it gets it."""
    if not learning.cancelled():
        learning.exception()
