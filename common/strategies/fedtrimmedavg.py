"""FedTrimmedAvg: the mean of every weight without its extremes (Yin et al., ICML 2018)."""

from common.strategies.strategy import Strategy

STRATEGY = Strategy(
    key="fedtrimmedavg",
    title="FedTrimmedAvg",
    flower="FedTrimmedAvg",
    # Flower cuts int(beta × parts) values at either end: its default of 0.2 would cut none of three or four parts.
    arguments=lambda parts: {"beta": max(0.2, 1 / parts)},
    fewest_parts=3,
    weighting="the mean of every weight without its extremes, sites alike",
    why_so_many="leaves nothing of two sites; it needs three",
)
