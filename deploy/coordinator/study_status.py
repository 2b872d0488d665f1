"""Tell which hospitals are connected and how far a study is: `relay study status`."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypedDict

from common.config.study import load_study
from common.errors import RelayError
from common.text import duration
from deploy.coordinator.courier import served_in
from deploy.coordinator.enroll import records
from deploy.coordinator.folder import Coordinator
from server.progress.snapshot import AtWork, StudyProgress, read
from server.progress.wording import count_of, dice_of, stages_of


class Presence(TypedDict):
    """Tell whether an enrolled hospital is connected."""

    site: str
    online: bool
    since: str
    """The time of the last connection or disconnection, in Flower's format; empty if the hospital never connected."""


def presences(coordinator: Coordinator, out: Path | None = None) -> list[Presence]:
    """Return the presence of every enrolled hospital, without the revoked ones and those that a courier serves.

    Args:
        coordinator: the coordinator's folder.
        out: a result folder: only the sites of its study are returned; None: all.

    Raises:
        Unreachable: the SuperLink does not answer.
    """
    wanted, carried = None, frozenset[str]()
    if out is not None:
        carried = served_in(out)
        with suppress(RelayError):  # the study has not written its file yet
            wanted = frozenset(load_study(out / "study.toml").sites)
    nodes = {str(node["node-id"]): node for node in coordinator.control().ask("supernode", "list")["nodes"]}
    found: list[Presence] = []
    for record in records(coordinator):
        if record.revoked or record.site in carried or (wanted is not None and record.site not in wanted):
            continue
        node = nodes.get(record.node_id, {})
        online = node.get("status") == "online"
        since = str(node.get("online-at" if online else "offline-at", "") or "")
        found.append({"site": record.site, "online": online, "since": "" if since == "N/A" else since})
    return found


def sentence_of(presence: Presence) -> str:
    """Describe a hospital's presence in a single line."""
    if presence["online"]:
        return f"{presence['site']:<12} there since {presence['since']}"
    return f"{presence['site']:<12} missing{', since ' + presence['since'] if presence['since'] else ': never seen'}"


def headline(progress: StudyProgress, now: datetime) -> str:
    """Describe a study's progress in a single line.

    Args:
        progress: the snapshot in the result folder.
        now: the present time, with a time zone.
    """
    parts = stages_of(progress.stages_done, progress.stages, progress.variant, progress.variants)
    if not progress.stages:
        parts.append("preparing")
    if progress.state != "running":
        parts.append(f"{progress.state} at {clock(progress.at)}")
    elif progress.silent(now):
        parts.append(f"no sign of life since {clock(progress.at)}: start the study again to go on")
    else:
        if progress.seconds_left is not None:
            parts.append(f"about {duration(progress.seconds_left)} left")
        parts.append(f"{duration((now - datetime.fromisoformat(progress.began)).total_seconds())} so far")
    return f"{progress.study}: {', '.join(parts)}."


def site_line(site: AtWork) -> str:
    """Describe a site's present work in a single line."""
    parts = [site.what]
    if site.of:
        parts.append(count_of(site.what, site.done, site.of))
    if site.dice is not None:
        parts.append(dice_of(site.dice))
    if site.since:
        parts.append(f"since {clock(site.since)}")
    parts.append(f"{site.finished} finished")
    return f"{site.site:<12} {', '.join(parts)}"


def clock(moment: str) -> str:
    """Format an ISO 8601 time in this machine's time zone."""
    return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d %H:%M:%S}"


def lines(progress: StudyProgress, now: datetime) -> list[str]:
    """Describe a study's progress in lines: the headline, each site at work, and the reasons for parked stages.

    Args:
        progress: the snapshot in the result folder.
        now: the present time, with a time zone.
    """
    shown = [headline(progress, now)]
    if progress.text:
        shown.append(progress.text)
    if progress.state == "running":
        shown += [site_line(site) for site in progress.sites]
    return shown + [f"Parked: {reason}" for reason in progress.parked]


ASK_EVERY = 15.0
"""Seconds between two questions to the SuperLink about connected hospitals."""


@dataclass
class Status:
    """Collect the content of the web page. `now` may be called from any thread."""

    out: Path | None
    coordinator: Coordinator | None
    clock: Callable[[], float] = time.monotonic
    _asked: float = float("-inf")
    _present: dict[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def now(self) -> dict[str, Any]:
        """Return the study's progress and the hospitals' presence; an error's sentence replaces an unreadable part."""
        status: dict[str, Any] = {}
        if self.out is not None:
            try:
                progress, now = read(self.out), datetime.now(UTC)
                status = json.loads(progress.model_dump_json()) | {
                    "headline": headline(progress, now),
                    "silent": progress.silent(now),
                    "lines": [site_line(site) for site in progress.sites],
                    "counts": [count_of(site.what, site.done, site.of) for site in progress.sites],
                }
            except RelayError as error:
                status = {"headline": str(error), "error": True}
        return status | self._who_is_there()

    def _who_is_there(self) -> dict[str, Any]:
        if self.coordinator is None:
            return {}
        with self._lock:
            if self.clock() - self._asked > ASK_EVERY:
                try:
                    self._present = {"present": presences(self.coordinator, self.out)}
                except RelayError as error:
                    self._present = {"present_error": str(error), "error": True}
                self._asked = self.clock()
            return self._present
