"""`relay predict`: draw the gland in a DICOM series or a volume."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from common.errors import RelayError

ABOUT = (
    "Draw the prostate gland in a DICOM series or a volume with weights that a study brought, exactly as the study"
    " scored them. The mask has the image's own grid. Research software, not a medical device."
)


def arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument("weights", metavar="WEIGHTS", type=Path, help="model.safetensors, its card beside it")
    own.add_argument("scan", metavar="SERIES", type=Path, help="folder of a DICOM series, or a NIfTI, NRRD or MHA file")
    own.add_argument("-o", "--out", metavar="MASK", type=Path, required=True, help=".nii.gz, .nii, .nrrd or .mha")
    own.add_argument("--dicom-seg", metavar="OUT.dcm", type=Path, help="also write a DICOM segmentation of the series")
    own.add_argument("--card", metavar="CARD.json", type=Path, help="the model card; default: WEIGHTS' own, beside it")
    own.add_argument("--series", metavar="PATTERN", default="", help="regular expression for the SeriesDescription")
    own.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="default: auto")


def run(chosen: argparse.Namespace) -> int:
    from client.card import card_beside, load_card
    from client.device import choose_machine
    from client.dicom_seg import check_installed, read_series, write_segmentation
    from client.predict import draw, ending_of, find_scan, load_network, write_mask
    from deploy.console import bar

    # What can be known to fail is told before minutes of work.
    ending_of(chosen.out)
    if chosen.dicom_seg is not None:
        check_installed()
    card = load_card(chosen.card or card_beside(chosen.weights))
    network = load_network(chosen.weights, card)
    scan = find_scan(chosen.scan, chosen.series)
    if chosen.dicom_seg is not None and not scan.is_series:
        raise RelayError(f"{chosen.scan} is no DICOM series, so there is nothing that --dicom-seg could refer to.")
    for path in (chosen.out, chosen.dicom_seg):
        if path is not None and path.exists() and any(path.samefile(file) for file in (*scan.files, chosen.weights)):
            raise RelayError(f"{path} is what is read; give another path for what is written.")
    images = read_series(scan.files) if chosen.dicom_seg is not None else []
    machine = choose_machine(chosen.device, card.precision)
    with bar("Correcting the bias field, drawing", unit="iterations", stream=sys.stderr) as progress:
        drawn = draw(scan, card, network, machine, progress=progress)
    write_mask(drawn.mask, chosen.out)
    if chosen.dicom_seg is not None:
        write_segmentation(drawn.mask, images, card, chosen.dicom_seg)
    for remark in drawn.remarks:
        print(remark, file=sys.stderr)
    print(f"{chosen.out}: {drawn.ml:.1f} ml in {drawn.slices} of {drawn.mask.GetSize()[2]} slices")
    if chosen.dicom_seg is not None:
        print(chosen.dicom_seg)
    return 0
