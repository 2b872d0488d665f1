"""The weights that a site received from its studies, each with its card, in the private folder under received/.

`client.delivery.accept` stores the weights. This module does not need torch, so that a list of the weights appears at
once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from client.delivery.model_card import Card, load_card, models_of, weights_digest, weights_files
from client.preprocessing import cache
from client.site_config import SiteConfig
from common.errors import RelayError
from common.plan import method_of

FOLDER = "received"
PATIENTS = ".patients.json"
"""The end of the name of a file with figures of single patients, which are not part of a card and are not exported."""


@dataclass(frozen=True)
class Arrival:
    """Delivered weights with their card, as stored at the site."""

    card: Card
    weights: Path
    """The path of the weights file; of an ensemble, the path from which its `files` are named."""
    differences: Mapping[str, tuple[float, ...]]
    """The lead in Dice of the model over the site's own models, in points, a value for each test patient, by the own
    model's method."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The weights files, several of an ensemble."""
        return weights_files(self.weights, len(models_of(self.card)))


@dataclass(frozen=True)
class Outcome:
    """The result of a study for a site: the selected model and, if different, the site's own model."""

    selected: Arrival
    own: Arrival | None
    """The best model of the site alone, where another model was selected."""


def outcomes(site: SiteConfig) -> list[Outcome]:
    """Return the stored outcomes, one for each study, the latest first.

    Raises:
        RelayError: a card or weights are damaged; the error's sentence names the remedy.
    """
    found = []
    for path in (site.folder / FOLDER).glob("*/selected.json"):
        best, beside = _arrival(path), path.with_name("own.json")
        alone = _arrival(beside) if not method_of(best.card.method).alone and beside.exists() else None
        found.append(Outcome(best, alone))
    return sorted(found, key=lambda outcome: outcome.selected.card.received, reverse=True)


def _arrival(path: Path) -> Arrival:
    patients = cache.read_json(path.with_name(f"{path.stem}{PATIENTS}"))
    differences = {method: tuple(values) for method, values in patients.items()}
    arrival = Arrival(load_card(path), path.with_suffix(".safetensors"), differences)
    for file, model in zip(arrival.files, models_of(arrival.card), strict=True):
        if not file.exists() or weights_digest(file) != model.weights:
            raise RelayError(
                f"{file} is gone or is not what its card says; ask the coordinator to run the study once more into the"
                " same folder: it is sent again, and nothing else is done."
            )
    return arrival
