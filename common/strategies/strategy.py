"""What a federated strategy is, for all who ask: the study, the plan and the coordinator that aggregates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


def _none(_: int) -> Mapping[str, float]:
    return {}


@dataclass(frozen=True)
class Strategy:
    """How the parts of a round, one a site, become one average."""

    key: str
    """In study files and results."""
    title: str
    """For readers, as its authors write it."""
    flower: str
    """The class of `flwr.serverapp.strategy` that aggregates."""
    arguments: Callable[[int], Mapping[str, float]] = _none
    """Those of that class, for so many parts."""
    fewest_parts: int = 2
    """A round of fewer is not averaged, and a study of fewer sites is refused."""
    why_so_many: str = ""
    """What a study of fewer sites is told, after the strategy's key."""
    whole_parts: bool = False
    """Whether it compares whole models, so that all of them have to be in memory at once."""
    proximal: bool = False
    """Whether the sites train with FedProx's proximal term."""
    skippable: bool = True
    """Whether a round may go on without a site that is away."""
    style: str = ""
    """The class of the report's style sheet in which its line is drawn strongly."""
