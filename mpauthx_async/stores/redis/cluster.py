"""ClusterNodes: sends commands to the nodes of a Redis Cluster, so that each node fails alone.

With redis-py's RedisCluster, a node that hangs delays the commands for all nodes: the next command
first asks for the cluster's slots, perhaps that same node. Before version 7.2 it also closes all
connections when it learns the slots, even those in use. So commands are sent directly to the nodes
here, while the slots are learned in a task.
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
    TimeoutError,
    TryAgainError,
)
from redis.utils import str_if_bytes

from ..._compat import timeout
from .commands import Command
from .failures import redacted_text

__all__ = ["ClusterNodes"]

logger: logging.Logger = logging.getLogger(__name__)

_UNANSWERED = (ConnectionError, TimeoutError, OSError)
_MAX_SLOTS_SECONDS = 1.0  # for a node to send the slots, before the next one is asked


class ClusterNodes:
    """The nodes of a cluster, with the connections of a client, whose slots are kept current."""

    def __init__(self, client: RedisCluster) -> None:
        self._client = client
        self._manager = client.nodes_manager
        self._first_nodes = dict(self._manager.startup_nodes)
        self._silent: set[str] = set()  # names of nodes that did not answer their last call
        self._learning: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def know_slots(self) -> bool:
        """Whether any node has sent the slots."""
        return bool(self._manager.slots_cache)

    def name_of(self, key: str) -> str:
        """The name of the node that holds a key; empty while the slots are not known."""
        node = self._holder(key)
        return "" if node is None else str(node.name)

    async def send(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one trip to the node that holds the key of the first of them.

        A command for a slot (MOVED) or key (ASK) that has moved is sent again to its new node. An
        MGET that is refused (TRYAGAIN), because some of its keys have moved already or do not
        exist, is answered key by key.

        Returns the answer to each command, or its exception; raises if a node cannot be reached.
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

        async def follow(name: str, has_moved: bool, places: Sequence[int]) -> None:
            followed = [commands[i] for i in places]
            try:
                found = await self._pipeline(self._node(name), followed, asking=not has_moved)
            except Exception as error:  # noqa: BLE001 (the other commands were answered)
                found = [error] * len(places)
            for i, answer in zip(places, found, strict=True):
                answers[i] = answer

        if elsewhere:  # at once, so that a node that hangs takes no other node's time
            await asyncio.gather(*(follow(*to, places) for to, places in elsewhere.items()))
        for i, answer in enumerate(answers):
            if isinstance(answer, TryAgainError) and commands[i].args[0] == "MGET":
                answers[i] = await self._get_each(commands[i].args[1:])
        return answers

    async def learn_slots(self, error: Exception | None = None) -> None:
        """Learn which node holds which slots; concurrent calls are one.

        The node that a MOVED names is asked first. It raises if no node has ever sent the slots.
        """
        await asyncio.shield(self.begin_to_learn_slots(error))

    def begin_to_learn_slots(self, error: Exception | None = None) -> "asyncio.Task[None]":
        """Begin to learn the slots, unless that is in progress."""
        if self._learning is None or self._learning.done():
            first = self._name_in(error) if isinstance(error, MovedError) else None
            self._learning = asyncio.create_task(self._learn_slots(first))
            self._learning.add_done_callback(_retrieve_exception)
        return self._learning

    async def close(self) -> None:
        """Stop learning the slots, and close nodes that have left; the client stays open."""
        if self._learning is not None and not self._learning.done():
            self._learning.cancel()
            with suppress(asyncio.CancelledError, RedisClusterException):
                await self._learning
        if self._closing:
            await asyncio.wait(self._closing, timeout=_MAX_SLOTS_SECONDS)  # one of them may hang

    async def _learn_slots(self, first: str | None) -> None:
        """Ask one node after another, each with a deadline, which redis-py does not have."""
        manager = self._manager
        failure: Exception | None = None
        known = self._first_nodes | manager.startup_nodes | manager.nodes_cache
        for name in sorted(known, key=lambda name: (name != first, name in self._silent)):
            try:
                async with timeout(_MAX_SLOTS_SECONDS):
                    if manager.slots_cache:
                        await self._ask_for_slots(known[name])
                    else:
                        await self._initialize_client(known[name])
            except Exception as error:  # noqa: BLE001 (redis-py also raises undocumented ones)
                self._silent.add(name)
                failure = error
                text = redacted_text(error)
                logger.debug("A node of the Redis Cluster did not send its slots: %s", text)
            else:
                self._silent &= set(manager.nodes_cache) - {name}
                break
        if not manager.slots_cache:
            told = f": {redacted_text(failure) or type(failure).__name__}" if failure else ""
            raise RedisClusterException(
                f"No node of the Redis Cluster sends its slots{told}"
            ) from failure

    async def _initialize_client(self, node: ClusterNode) -> None:
        """Learn the slots for the first time, as redis-py does, but only from this node."""
        startup = self._manager.startup_nodes
        self._manager.startup_nodes = {node.name: node}
        try:
            await self._client.initialize()
        finally:
            self._manager.startup_nodes = startup

    async def _ask_for_slots(self, node: ClusterNode) -> None:
        """Learn the slots again from a node, without closing connections."""
        # Each range has its first and last slot, its primary and its replicas. Each of these has a
        # host, which is empty if it is that of the node that is asked, a port, and more.
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
            self._begin_to_close(self._manager.nodes_cache.pop(name))

    def _begin_to_close(self, node: ClusterNode) -> None:
        """Close the connections of a node that has left the cluster."""
        closing = asyncio.create_task(node.disconnect())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        closing.add_done_callback(_retrieve_exception)

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
        """Answer an MGET key by key: a command with one key is never refused (TRYAGAIN)."""
        values = await self.send([Command(key, ("GET", key)) for key in keys])
        return next((value for value in values if isinstance(value, Exception)), values)

    async def _trip(
        self, node: ClusterNode, commands: Sequence[Command], asking: bool
    ) -> list[Any]:
        sent = [PipelineCommand(i, *command.args) for i, command in enumerate(commands)]
        pipeline = sent
        if asking:  # it applies to the next command on this connection
            pipeline = [one for each in sent for one in (PipelineCommand(0, "ASKING"), each)]
        try:
            await node.execute_pipeline(pipeline)
        except BaseException:  # also when a caller's deadline is over
            self._silent.add(node.name)
            raise
        finally:
            if node.name not in self._manager.nodes_cache:
                self._begin_to_close(node)  # it left while this connection was being opened
        answers = [one.result for one in sent]
        if any(isinstance(answer, _UNANSWERED) for answer in answers):
            self._silent.add(node.name)
            self.begin_to_learn_slots()  # another node may have taken its place
        else:
            self._silent.discard(node.name)
        return answers

    def _holder(self, key: str) -> ClusterNode | None:
        nodes = self._manager.slots_cache.get(key_slot(key.encode()))
        return nodes[0] if nodes else None

    def _name_in(self, error: MovedError | AskError) -> str:
        return str(get_node_name(error.host, error.port))

    def _node(self, name: str) -> ClusterNode:
        """A node by its name. A node that holds no slots yet is not in the client's table."""
        node: ClusterNode | None = self._manager.nodes_cache.get(name)
        if node is None:
            host, _, port = name.rpartition(":")
            node = ClusterNode(host, int(port), **self._manager.connection_kwargs)
            self._manager.set_nodes(self._manager.nodes_cache, {name: node})
        return node


def _retrieve_exception(task: "asyncio.Task[None]") -> None:
    """Keep asyncio from logging a failure that nobody awaits."""
    if not task.cancelled():
        task.exception()
