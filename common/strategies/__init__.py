"""The strategies available for averages: a file for each strategy, and its entry here."""

from collections.abc import Mapping

from common.strategies import fedavg, fedmedian, fedprox, fedtrimmedavg, krum
from common.strategies.strategy import Strategy

__all__ = ["STRATEGIES", "Strategy"]

STRATEGIES: Mapping[str, Strategy] = {
    module.STRATEGY.key: module.STRATEGY for module in (fedavg, fedprox, fedmedian, fedtrimmedavg, krum)
}
"""The strategies by key, in their order in tables and texts."""
