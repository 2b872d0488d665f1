"""Learning curves and scores of a study's results as event files of TensorBoard."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import RelayError
from common.text import short_digest
from server.results.flat_tables import flat_tables
from server.results.schema import Results

CURVES, ROWS = "curves", "rows"
"""The folders of the two kinds of runs."""
NAME = "events.out.tfevents.relay"
"""The name of each event file: TensorBoard asks for its beginning."""
SHOWN = {"loss": "training loss", "lr": "learning rate", "dice": "validation Dice (%)"}
"""The figures of an epoch that are drawn, and their titles."""
LONGEST = 120
"""The most characters of a run's name."""

Scalar = tuple[str, int, float]
"""A title, the step (an epoch), and the value."""


def check_installed() -> None:
    """Check that tensorboardX can be imported.

    Raises:
        RelayError: it is not installed.
    """
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise RelayError(
            "tensorboardX is not installed, which event files are written with; run `pip install"
            " 'prostate-relay[tensorboard]'`."
        ) from None


def write_tensorboard(results: Results, folder: Path) -> list[Path]:
    """Write a run for each training and for each row of the table, and return their event files.

    A training's run has its loss, learning rate and validation Dice by epoch; a row's run has each of its scores at
    step 0. The same results give the same bytes: no time and no name of a machine stands in the files.

    Args:
        results: the study's results.
        folder: the folder, which is made if need be; TensorBoard's `--logdir`.

    Raises:
        RelayError: tensorboardX is not installed, or a file cannot be written.
    """
    check_installed()
    paths = []
    try:
        for run, scalars in sorted({**_curves(results), **_rows(results)}.items()):
            path = folder / run / NAME
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            _write(path, scalars)
            paths.append(path)
    except OSError as error:
        raise RelayError(
            f"The folder {folder} cannot be written ({error.strerror}); make room or rights there, or give another one"
            " with --tensorboard."
        ) from None
    return paths


def _curves(results: Results) -> dict[Path, list[Scalar]]:
    """Return the runs of the trainings.

    A run's name ends with digits of the stage's id: of a label, there may be several trainings.
    """
    runs: dict[Path, list[Scalar]] = defaultdict(list)
    several = len({stage.id.partition("-")[0] for stage in results.stages}) > 1
    for stage in results.stages:
        variant, _, digest = stage.id.partition("-")
        folder = Path(CURVES, f"variant {int(variant) + 1}") if several else Path(CURVES)
        fold = "" if stage.fold is None else f", fold {stage.fold + 1}"
        run = folder / _name(f"{stage.label} at {stage.site}{fold}, {short_digest(digest)}")
        for epoch in stage.epochs:
            runs[run] += [(title, epoch.epoch, getattr(epoch, key)) for key, title in SHOWN.items()]
    return runs


def _rows(results: Results) -> dict[Path, list[Scalar]]:
    """Return the runs of the table's rows, in a folder for each variant where there are several."""
    runs: dict[Path, list[Scalar]] = defaultdict(list)
    records: Sequence[Mapping[str, Any]] = flat_tables(results)["scores"].records
    several = len({record["variant"] for record in records}) > 1
    for record in records:
        parts = [f"{record['label']} → {record['target']}"]
        parts += [f"share {record['share']}"] if record["share"] is not None else []
        parts += [f"{key} {record[key] + 1}" for key in ("rotation", "fold") if record[key] is not None]
        folder = Path(ROWS, f"variant {record['variant'] + 1}") if several else Path(ROWS)
        title = f"{record['split']} {record['title']} ({record['unit']})"
        runs[folder / _name(", ".join(parts))].append((title, 0, record["value"]))
    return runs


def _name(words: str) -> str:
    """Return words as the name of a folder, which is the run's name in TensorBoard."""
    return re.sub(r"[^\w .,→+-]", "_", words).strip(" .")[-LONGEST:]


def _write(path: Path, scalars: Iterable[Scalar]) -> None:
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.record_writer import RecordWriter

    writer = RecordWriter(str(path))
    writer.write(Event(file_version="brain.Event:2").SerializeToString())
    for title, step, value in scalars:
        summary = Summary(value=[Summary.Value(tag=title, simple_value=value)])
        writer.write(Event(wall_time=float(step), step=step, summary=summary).SerializeToString())
    writer.close()
