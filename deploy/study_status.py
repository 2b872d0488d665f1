"""`relay study status`: which hospitals are there, and which are missing."""

from __future__ import annotations

from typing import TypedDict

from deploy.coordinator_folder import Coordinator
from deploy.enroll import records


class Presence(TypedDict):
    """One enrolled hospital."""

    site: str
    online: bool
    since: str
    """When it came or went, as Flower writes it; empty if it was never there."""


def presences(coordinator: Coordinator) -> list[Presence]:
    """Every hospital that may take part.

    Raises:
        Unreachable: the SuperLink does not answer.
    """
    nodes = {str(node["node-id"]): node for node in coordinator.control().ask("supernode", "list")["nodes"]}
    found: list[Presence] = []
    for record in records(coordinator):
        if record.revoked:
            continue
        node = nodes.get(record.node_id, {})
        online = node.get("status") == "online"
        since = str(node.get("online-at" if online else "offline-at", "") or "")
        found.append({"site": record.site, "online": online, "since": "" if since == "N/A" else since})
    return found


def sentence_of(presence: Presence) -> str:
    """A line for a person."""
    if presence["online"]:
        return f"{presence['site']:<12} there since {presence['since']}"
    return f"{presence['site']:<12} missing{', since ' + presence['since'] if presence['since'] else ': never seen'}"
