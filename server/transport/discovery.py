"""Discovery of the sites: which of Flower's nodes belongs to which site."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable
from typing import Protocol

from flwr.app import Message
from flwr.serverapp import Grid

from common.errors import SiteAbsent
from common.protocol.codec import BadMessage, from_record, to_record
from common.protocol.messages import DESCRIBE, Describe, Description
from common.protocol.refusals import refusal_text
from common.text import listed
from server.transport.retry import retry_on_server_error

log = logging.getLogger("relay.coordinator")


class HasStatus(Protocol):
    """A node in the list of Flower's Grid."""

    @property
    def status(self) -> str:
        """Flower's word for the node's state; empty in Flower's simulation."""
        ...


def is_online(node: HasStatus) -> bool:
    """Return whether a node is connected; Flower's simulation gives its nodes no status."""
    return node.status in ("", "online")


def find_sites(
    grid: Grid, sites: Iterable[str], study: str, *, patience: float, known: Collection[str] = ()
) -> dict[str, int]:
    """Return the node of each connected site.

    A node is identified by the name of its registration at the coordinator. In Flower's simulation nodes have no names:
    each node is asked for its site, and the answer is trusted, since a single machine plays all sites.

    Args:
        grid: Flower's grid.
        sites: the names of the sites.
        study: the digest of the study, in which nodes without a name are asked to describe themselves.
        patience: seconds to wait until all sites are connected.
        known: sites allowed to be away, since the coordinator has kept their descriptions.

    Raises:
        SiteAbsent: a site is not connected.
    """
    wanted = list(sites)
    until = time.monotonic() + patience
    logged_missing: list[str] = []
    while True:
        refused: set[str] = set()
        registered = list(retry_on_server_error(grid.get_nodes))
        there_now = [node for node in registered if is_online(node)]
        nodes = {node.name: node.node_id for node in there_now if node.name}
        if there_now and not nodes:
            nodes = _ask(grid, study, refused)
        # A site can be found later only by its node's name, so a known site may be missing only where nodes have names.
        spared = known if any(node.name for node in registered) else ()
        missing = [site for site in wanted if site not in nodes and site not in spared]
        if not missing:
            return {site: nodes[site] for site in wanted if site in nodes}
        if missing != logged_missing:
            logged_missing = missing
            log.warning("Waiting for %s.", listed(f"site {site}" for site in missing))
        if time.monotonic() > until:
            there = ", ".join(sorted(nodes)) or "none"
            answers = f" A node answered: {'; '.join(sorted(refused))}." if refused else ""
            raise SiteAbsent(
                f"Site {missing[0]} of the study is not there (there: {there}); start it, or leave it out.{answers}"
            )
        time.sleep(1.0)


def _ask(grid: Grid, study: str, refused: set[str]) -> dict[str, int]:
    """Ask every node for its description; return the nodes by the site named in the description.

    Args:
        grid: Flower's grid.
        study: the digest of the study.
        refused: receives the reasons of nodes without a description.
    """
    messages = [
        Message(to_record(Describe(study=study)), dst_node_id=node_id, message_type=DESCRIBE)
        for node_id in grid.get_node_ids()
    ]
    names: dict[str, int] = {}
    # There is no time limit: before the reply, a site prepares patients for up to the length of a leg.
    for reply in grid.send_and_receive(messages, timeout=None):
        if reply.has_error():
            refused.add(refusal_text(reply.error))
            continue
        try:
            description, _ = from_record(reply.content, Description)
        except BadMessage as error:
            refused.add(str(error))
            continue
        names[description.site] = reply.metadata.src_node_id
    return names
