"""FedProx: FedAvg's mean, with a proximal term in the sites' loss, which holds weights near their start.

Source: Li et al., MLSys 2020.
"""

from common.strategies.strategy import Strategy

# The sites compute the term from the order. Flower's class would only send its coefficient to the sites.
STRATEGY = Strategy(
    key="fedprox", title="FedProx", flower="FedProx", arguments=lambda _: {"proximal_mu": 0.0}, proximal=True
)
