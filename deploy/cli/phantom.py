"""Define `relay phantom`: write synthetic hospitals to try relay on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.commands import command, top_level
from deploy.cli.options import whole_number

app = top_level()

PATIENTS = "The patients"


def _patients(given: str) -> dict[str, int]:
    """Read how many patients each synthetic hospital has: "12", or "A=30,B=30,C=19"."""
    count = whole_number(1)
    if "=" not in given:
        return dict.fromkeys("ABC", count(given))
    each: dict[str, int] = {}
    for entry in given.split(","):
        site, _, number = entry.partition("=")
        if site in each:
            raise typer.BadParameter(f'"{given}" names {site} twice')
        each[site] = count(number)
    return each


@command(
    app,
    "phantom",
    stopped="Stopped; the same command clears away what is unfinished and writes the hospitals anew.",
)
def phantom(
    folder: Annotated[Path, typer.Argument(metavar="DIR", parser=Path, help="A new or an empty folder.")],
    patients: Annotated[
        dict[str, int],
        typer.Option(
            "--patients",
            metavar="N",
            parser=_patients,
            help="At each of the three, or hospital by hospital: A=30,B=30,C=19 (one left out is not written);"
            " default: 12.",
            rich_help_panel=PATIENTS,
        ),
    ] = "12",  # type: ignore[assignment]  # the parser reads the default too
    anatomy: Annotated[
        list[str] | None,
        typer.Option(
            "--anatomy",
            metavar="HOSPITAL=DIR",
            help="Take a hospital's glands from a folder of real masks (NRRD, NIfTI or MetaImage; 1 = peripheral zone,"
            " 2 = central gland), one a patient, in the order of their names, on their own grids; once for each"
            " hospital that has masks. The images stay made up, but the files then carry real patients' glands:"
            " handle them as you must handle the masks, and keep to their licence.",
            rich_help_panel=PATIENTS,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            metavar="S",
            parser=whole_number(0),
            help="Other patients; default: 1.",
            rich_help_panel=PATIENTS,
        ),
    ] = 1,
) -> int:
    """Write three synthetic hospitals.

    The hospitals have the layouts of TCIA Prostate-3T, PROSTATE-DIAGNOSIS and I2CVB. Their glands are drawn, or with
    --anatomy taken from real masks.
    """
    from deploy.console import bar
    from deploy.phantom import REAL_SHAPES, write_hospitals
    from deploy.phantom.masks import mask_folders

    glands = mask_folders(anatomy or [])
    with bar("Writing the synthetic hospitals", unit="patients") as progress:
        sites = write_hospitals(folder, patients=patients, anatomy=glands, seed=seed, progress=progress)
    for path in sites.values():
        print(path)
    if glands:
        print(f"\n{REAL_SHAPES}")
    return 0
