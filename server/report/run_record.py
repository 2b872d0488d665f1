"""What `run.json` says of how a study ran. Keys that the report does not show are passed over."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from server.results.schema import Value, read_file


class RunRecord(Value):
    """How a study ran. Bytes as the coordinator counts them: sent to a site, received from it."""

    machine: str = ""
    started: str = ""
    seconds: float | None = None
    bytes_sent: dict[str, int] = Field(default_factory=dict)
    bytes_received: dict[str, int] = Field(default_factory=dict)
    messages: int | None = None
    versions: dict[str, str] = Field(default_factory=dict)


def read_run(folder: Path) -> RunRecord | None:
    """Read how the study ran; None where nothing says so.

    Raises:
        RelayError: there is a run.json that cannot be read.
    """
    path = folder / "run.json"
    return read_file(path, RunRecord) if path.is_file() else None
