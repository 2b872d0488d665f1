"""The mean of every weight without its extremes: Yin et al., ICML 2018."""

from common.strategies.strategy import Strategy

STRATEGY = Strategy(
    key="fedtrimmedavg",
    title="FedTrimmedAvg",
    flower="FedTrimmedAvg",
    # Flower cuts int(beta × parts) values at either end: with its own 0.2 none of three or four.
    arguments=lambda parts: {"beta": max(0.2, 1 / parts)},
    fewest_parts=3,
    why_so_many="leaves nothing of two sites; it needs three",
)
