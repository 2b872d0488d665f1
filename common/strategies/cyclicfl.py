"""CyclicFL: laps first, then FedAvg's rounds from the end of the laps (Zhang et al., arXiv 2301.12193, 2023).

A lap is a round in which one model goes from site to site, in the study's order, instead of to all sites at once; the
gradient steps are the same. Laps and rounds are consecutive parts of one cosine annealing.
"""

from common.strategies.strategy import Strategy

STRATEGY = Strategy(key="cyclicfl", title="CyclicFL", flower="FedAvg", laps_first=True)
