"""The content of `run.json`, how a study ran; keys that the report does not show are ignored."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from server.results.schema import Value, read_file


class RecordedRun(Value):
    """How a study ran. The coordinator counts bytes: sent to a site, received from a site."""

    machine: str = ""
    started: str = ""
    seconds: float | None = None
    bytes_sent: dict[str, int] = Field(default_factory=dict)
    bytes_received: dict[str, int] = Field(default_factory=dict)
    messages: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)


def read_run(folder: Path) -> RecordedRun | None:
    """Read how the study in a result folder ran; None if there is no run.json.

    Raises:
        RelayError: run.json cannot be read.
    """
    path = folder / "run.json"
    return read_file(path, RecordedRun) if path.is_file() else None
