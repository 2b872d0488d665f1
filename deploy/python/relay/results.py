"""The results of a study as pandas data frames, in words, and as a page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import RelayError

if TYPE_CHECKING:
    import pandas as pd

    from server.results.schema import Results as Content

DTYPES = {float: "float64", int: "Int64", bool: "boolean"}
"""pandas' type of a column by the type of its values; texts are left to pandas."""


def load(folder: str | os.PathLike[str]) -> Results:
    """Read the results of a study from its result folder, of earlier versions too.

    Raises:
        RelayError: the folder holds no results.json, or results.json cannot be read.
    """
    from server.results.reading import read_results

    return Results(Path(folder), read_results(Path(folder)))


class Results:
    """The results of a study.

    Every access to a data frame makes a new one, which may be changed. Dice and IoU are in per cent, distances in mm,
    volumes in ml. The columns of a frame are the same in every study; what was not measured is missing (NaN or NA).
    """

    folder: Path
    """The result folder."""
    content: Content
    """What results.json holds; docs/reference/results-json.md explains each key."""

    def __init__(self, folder: Path, content: Content) -> None:
        """Hold results that have been read; `load` reads them.

        Args:
            folder: the result folder.
            content: what its results.json holds.
        """
        self.folder = folder
        self.content = content

    @property
    def rows(self) -> pd.DataFrame:
        """The rows of results.json: a line for each method, route, target and fold.

        Where the test rotates, a line is over all rotations, and `folds` has the single ones. The columns are the keys
        of `rows` in docs/reference/results-json.md, with their units, but for the scores of single patients, which
        `patients` has. `ci95` is the two columns `ci95_low` and `ci95_high`.
        """
        return self._frame("rows")

    @property
    def scores(self) -> pd.DataFrame:
        """The scores of `rows`, a line for each score that was measured.

        After the columns that name the row, `split` ("test" or "validation"), `score` (its key, such as "hd95_mm"),
        `title`, `unit` ("%", "mm" or "ml"), `value` in this unit, and the number of test `patients` behind it.
        """
        return self._frame("scores")

    @property
    def folds(self) -> pd.DataFrame:
        """The rows of single folds, and of single rotations where the test rotates; the columns are those of `rows`."""
        return self._frame("folds")

    @property
    def patients(self) -> pd.DataFrame:
        """The scores of single patients of every row, from sites that permit them.

        After the columns that name the row, `split` ("test" or "validation"), `case` (the patient's random number),
        `dice` and `dice_volume` in per cent, and the number of selected `slices` behind `dice`.
        """
        return self._frame("patients")

    @property
    def curves(self) -> pd.DataFrame:
        """The learning curves: a line for each epoch of each training.

        `variant`, `stage` (its id), `site`, `fold` and `label` (the route of the weights) name the training; `epoch` is
        counted from 1, `lr` is the learning rate, `loss` the mean training loss, `dice` the validation Dice in per cent
        by which the epoch is selected, and `kept` says whether this epoch's weights were kept.
        """
        return self._frame("curves")

    @property
    def targets(self) -> tuple[str, ...]:
        """The hospitals whose patients score the models, in the study's order."""
        from server.report.wording import targets

        return tuple(targets(self.content))

    def verdict(self, target: str) -> str:
        """Return the sentence of the report on whether handing a model on helped at a hospital.

        Args:
            target: the hospital.

        Raises:
            RelayError: no row is scored at this hospital.
        """
        from server.report.networks import judged
        from server.report.verdicts import verdict

        return verdict(judged(self.content), target)

    def report(self) -> Path:
        """Write the page `report.html` into the result folder, as `relay report` does, and return its path.

        Raises:
            RelayError: results.json cannot be read any more, or the page cannot be written.
        """
        from server.report import write_report

        return write_report(self.folder)

    def __repr__(self) -> str:
        """Return the study's name and the folder."""
        return f"<relay.Results of {str(self.content.study.get('name', ''))!r} in {self.folder}>"

    def _repr_html_(self) -> str:
        """Return the tables that the command prints, for a notebook."""
        from server.report.notebook import tables_html

        return tables_html(self.content)

    def _frame(self, name: str) -> pd.DataFrame:
        try:
            import pandas as pd
        except ImportError:
            raise RelayError(
                "pandas is not installed, which data frames are made with; run `pip install 'prostate-relay[python]'`."
            ) from None
        from server.results.flat_tables import flat_tables

        table = flat_tables(self.content)[name]
        frame = pd.DataFrame.from_records(list(table.records), columns=list(table.columns))
        return frame.astype({column: DTYPES[kind] for column, kind in table.columns.items() if kind in DTYPES})
