"""FedAdam: FedAvg's mean change as the gradient of Adam at the server (Reddi et al., ICLR 2021).

Algorithm 2 of the source: m ← β₁ m + (1 - β₁) Δ, v ← β₂ v + (1 - β₂) Δ² and w ← w + η m / (√v + τ), where Δ is the mean
change of the weights in a round; m begins with 0, v with τ². The source tunes η over powers of ten, and has no
correction of the moments' bias.
"""

from common.strategies.strategy import ServerOptimizer, Strategy

STRATEGY = Strategy(
    key="fedadam",
    title="FedAdam",
    flower="FedAdam",
    server=ServerOptimizer(
        arguments={"learning_rate": "eta", "momentum": "beta_1", "second_moment": "beta_2", "tau": "tau"},
        moments={"first": "m_t", "second": "v_t"},
        learning_rates=(0.001, 0.01, 0.1),
    ),
)
