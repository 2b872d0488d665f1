"""A model as an ONNX file, with all that an image must have gone through before it."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from client.delivery.model_card import Card, models_of, standard_of, weights_digest
from client.inference.predict import load_network
from common.errors import RelayError
from common.files import write_atomically
from common.target import TARGETS

INSTALL = "pip install 'prostate-relay[onnx]'"
OPSET = 18
"""The version of ONNX's operators: that of ONNX 1.13 (2023), which every runtime of today reads."""


def check_installed() -> None:
    """Check that onnx is installed.

    Raises:
        RelayError: it is missing.
    """
    if importlib.util.find_spec("onnx") is None:
        raise RelayError(f"ONNX files need the package onnx, which is not installed; install it: {INSTALL}.")


def write_onnx(weights: Path, card: Card, path: Path) -> None:
    """Write a model as an ONNX file of one input, `image`, and one output, `logits`, in float32.

    The input is standardised already and on the study's grid: (slices, channels, pixels, pixels), or of a network in
    three dimensions (boxes, 1, depth, pixels, pixels); how many slices is free. The output has the same shape, with one
    channel of logits for the gland, whose sigmoid is its probability, or with one for what is no gland and one a zone,
    whose softmax is. The file's metadata hold the model card, and in words what to do with an image.

    Args:
        weights: the weights file; of an ensemble, one of its files.
        card: the model card.
        path: the file.

    Raises:
        RelayError: onnx is missing, the weights are not the card's, the network has an operation without a counterpart
            in ONNX (PSPNet and UPerNet, unless the pixels are a multiple of 192), or the file cannot be written.
    """
    check_installed()
    import onnx

    models = models_of(card)
    digest = weights_digest(weights)
    number = next((place for place, model in enumerate(models) if model.weights == digest), 0)
    network = load_network(weights, card, number)
    try:
        model = onnx.load_from_string(_exported(network.eval(), _example(card)))
    except torch.onnx.errors.OnnxExporterError as error:
        raise RelayError(
            f"The network {card.model.architecture} has no form in ONNX at {card.preprocessing.pixels} pixels"
            f" ({str(error).partition('. ')[0].strip()})."
        ) from None
    model.producer_name, model.producer_version = "relay", card.relay
    model.doc_string = f"{card.about} Research software, not a medical device.".strip()
    onnx.helper.set_model_props(model, _metadata(card, standard_of(card, models[number])))
    onnx.checker.check_model(model)
    try:
        write_atomically(path, model.SerializeToString())
    except OSError as error:
        raise RelayError(f"{path} cannot be written ({error.strerror}); give another path.") from None


def _example(card: Card) -> torch.Tensor:
    side = card.preprocessing.pixels
    if card.model.dimensions == 3:
        return torch.zeros(2, 1, card.model.depth, side, side)
    return torch.zeros(2, 2 * card.model.neighbours + 1, side, side)


def _exported(network: nn.Module, example: torch.Tensor) -> bytes:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), _without_output():
        # The exporter by tracing, which torch calls its older one: one file, and no further packages. The other writes
        # two files and needs onnxscript.
        warnings.simplefilter("ignore")
        file = Path(folder) / "network.onnx"
        torch.onnx.export(
            network,
            (example,),
            str(file),
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "slices"}, "logits": {0: "slices"}},
            opset_version=OPSET,
            dynamo=False,
        )
        return file.read_bytes()


@contextmanager
def _without_output() -> Iterator[None]:
    """Keep standard output from torch's compiled code, which prints a whole network where it cannot export it."""
    sys.stdout.flush()
    before = os.dup(1)
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 1)
        yield
    finally:
        os.dup2(before, 1)
        os.close(before)


def _metadata(card: Card, standard: tuple[float, float] | None) -> dict[str, str]:
    """Return the file's metadata: what a program reads, and what a person reads."""
    part = card.preprocessing
    size = f"{part.pixels} x {part.pixels} pixels at {part.spacing_mm:g} mm, centred on the image"
    by = (
        "less the volume's own mean, divided by its own standard deviation"
        if standard is None
        else f"less {standard[0]:.9g}, divided by {standard[1]:.9g}"
    )
    n4 = "the bias field divided out (N4), " if part.n4.enabled else ""
    channels = 2 * card.model.neighbours + 1
    beside = f"; the {channels} channels are a slice and its neighbours from feet to head" if channels > 1 else ""
    if card.model.dimensions == 3:
        size += f", and to slices {card.model.slice_spacing_mm:g} mm apart"
        beside = f"; a box holds {card.model.depth} slices, from feet to head"
    zones = "".join(f", {zone.title}" for zone in TARGETS[card.model.target].zones)
    drawn = f"their softmax is of no gland{zones}" if zones else "their sigmoid is the gland's probability"
    return {
        "relay.card": card.model_dump_json(),
        "relay.standard": json.dumps(None if standard is None else {"mean": standard[0], "std": standard[1]}),
        "relay.input": f"Axial T2 slices, rows from front to back and columns from the patient's right to left: {n4}"
        f"resampled to {size}, {by}{beside}.",
        "relay.output": f"Logits on the same grid: {drawn}.",
    }
