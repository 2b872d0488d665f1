"""Define `relay predict`: draw the gland in a DICOM series or a volume."""

from __future__ import annotations

import itertools
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import typer

from common.errors import RelayError
from common.text import listed
from deploy.cli.commands import command, top_level
from deploy.cli.options import MACHINE, RESULTS

app = top_level()

MODEL = "Model and image"


@command(app, "predict")
def predict(
    weights: Annotated[
        list[Path],
        typer.Argument(
            metavar="WEIGHTS...",
            parser=Path,
            help="The .safetensors file of `relay site receive --to`, its card beside it; of an ensemble, all.",
        ),
    ],
    scan: Annotated[
        Path,
        typer.Argument(
            metavar="SERIES", parser=Path, help="The folder of a DICOM series, or a NIfTI, NRRD or MHA file."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="MASK",
            parser=Path,
            help="The mask: .nii.gz, .nii, .nrrd or .mha.",
            rich_help_panel=RESULTS,
        ),
    ],
    dicom_seg: Annotated[
        Path | None,
        typer.Option(
            "--dicom-seg",
            metavar="OUT.dcm",
            parser=Path,
            help="Also write a DICOM segmentation of the series.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    store: Annotated[
        str,
        typer.Option(
            "--store",
            metavar="URL",
            help="Also send the DICOM segmentation to this DICOMweb server.",
            rich_help_panel=RESULTS,
        ),
    ] = "",
    uncertainty: Annotated[
        Path | None,
        typer.Option(
            "--uncertainty",
            metavar="MAP",
            parser=Path,
            help="Also write where an ensemble's models disagree: standard deviation of their probabilities.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            "--card",
            metavar="CARD.json",
            parser=Path,
            help="The model card; default: WEIGHTS' own, beside it.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    series: Annotated[
        str,
        typer.Option(
            "--series",
            metavar="PATTERN",
            help="Regular expression for the SeriesDescription, or for number, date, folder or UID.",
            rich_help_panel=MODEL,
        ),
    ] = "",
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        typer.Option("--device", help="Default: auto.", rich_help_panel=MACHINE),
    ] = "auto",
) -> int:
    """Draw the prostate gland, or its two zones, in a DICOM series or a volume.

    The weights are those that a study brought, and draw exactly as the study scored them: of an ensemble, all files
    together. The mask has the image's own grid. Research software, not a medical device.
    """
    from client.delivery.model_card import card_beside, load_card
    from client.inference.dicom_seg import check_installed, read_series, write_segmentation
    from client.inference.predict import draw, ending_of, find_scan, in_order, load_network, write_mask
    from client.training.device import choose_device
    from deploy.console import bar

    # A wrong ending of the mask's name or a missing package is reported before minutes of work.
    for path in (out, uncertainty):
        if path is not None:
            ending_of(path)
    if dicom_seg is not None or store:
        check_installed()
    if store:
        from client.archive.connection import connect

        connect(store)  # a wrong address, too
    named = [path.absolute() for path in (out, dicom_seg, uncertainty) if path is not None]
    if len(set(named)) < len(named):
        raise RelayError(f"Two results would be written to {out}; give each a path of its own.")
    model_card = load_card(card or card_beside(weights[0]))
    if uncertainty is not None and not model_card.members:
        raise RelayError(f"{weights[0]} is a single model, so there is no disagreement that --uncertainty could show.")
    files = in_order(weights, model_card)
    first = load_network(files[0], model_card)  # wrong weights are reported before minutes of work
    found = find_scan(scan, series)
    if (dicom_seg is not None or store) and not found.is_series:
        option = "--dicom-seg" if dicom_seg is not None else "--store"
        raise RelayError(f"{scan} is no DICOM series, so there is nothing that {option} could refer to.")
    for path in (out, dicom_seg, uncertainty):
        if path is not None and path.exists() and any(path.samefile(file) for file in (*found.files, *weights)):
            raise RelayError(f"{path} is what is read; give another path for what is written.")
    images = read_series(found.files) if dicom_seg is not None or store else []
    selected = choose_device(device, model_card.precision)
    with bar("Correcting the bias field, drawing", unit="iterations", stream=sys.stderr) as progress:
        others = (load_network(path, model_card, number) for number, path in enumerate(files[1:], start=1))
        drawn = draw(found, model_card, itertools.chain([first], others), selected, progress=progress)
    write_mask(drawn.mask, out)
    if uncertainty is not None:
        write_mask(drawn.disagreement, uncertainty)
    if dicom_seg is not None:
        write_segmentation(drawn.mask, images, model_card, dicom_seg)
    if store:
        from client.archive.store import store as send

        with tempfile.TemporaryDirectory() as scratch:
            path = dicom_seg
            if path is None:
                path = Path(scratch) / "segmentation.dcm"
                write_segmentation(drawn.mask, images, model_card, path)
            send(path, store)
    for remark in drawn.remarks:
        print(remark, file=sys.stderr)
    parts = zip(model_card.model.segments.zones, drawn.zones_ml, strict=True)
    zones = listed(f"{zone.title} (value {zone.label}) {ml:.1f} ml" for zone, ml in parts) if drawn.zones_ml else ""
    slices = f"{drawn.slices} of {drawn.mask.GetSize()[2]} slices"
    print(f"{out}: {drawn.ml:.1f} ml in {slices}{f': {zones}' if zones else ''}")
    for path in (dicom_seg, uncertainty):
        if path is not None:
            print(path)
    if store:
        print(f"The segmentation is in the archive {urlsplit(store).hostname}")
    return 0
