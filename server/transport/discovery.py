"""Who is there: site names and Flower's nodes."""

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
    """A node as Flower's Grid lists it."""

    @property
    def status(self) -> str: ...


def is_online(node: HasStatus) -> bool:
    """Whether a node is there; Flower's simulation gives its nodes no status."""
    return node.status in ("", "online")


def find_sites(
    grid: Grid, sites: Iterable[str], study: str, *, patience: float, known: Collection[str] = ()
) -> dict[str, int]:
    """Return the node of each site that is there.

    A node is known by the name that it was registered under at the coordinator. Where nodes have no names,
    as in Flower's simulation, each is asked what it is; its answer is believed, since one machine plays all.

    Args:
        patience: seconds to wait for a site that is not there yet.
        known: sites that need not be there, since they have described what they have before.

    Raises:
        SiteAbsent: a site is not there.
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
        # A node without a name is never found again later.
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
    messages = [
        Message(to_record(Describe(study=study)), dst_node_id=node_id, message_type=DESCRIBE)
        for node_id in grid.get_node_ids()
    ]
    names: dict[str, int] = {}
    # No time limit: a site prepares its patients, for a leg at most, before it answers.
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
