"""Define `relay report` and `relay export`, and print the results at the end of a study's commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.commands import command, top_level
from deploy.cli.options import RESULTS, Results

app = top_level()


@command(app, "report")
def report(folder: Results) -> int:
    """Make report.html of a result folder again."""
    from server.report import write_report

    print(write_report(folder))
    return 0


@command(app, "export")
def export(
    folder: Results,
    csv: Annotated[
        Path,
        typer.Option("--csv", metavar="OUT", parser=Path, help="The folder of the CSV files.", rich_help_panel=RESULTS),
    ],
) -> int:
    """Write rows, scores, folds, patients and learning curves of a result folder as CSV files.

    They are the data frames of `import relay`, a file each: UTF-8, a comma between values, nothing where there is none.
    """
    from server.report import read_results
    from server.results.csv_files import write_csv

    for path in write_csv(read_results(folder), csv):
        print(path)
    return 0


def show_results(folder: Path, *, as_json: bool = False) -> int:
    """Print the results of a study.

    Args:
        folder: the result folder.
        as_json: print results.json in place of the opening sentence, the table and the path of the page.

    Returns:
        The exit code, 0.
    """
    from deploy.console import terminal
    from server.report import opening, read_results, terminal_table, text_lines

    if as_json:
        print((folder / "results.json").read_text(encoding="utf-8"), end="")
        return 0
    results = read_results(folder)
    screen = terminal()
    print()
    if not results.rows:
        print("No row of the table is finished.")
    elif screen is None:
        print(opening(results), *text_lines(results), sep="\n")
    else:
        screen.print(opening(results), highlight=False, markup=False)
        screen.print(terminal_table(results))
    print(f"\n{folder / 'report.html'}")
    return 0
