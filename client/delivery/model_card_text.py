"""A model card in Markdown: plain words, and every figure with its number of patients."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2

from client.delivery.model_card import (
    NO_DEVICE,
    NO_LICENCE,
    Card,
    Figure,
    Scores,
    figure_text,
    interval_text,
    models_of,
    name_of,
    number,
    rotation_text,
    zones_text,
)
from client.evaluation.calibration import MARGIN_MM
from common.plan import method_of
from common.scores import SCORES, deciding
from common.statistics.intervals import FEWEST, METHOD
from common.text import count

SYNTHETIC = "The study's data are synthetic: no patient stands behind any figure here, and the model fits no patient."


def markdown(card: Card) -> str:
    """Return the whole card in Markdown."""
    return (
        environment()
        .get_template("card.md.j2")
        .render(
            card=card,
            models=models_of(card),
            way=name_of(card.method, card.route, card.site),
            side=card.preprocessing.pixels * card.preprocessing.spacing_mm,
            scored=_rows(card),
            zones=zones_text("This model", card.scores),
            longer=_longer(card),
            columns=SCORES,
            deciding=deciding(card.training.slices),
            fewest=FEWEST,
            margin=MARGIN_MM,
            interval_method=METHOD,
            rotation=rotation_text(card),
            no_device=NO_DEVICE,
            synthetic=SYNTHETIC,
            no_licence=NO_LICENCE,
        )
    )


def _longer(card: Card) -> str:
    """Return the name of the longer baseline; empty where the card has none."""
    methods = (card.method, *(one.method for one in card.references))
    return next((name_of(method, (), card.site) for method in methods if method_of(method).longer), "")


def score_cells(scores: Scores) -> tuple[Figure | None, ...]:
    """Return the figures in the order of `common.scores.SCORES`."""
    return tuple(getattr(scores, score.key) for score in SCORES)


def environment(*, autoescape: bool = False) -> jinja2.Environment:
    """Return the Jinja environment for the templates of card and letter, which lie beside this file."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.globals |= {
        "as_text": as_text,
        "count": count,
        "figure": figure_text,
        "interval": interval_text,
        "name_of": name_of,
        "number": number,
    }
    return made


def as_text(foreign: str) -> str:
    """Return a text of somebody else as Markdown that shows the very text: no link, no picture, no HTML, no heading.

    The study's name, its sentence and its licence come from a file that travels by mail.
    """
    return re.sub(r"(?<=\bwww)\.|[\\`*_\[\]<>&|~#!:@]", lambda found: "\\" + found.group(), foreign)


def _rows(card: Card) -> list[tuple[str, tuple[Figure | None, ...]]]:
    """Return the card's model, and then the models of the hospital alone, each with its scores."""
    models = [("**this model**", card.scores)]
    models += [
        (name_of(one.method, (), card.site), one.scores) for one in card.references if one.weights != card.weights
    ]
    return [(name, score_cells(scores)) for name, scores in models if scores]
