"""Owners of weights: which nodes of a run have which weights, so that shared weights are not deleted too early."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable

from common.plan.graph import Node
from server.ledger.ledger import Ledger
from server.scheduling.retention import collectable
from server.scheduling.state import RunState


class WeightOwners:
    """For each digest, the nodes with these weights, nodes of the ledger that are not settled yet included.

    A lock covers additions and deletions: the weights that a channel's thread is about to store may exist already, for
    another stage that no longer needs them.
    """

    def __init__(self, ledger: Ledger) -> None:
        """Begin without owners.

        Args:
            ledger: holds the weights.
        """
        self._ledger = ledger
        self._nodes: dict[str, set[Node]] = defaultdict(set)
        self._lock = threading.Lock()

    def add(self, node: Node, digest: str) -> None:
        """Note that a node has weights, which then stay as long as this node's weights are needed."""
        with self._lock:
            self._nodes[digest].add(node)

    def replace(self, node: Node, named: str, came: str) -> None:
        """Undo that a node has the weights that its site named; drop those that really came unless a node has them.

        Args:
            node: the training whose reply was damaged.
            named: the digest in the site's reply.
            came: the digest of the weights that arrived.
        """
        with self._lock:
            self._nodes[named].discard(node)
            if not self._nodes.get(came):
                self._ledger.drop(came)

    def collect(self, nodes: Iterable[Node], state: RunState) -> None:
        """Delete those weights of some nodes that nothing needs any more."""
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
