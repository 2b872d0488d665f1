"""Find the studies that are shipped with relay, by their names."""

from __future__ import annotations

from pathlib import Path


def shipped_study(given: Path) -> Path:
    """Return the path of a study file; a bare name, such as "demo", may mean a study shipped with relay."""
    shipped = Path(__file__).parent / "studies" / f"{given}.toml"
    return shipped if given.name == str(given) and not given.exists() and shipped.is_file() else given
