"""Owners of weights: all nodes of a run by their weights' digest, so that shared weights are not deleted too early."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable

from common.plan.graph import Node
from server.ledger.ledger import Ledger
from server.scheduling.retention import collectable
from server.scheduling.state import RunState


class WeightOwners:
    """For each digest, the nodes with these weights, unsettled nodes with a record in the ledger included.

    A lock covers additions and deletions: the weights about to be stored by a channel's thread may exist already, for
    another stage with no further need of these weights.
    """

    def __init__(self, ledger: Ledger) -> None:
        """Begin without owners.

        Args:
            ledger: holds the weights.
        """
        self._ledger = ledger
        self._nodes: dict[str, set[Node]] = defaultdict(set)
        self._lock = threading.Lock()

    def add(self, node: Node, digests: Iterable[str]) -> None:
        """Note a node as an owner of weights, which then stay as long as this node's weights are needed."""
        with self._lock:
            for digest in digests:
                self._nodes[digest].add(node)

    def replace(self, node: Node, named: str, came: str) -> None:
        """Remove a node as an owner of the weights named in its reply; drop received weights without an owner.

        Args:
            node: the training whose reply was damaged.
            named: the digest in the site's reply.
            came: the digest of the received weights.
        """
        with self._lock:
            self._nodes[named].discard(node)
            if not self._nodes.get(came):
                self._ledger.drop(came)

    def collect(self, nodes: Iterable[Node], state: RunState) -> None:
        """Delete the weights of some nodes, apart from weights still needed."""
        with self._lock:
            digests = collectable(
                nodes,
                sharing=self._nodes.__getitem__,
                users=state.users,
                kept=state.kept,
                records=state.records,
                score=state.score,
                awaited=state.awaited,
            )
            for digest in sorted(digests):
                self._ledger.drop(digest)
