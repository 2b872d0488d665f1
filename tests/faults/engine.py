"""Flower's engine as it was measured: nodes that ask for messages, sessions that lapse, errors 3, 4, 5 and 8.

An order pushed to a node that is away comes back as error 5; one that a node held when it was killed does so half
a minute later; one that it held when it was started again quickly is lost, and nobody is told. An answer can be
had once. A node handles one message after the other, each in a process of its own.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from tests.faults.kernel import Kernel, Process

ON_THE_WAY, LAPSES, CRASH_SHOWS = 0.05, 38.0, 63.0
"""Seconds: a message between engine and node; until the session of a node that was killed lapses; until the engine
says that a client app ended without an answer."""


class Failed(Exception):
    """A request at which the engine failed itself."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.response = types.SimpleNamespace(status_code=status)


class Node:
    """A hospital's SuperNode."""

    def __init__(self, number: int, name: str) -> None:
        self.number, self.name = number, name
        self.online = False
        self.session = 0
        self.waiting: list[Message] = []
        self.held: Message | None = None
        self.process: Process | None = None
        self.answered: list[tuple[Message, Message]] = []
        """Orders and answers, so far."""


class Engine:
    """The SuperLink and the nodes.

    Args:
        handle: a site's client app.
        count: told what is sent or received, and by whom; see `Disks`.
    """

    def __init__(
        self,
        kernel: Kernel,
        sites: Iterable[str],
        handle: Callable[[Message, Context], Message],
        count: Callable[[str], Any],
    ) -> None:
        self.kernel, self.handle, self.count = kernel, handle, count
        self.nodes = {name: Node(number, name) for number, name in enumerate(sites, start=1)}
        self.outage_until = 0.0
        self.answers: dict[str, Message] = {}
        self.given: dict[str, Message] = {}
        self.later: dict[str, Message] = {}
        """What is there once the answer of that name was had."""
        self.orders: dict[str, Message] = {}
        for node in self.nodes.values():
            self.start(node)

    # The hospitals' side.

    def start(self, node: Node) -> None:
        """A node comes, or comes again."""
        node.process = Process(f"SuperNode {node.name}", node.name, node.number)
        node.online = True
        node.session += 1
        self.kernel.spawn(node.process, lambda: self._serve(node))

    def kill(self, node: Node, *, away: float, silently: bool, then: Callable[[], None] = lambda: None) -> None:
        """End a node and what it works on. It comes again after `away` seconds, and not before it may.

        Args:
            silently: it ends and comes again in good order, and what it held is lost without a word.
            then: what happens as it comes.
        """
        process, node.process = node.process, None
        held, node.held = node.held, None
        if process is None:
            return

        def watch() -> None:
            if not silently:
                self.kernel.sleep(LAPSES)
                node.online = False
                for order in [*([held] if held else []), *node.waiting]:
                    self._answer(order, Message(Error(5, "node unavailable"), reply_to=order))
                node.waiting.clear()
            self.kernel.sleep(away if silently else max(0.0, away - LAPSES))
            then()
            self.start(node)

        if silently:
            node.online = False
        if away < float("inf") or not silently:
            self.kernel.spawn(Process(f"watch over {node.name}", node.name, 0), watch)
        self.kernel.kill(process)

    def _serve(self, node: Node) -> None:
        process = self.kernel.process
        while True:
            self.kernel.wait(lambda: bool(node.waiting) and self.kernel.now >= self.outage_until)
            self.kernel.sleep(ON_THE_WAY)
            if not node.waiting:
                continue
            order = node.held = node.waiting.pop(0)
            strikes = self.count("receive")
            strikes("before", order)
            reply = self._worked_out(process, node, order, strikes)
            strikes("after", order)
            if reply is None:
                self.kernel.sleep(CRASH_SHOWS)
                reply = Message(Error(8, "the client app ended"), reply_to=order)
            else:
                node.answered.append((order, reply))
            strikes = self.count("send")
            strikes("before", (order, reply))
            if not strikes.any("middle"):
                self.kernel.sleep(ON_THE_WAY)
                self._answer(order, reply)
            strikes("middle", (order, reply))
            node.held = None
            strikes("after", (order, reply))

    def _worked_out(self, parent: Process, node: Node, order: Message, strikes: Any) -> Message | None:
        """The answer of a client app in a process of its own; None if it dies. It is struck while it is at work."""
        worker = Process(f"ClientApp {node.name}", node.name, node.number)
        replies: list[Message] = []
        parent.at_end.append(end := lambda: self.kernel.kill(worker))
        context = Context(1, node.number, {"site": node.name}, RecordDict(), {})

        def work() -> None:
            replies.append(self.handle(order, context))
            self.kernel.end(worker)

        self.kernel.spawn(worker, work)
        if strikes.any("middle"):
            self.kernel.wait(lambda: not worker.alive, self.kernel.random.choice((0.0, 5.0, 30.0)))
            strikes("middle", order)
        self.kernel.wait(lambda: not worker.alive)
        parent.at_end.remove(end)
        return replies[0] if replies else None

    def _answer(self, order: Message, reply: Message) -> None:
        name = order.metadata.message_id
        if name not in self.given:
            self.answers[name] = reply

    def say(self, order: Message, reply: Message, after: float = 0.0) -> None:
        """An answer that comes by itself, later."""

        def later() -> None:
            self.kernel.sleep(after)
            self._answer(order, reply)

        self.kernel.spawn(Process("on the way", "", 0), later)

    # The coordinator's side.

    def push(self, order: Message) -> str:
        """An order into the queue of its node."""
        node = next(node for node in self.nodes.values() if node.number == order.metadata.dst_node_id)
        name = str(len(self.orders))
        order.metadata.__dict__["_message_id"] = name
        self.orders[name] = order
        if node.online:
            node.waiting.append(order)
        else:
            self._answer(order, Message(Error(5, "node unavailable"), reply_to=order))
        return name

    def pull(self, name: str) -> list[Message]:
        reply = self.answers.pop(name, None)
        if reply is None:
            order = self.orders[name]
            return [Message(Error(3, "message unavailable"), reply_to=order)] if name in self.given else []
        if name in self.later:
            self.answers[name] = self.later.pop(name)
        else:
            self.given[name] = reply
        return [reply]

    def forget_orders(self) -> None:
        """A run has ended: what no node has taken yet is taken back."""
        for node in self.nodes.values():
            node.waiting.clear()

    def close(self) -> None:
        """Let go of all messages: their weights are files that are held open."""
        for held in (self.answers, self.given, self.later, self.orders):
            held.clear()
        for node in self.nodes.values():
            node.held = None
            node.waiting.clear()
            node.answered.clear()


