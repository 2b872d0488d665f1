"""Which nodes of a run have which weights, so that none are taken away that another node came to as well."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable

from common.plan.graph import Node
from server.ledger.ledger import Ledger
from server.scheduling.retention import collectable
from server.scheduling.state import RunState


class WeightOwners:
    """By digest, the nodes that have these weights, also those that the ledger knows and whose turn is to come.

    A lock is held to add to it and to take weights away: what a channel's thread is about to keep may be there already,
    for another stage that needs it no more.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._nodes: dict[str, set[Node]] = defaultdict(set)
        self._lock = threading.Lock()

    def add(self, node: Node, digest: str) -> None:
        """Note that a node has weights, so that they stay as long as somebody needs this node's."""
        with self._lock:
            self._nodes[digest].add(node)

    def replace(self, node: Node, named: str, came: str) -> None:
        """Take back that a node has the weights that its site named; drop those that came unless a node has them."""
        with self._lock:
            self._nodes[named].discard(node)
            if not self._nodes.get(came):
                self._ledger.drop(came)

    def collect(self, nodes: Iterable[Node], state: RunState) -> None:
        """Take away those weights of some nodes that nobody needs any more."""
        with self._lock:
            digests = collectable(
                nodes,
                sharing=self._nodes.__getitem__,
                users=state.users,
                kept=state.kept,
                records=state.records,
            )
            for digest in sorted(digests):
                self._ledger.drop(digest)
