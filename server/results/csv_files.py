"""The flat tables of a study's results as CSV files."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from common.errors import RelayError
from common.files import write_atomically
from server.results.flat_tables import FlatTable, flat_tables
from server.results.schema import Results


def write_csv(results: Results, folder: Path) -> list[Path]:
    """Write rows.csv, scores.csv, folds.csv, patients.csv and curves.csv, and return their paths.

    Args:
        results: the study's results.
        folder: the folder, which is made if need be; files of these names are replaced.

    Raises:
        RelayError: a file cannot be written.
    """
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in flat_tables(results).items():
            path = folder / f"{name}.csv"
            write_atomically(path, _text(table).encode())
            paths.append(path)
    except OSError as error:
        raise RelayError(
            f"The folder {folder} cannot be written ({error.strerror}); make room or rights there, or give another one"
            " with --csv."
        ) from None
    return paths


def _text(table: FlatTable) -> str:
    """Return a table as CSV with a heading; figures are written so that reading them gives the same number."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(table.columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.records)
    return text.getvalue()
