from __future__ import annotations
from pathlib import Path
from tests.fuzz.child import Watched
def run(kind: str, seeds: list[int], folder: Path, watched: Watched) -> None: ...
