"""The declaration of a federated strategy, for the study, the plan, and the aggregation at the coordinator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


def _none(_: int) -> Mapping[str, float]:
    return {}


@dataclass(frozen=True)
class ServerOptimizer:
    """The optimizer of a server that takes the mean of the sites' changes in a round for a gradient.

    Its state is one tensor for each kind of moment and each weight, from round to round. The statistics of batch
    normalisation have no gradient: they are the plain mean.
    """

    arguments: Mapping[str, str]
    """The settings of the optimizer, with their names in Flower's class: "learning_rate", "momentum",
    "second_moment", "tau"."""
    moments: Mapping[str, str]
    """The kinds of moment, with the names of the attributes in Flower's class."""
    learning_rates: tuple[float, ...]
    """The learning rates that a study tries unless it names others."""


@dataclass(frozen=True)
class Strategy:
    """A rule for the average of a round's parts, with a part from each site."""

    key: str
    """The strategy's name in study files and results."""
    title: str
    """The strategy's name for readers, in its authors' spelling."""
    flower: str
    """The class of `flwr.serverapp.strategy` for the aggregation."""
    arguments: Callable[[int], Mapping[str, float]] = _none
    """Returns the arguments of Flower's class for a number of parts."""
    fewest_parts: int = 2
    """The fewest parts of a round for an average, and the fewest sites of a study."""
    why_so_many: str = ""
    """The end of the error for a study of fewer sites, after the strategy's key."""
    whole_parts: bool = False
    """Whether the strategy compares whole models, which requires all parts in memory at once."""
    proximal: bool = False
    """Whether the sites train with FedProx's proximal term."""
    weighting: str = "each part by its site's training slices"
    """How much each part of a round counts, in words."""
    server: ServerOptimizer | None = None
    """The server's optimizer; None: the average is the next round's start."""
    daisy_chain: bool = False
    """Whether models change places between rounds, and are averaged only every few rounds."""
    laps_first: bool = False
    """Whether the first rounds are laps of a single model."""
    skippable: bool = True
    """Whether a round may go on without an absent site."""
    style: str = ""
    """The style sheet class that draws the strategy's line strongly in the report; empty: none."""
    local: str = ""
    """The published name of the strategy with batch norm's tensors kept at their sites; empty: none."""
    personal: str = ""
    """The published name of personal models pulled towards the strategy's averages; empty: none."""

    @property
    def plain_rounds(self) -> bool:
        """Whether every site begins every round with the average of the round before."""
        return not (self.daisy_chain or self.laps_first)

    @property
    def local_title(self) -> str:
        """The name for readers of the strategy with batch norm's tensors kept at their sites."""
        return self.local or f"{self.title}, own batch norm"

    @property
    def personal_title(self) -> str:
        """The name for readers of personal models pulled towards the strategy's averages."""
        return self.personal or f"{self.title}, personal models"
