"""FedAvgM: FedAvg's mean, with momentum at the server (Hsu, Qi and Brown, arXiv 1909.06335, 2019).

The momentum v and the weights w follow v ← β v + Δ and w ← w + η v, where Δ is the mean change of the weights in a
round. The source has η = 1.
"""

from common.strategies.strategy import ServerOptimizer, Strategy

STRATEGY = Strategy(
    key="fedavgm",
    title="FedAvgM",
    flower="FedAvgM",
    server=ServerOptimizer(
        arguments={"learning_rate": "server_learning_rate", "momentum": "server_momentum"},
        moments={"momentum": "momentum_vector"},
        learning_rates=(1.0,),
    ),
)
