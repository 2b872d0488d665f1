"""The declaration of a federated strategy, for the study, the plan and the coordinator that aggregates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


def _none(_: int) -> Mapping[str, float]:
    return {}


@dataclass(frozen=True)
class Strategy:
    """A rule that makes one average of a round's parts, one part a site."""

    key: str
    """The strategy's name in study files and results."""
    title: str
    """The strategy's name for readers, as its authors write it."""
    flower: str
    """The class of `flwr.serverapp.strategy` that aggregates."""
    arguments: Callable[[int], Mapping[str, float]] = _none
    """Returns the arguments of that class for a number of parts."""
    fewest_parts: int = 2
    """The fewest parts that a round needs to be averaged, and the fewest sites that a study needs."""
    why_so_many: str = ""
    """The end of the error for a study of fewer sites; it follows the strategy's key."""
    whole_parts: bool = False
    """Whether the strategy compares whole models, so that all parts have to be in memory at once."""
    proximal: bool = False
    """Whether the sites train with FedProx's proximal term."""
    skippable: bool = True
    """Whether a round may go on without a site that is away."""
    style: str = ""
    """The class of the report's style sheet that draws the strategy's line strongly; empty: none."""
