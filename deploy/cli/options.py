"""Declare the arguments and options shared by several commands."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

RESULTS = "What comes out"
MACHINE = "This machine"
COORDINATOR = "Coordinator"
"""Headings of options in a command's help."""


def whole_number(least: int) -> Callable[[str | int], int]:
    """Make a parser for an option whose value is a whole number.

    Args:
        least: the smallest number allowed.

    Returns:
        The parser, which raises `typer.BadParameter` for every other value.
    """

    def read(given: str | int) -> int:
        try:
            number = int(given)
        except ValueError:
            number = least - 1
        if number < least:
            raise typer.BadParameter(f'"{given}" is no whole number of at least {least}')
        return number

    return read


def number_above_zero(given: str | float) -> float:
    """Parse an option whose value is a number above zero.

    Raises:
        typer.BadParameter: the value is no such number.
    """
    try:
        number = float(given)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise typer.BadParameter(f'"{given}" is no number above 0')
    return number


AtOnce = Annotated[
    int | None,
    typer.Option(
        "--at-once",
        metavar="N",
        parser=whole_number(1),
        help="The most stages that run at the same time; default: as many as the machine has cores for.",
        rich_help_panel=MACHINE,
    ),
]
CoordinatorFolder = Annotated[
    Path,
    typer.Option(
        "--dir",
        metavar="DIR",
        parser=Path,
        help="The coordinator's folder; default: relay-coordinator.",
        rich_help_panel=COORDINATOR,
    ),
]
DEFAULT_COORDINATOR = Path("relay-coordinator")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a script.", rich_help_panel=RESULTS)]
ResultsAsJson = Annotated[
    bool,
    typer.Option("--json", help="Print results.json, and nothing else, on standard output.", rich_help_panel=RESULTS),
]
Results = Annotated[Path, typer.Argument(metavar="DIR", parser=Path, help="A result folder.", show_default=False)]
SiteFile = Annotated[Path, typer.Argument(metavar="SITE.toml", parser=Path, help="The hospital's own settings.")]
