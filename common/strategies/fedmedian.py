"""FedMedian: the median of every weight (Yin et al., ICML 2018)."""

from common.strategies.strategy import Strategy

STRATEGY = Strategy(
    key="fedmedian", title="FedMedian", flower="FedMedian", weighting="the median of every weight, sites alike"
)
