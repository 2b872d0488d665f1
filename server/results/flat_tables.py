"""Results as flat tables, for data frames and CSV files: a record for each row, score, patient or epoch.

Dice and IoU are in per cent, distances in millimetres, volumes in millilitres, traffic in bytes, as in results.json.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from common.scores import CALIBRATION, COUNTED, GLAND, OF_ZONES, SCORES, VALIDATED, Score
from server.results.schema import Results, Row

Value = str | int | float | bool | None
"""A value of a flat table; None where there is none."""
Kind = type[str] | type[int] | type[float] | type[bool]
"""The type of a column's values."""

ARROW = " → "
MANY = ", "


@dataclass(frozen=True)
class FlatTable:
    """A table of single values."""

    columns: dict[str, Kind]
    """The type of each column's values; every value may also be None."""
    records: tuple[dict[str, Value], ...]
    """The lines: a value for every column, in the columns' order."""


def _kind(annotation: Any) -> Kind | None:
    """Return the type of a field's column, or None for a field of several values under names of their own."""
    if get_origin(annotation) is types.UnionType:
        (annotation,) = (one for one in get_args(annotation) if one is not types.NoneType)
    if get_origin(annotation) is tuple:
        return str
    return annotation if annotation in (str, int, float, bool) else None


_SEVERAL = {"ci95": ("ci95_low", "ci95_high")}
"""Fields of a row with a column for each of their values."""


def _columns_of_rows() -> dict[str, Kind]:
    columns: dict[str, Kind] = {}
    for name, field in Row.model_fields.items():
        if name in _SEVERAL:
            columns |= dict.fromkeys(_SEVERAL[name], float)
        elif kind := _kind(field.annotation):
            columns[name] = kind
    return columns


ROWS = _columns_of_rows()
"""The columns of `rows` and `folds`: the keys of a row of results.json, but those of single patients."""

_NAMES = ("variant", "seed", "split_seed", "rotation", "model", "method", "label", "route", "target", "share", "fold")
"""The columns that say which row a score or patient is of."""
_OF_ROW: dict[str, Kind] = {name: ROWS[name] for name in (*_NAMES, "selected", "headline")}

SCORE_COLUMNS: dict[str, Kind] = {
    **_OF_ROW,
    "split": str,
    "score": str,
    "title": str,
    "unit": str,
    "value": float,
    "patients": int,
}
PATIENT_COLUMNS: dict[str, Kind] = {
    **_OF_ROW,
    "split": str,
    "case": str,
    "dice": float,
    "dice_volume": float,
    "slices": int,
}
CURVE_COLUMNS: dict[str, Kind] = {
    "variant": int,
    "stage": str,
    "site": str,
    "fold": int,
    "label": str,
    "epoch": int,
    "lr": float,
    "loss": float,
    "dice": float,
    "kept": bool,
}


def flat_tables(results: Results) -> dict[str, FlatTable]:
    """Return a study's flat tables by name.

    - "rows": the rows of results.json, a line for each method, route, target and fold; where the test rotates, over all
      rotations.
    - "scores": the same rows with a line for each score that was measured, on test or validation patients.
    - "folds": the rows of single folds, and of single rotations where the test rotates.
    - "patients": a line for each row and test or validation patient, where the patient's site permits scores of single
      patients.
    - "curves": a line for each epoch of each training.
    """
    return {
        "rows": _table(ROWS, map(_flat, results.rows)),
        "scores": _table(SCORE_COLUMNS, (score for row in results.rows for score in _scores(row))),
        "folds": _table(ROWS, map(_flat, results.fold_rows)),
        "patients": _table(PATIENT_COLUMNS, _patients(results)),
        "curves": _table(CURVE_COLUMNS, _epochs(results)),
    }


def _table(columns: dict[str, Kind], records: Iterable[dict[str, Value]]) -> FlatTable:
    return FlatTable(columns, tuple({name: record[name] for name in columns} for record in records))


def _flat(row: Row) -> dict[str, Value]:
    """Return a row's values by column: sites of a route between arrows, other lists with commas."""
    flat: dict[str, Value] = {}
    for name in Row.model_fields:
        value = getattr(row, name)
        if name in _SEVERAL:
            flat |= dict(zip(_SEVERAL[name], value or (None, None), strict=True))
        elif name in ROWS:
            between = ARROW if name == "route" else MANY
            flat[name] = between.join(value) if isinstance(value, tuple) else value
    return flat


def _scores(row: Row) -> Iterator[dict[str, Value]]:
    names = _flat(row)
    counted = {score: count for count, scores in COUNTED.items() for score in scores}
    for score in (*SCORES, *GLAND, *OF_ZONES, *CALIBRATION):
        if (value := row.value(score)) is not None:
            patients = getattr(row, counted.get(score, "patients"))
            yield {**names, **_about(score), "split": "test", "value": value, "patients": patients}
    for score in VALIDATED:
        if (value := row.value(score, tested=False)) is not None:
            yield {**names, **_about(score), "split": "validation", "value": value, "patients": None}


def _about(score: Score) -> dict[str, Value]:
    return {"score": score.key, "title": score.title, "unit": score.unit}


def _patients(results: Results) -> Iterator[dict[str, Value]]:
    for row in results.rows:
        yield from _cases(row, "test", row.case_dice, row.case_dice_volume, row.case_slices)
    for row in results.fold_rows:
        yield from _cases(
            row,
            "validation",
            row.validation_case_dice,
            row.validation_case_dice_volume,
            row.validation_case_slices,
        )


def _cases(
    row: Row,
    split: str,
    dice: dict[str, float | None] | None,
    volume: dict[str, float | None] | None,
    slices: dict[str, int] | None,
) -> Iterator[dict[str, Value]]:
    names = _flat(row)
    for case in dict.fromkeys([*(dice or {}), *(volume or {})]):
        yield {
            **names,
            "split": split,
            "case": case,
            "dice": (dice or {}).get(case),
            "dice_volume": (volume or {}).get(case),
            "slices": (slices or {}).get(case),
        }


def _epochs(results: Results) -> Iterator[dict[str, Value]]:
    for stage in results.stages:
        number = stage.id.partition("-")[0]
        for epoch in stage.epochs:
            yield {
                "variant": int(number) if number.isdigit() else None,
                "stage": stage.id,
                "site": stage.site,
                "fold": stage.fold,
                "label": stage.label,
                "epoch": epoch.epoch,
                "lr": epoch.lr,
                "loss": epoch.loss,
                "dice": epoch.dice,
                "kept": epoch.epoch == stage.kept_epoch,
            }
