"""FedAvg's mean of parts that a proximal term held near the weights they started from: Li et al., MLSys 2020."""

from common.strategies.strategy import Strategy

# The term is the sites' work. Flower's class would only hand it on to them.
STRATEGY = Strategy(
    key="fedprox", title="FedProx", flower="FedProx", arguments=lambda _: {"proximal_mu": 0.0}, proximal=True
)
