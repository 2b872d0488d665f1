"""The files that a hospital takes away from a study: weights, their cards, and the letter."""

from __future__ import annotations

from pathlib import Path

from client.delivery.letter import MODEL, OWN_MODEL, html, letter, text
from client.delivery.model_card import card_beside, weights_files
from client.delivery.model_card_text import markdown
from client.delivery.store import Arrival, Outcome
from common.errors import RelayError
from common.files import write_atomically


def hand_out(outcome: Outcome, folder: Path) -> list[Path]:
    """Write a study's files into a folder, replacing files of the same names.

    Args:
        outcome: the study's result for the site.
        folder: the folder, created if need be.

    Returns:
        The paths of the files.

    Raises:
        RelayError: the folder cannot be written.
    """
    written = letter(outcome)
    contents = {"letter.html": html(written).encode(), "letter.txt": text(written).encode()}
    contents |= _model(MODEL, outcome.selected)
    if outcome.own:
        contents |= _model(OWN_MODEL, outcome.own)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_atomically(folder / name, content)
    except OSError as error:
        raise RelayError(f"{folder} cannot be written ({error.strerror}); give another folder with --to.") from None
    return [folder / name for name in contents]


def _model(name: str, arrival: Arrival) -> dict[str, bytes]:
    card = card_beside(Path(name))
    names = weights_files(Path(name), len(arrival.files))
    return {
        **{to.name: held.read_bytes() for to, held in zip(names, arrival.files, strict=True)},
        card.with_suffix(".md").name: markdown(arrival.card).encode(),
        card.name: (arrival.card.model_dump_json(indent=1) + "\n").encode(),
    }
