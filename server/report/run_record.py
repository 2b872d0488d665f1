"""The content of `run.json`, the record of a study's runs; keys not shown in the report are ignored."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from server.results.schema import Value, read_file


class RecordedRun(Value):
    """The record of a study's runs. Bytes are counted at the coordinator: sent to a site, received from a site."""

    machine: str = ""
    started: str = ""
    seconds: float | None = None
    bytes_sent: dict[str, int] = Field(default_factory=dict)
    bytes_received: dict[str, int] = Field(default_factory=dict)
    messages: int | None = None


def read_run(folder: Path) -> RecordedRun | None:
    """Read the record of a study's runs from its result folder; None without a run.json.

    Raises:
        RelayError: run.json cannot be read.
    """
    path = folder / "run.json"
    return read_file(path, RecordedRun) if path.is_file() else None