class Door(Grid):
    """What one run of the coordinator sees of the engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def _request(self, kind: str, act: Callable[[], Any]) -> Any:
        kernel = self.engine.kernel
        kernel.pause()
        strikes = self.engine.count(kind)
        strikes("before", None)
        kernel.wait(lambda: kernel.now >= self.engine.outage_until, max(0.0, self.engine.outage_until - kernel.now))
        result = act()
        strikes("middle", result)
        strikes("after", result)
        return result

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        (message,) = messages
        return self._request("push", lambda: [self.engine.push(message)])  # type: ignore[no-any-return]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        (name,) = message_ids
        engine = self.engine
        # A request takes its time; nothing strikes at one that finds nothing, as most of them do.
        if not engine.kernel.wait(lambda: name in engine.answers or name in engine.given, 2.0):
            return []
        return self._request("pull", lambda: engine.pull(name))  # type: ignore[no-any-return]

    def get_nodes(self) -> Iterable[NodeInfo]:
        return self._request(  # type: ignore[no-any-return]
            "nodes",
            lambda: [
                NodeInfo(
                    node_id=node.number,
                    name=node.name,
                    status="online" if node.online else "offline",
                    last_activated_at=str(node.session),
                )
                for node in self.engine.nodes.values()
            ],
        )

    def get_node_ids(self) -> Iterable[int]:
        return [node.number for node in self.engine.nodes.values()]

    def set_run(self, run: Run) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Run:
        return Run.create_empty(1)

    def create_message(self, *_: Any, **__: Any) -> Message:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        raise NotImplementedError
