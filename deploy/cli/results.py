"""Define `relay report` and `relay export`, and print the results at the end of a study's commands."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from common.errors import RelayError
from common.text import count
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
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|WEIGHTS",
            parser=Path,
            help="A result folder; or a .safetensors file of `relay site receive --to`, its card beside it.",
            show_default=False,
        ),
    ],
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            metavar="OUT",
            parser=Path,
            help="Of a result folder: rows, scores, folds, patients and learning curves, a CSV file each.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(
            "--tensorboard",
            metavar="DIR",
            parser=Path,
            help="Of a result folder: learning curves and scores as event files, for tensorboard --logdir DIR.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(
            "--onnx",
            metavar="OUT.onnx",
            parser=Path,
            help="Of weights: the network as an ONNX file, its card and what an image goes through in its metadata.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            "--card", metavar="CARD.json", parser=Path, help="The model card; default: the weights' own, beside them."
        ),
    ] = None,
) -> int:
    """Write a study's results, or a model that it brought, in the form of other programs.

    The CSV files are the data frames of `import relay`: UTF-8, a comma between values, nothing where there is none.
    """
    if csv is None and onnx is None and tensorboard is None:
        raise RelayError(
            "Say what to write: --csv OUT or --tensorboard DIR of a result folder, or --onnx OUT.onnx of weights."
        )
    if csv is not None:
        from server.report import read_results
        from server.results.csv_files import write_csv

        for path in write_csv(read_results(source), csv):
            print(path)
    if tensorboard is not None:
        from server.report import read_results
        from server.results.tensorboard_files import write_tensorboard

        runs = write_tensorboard(read_results(source), tensorboard)
        print(f"{tensorboard}: {count(len(runs), 'run')}; tensorboard --logdir {shlex.quote(str(tensorboard))}")
    if onnx is not None:
        from client.delivery.model_card import card_beside, load_card
        from client.inference.onnx_file import check_installed, write_onnx

        check_installed()
        if onnx.exists() and source.exists() and onnx.samefile(source):
            raise RelayError(f"{onnx} is what is read; give another path for what is written.")
        write_onnx(source, load_card(card or card_beside(source)), onnx)
        print(onnx)
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
