"""`run.json`: traffic, attempts and times, over all runs of a result folder."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common.files import write_atomically
from server.results.rows import write_json
from server.transport.site_channel import Traffic


class RunRecord:
    """Writes `run.json` while a study runs; a resumed study adds to the counts of earlier runs."""

    def __init__(self, folder: Path, traffic: Traffic) -> None:
        """Read the record of earlier runs.

        Args:
            folder: the result folder.
            traffic: the counts of this run, which grow during the run.
        """
        self._folder, self._traffic = folder, traffic
        self._past = _past(folder)
        self._began, self._started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
        self._next = 0.0

    def write_at_times(self) -> None:
        """Write the record, unless writing would take more than a twentieth of the time.

        The record grows with the stages: after each of ten thousand stages, writing the record would take longer than
        the stages.
        """
        if (now := time.monotonic()) >= self._next:
            self.write()
            self._next = time.monotonic() + 20 * (time.monotonic() - now)

    def write(self, delivered: Mapping[str, Mapping[str, str]] | None = None) -> None:
        """Write the record.

        Args:
            delivered: for each site, the delivered weights; see `Deliveries.done`.
        """
        past, traffic = self._past, self._traffic

        def with_past(name: str, now: dict[str, int]) -> dict[str, int]:
            before = past.get(name, {})
            return {site: before.get(site, 0) + now.get(site, 0) for site in sorted({*before, *now})}

        record = {
            "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
            "started": past.get("started", self._started),
            "runs": past.get("runs", 0) + 1,
            "seconds": round(past.get("seconds", 0.0) + time.monotonic() - self._began, 1),
            "messages": past.get("messages", 0) + sum(traffic.messages.values()),
            "bytes_sent": with_past("bytes_sent", dict(traffic.sent)),
            "bytes_received": with_past("bytes_received", dict(traffic.received)),
            "attempts": with_past("attempts", dict(traffic.attempts)),
            "stage_seconds": past.get("stage_seconds", {})
            | {key: round(value, 2) for key, value in dict(traffic.seconds).items()},
            "delivered": past.get("delivered", {}) | dict(delivered or {}),
        }
        write_atomically(self._folder / "run.json", write_json(record))


def _past(folder: Path) -> dict[str, Any]:
    """Return the record of earlier runs in a folder; empty if there is none."""
    try:
        past = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return past if isinstance(past, dict) else {}
