"""The strategies available for averages: a file for each strategy, and its entry here."""

from collections.abc import Mapping

from common.strategies import (
    cyclicfl,
    fedadagrad,
    fedadam,
    fedavg,
    fedavgm,
    feddc,
    fedmedian,
    fedprox,
    fedtrimmedavg,
    fedyogi,
    krum,
)
from common.strategies.strategy import ServerOptimizer, Strategy

__all__ = ["STRATEGIES", "ServerOptimizer", "Strategy"]

STRATEGIES: Mapping[str, Strategy] = {
    module.STRATEGY.key: module.STRATEGY
    for module in (
        fedavg,
        fedprox,
        fedmedian,
        fedtrimmedavg,
        krum,
        fedavgm,
        fedadagrad,
        fedadam,
        fedyogi,
        feddc,
        cyclicfl,
    )
}
"""The strategies by key, in their order in tables and texts."""
