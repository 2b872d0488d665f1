"""FedYogi: FedAvg's mean change as the gradient of Yogi at the server (Reddi et al., ICLR 2021).

FedAdam but for the second moment, which grows and falls by the size of Δ² alone: v ← v - (1 - β₂) Δ² sign(v - Δ²).
"""

from common.strategies.strategy import ServerOptimizer, Strategy

STRATEGY = Strategy(
    key="fedyogi",
    title="FedYogi",
    flower="FedYogi",
    server=ServerOptimizer(
        arguments={"learning_rate": "eta", "momentum": "beta_1", "second_moment": "beta_2", "tau": "tau"},
        moments={"first": "m_t", "second": "v_t"},
        learning_rates=(0.001, 0.01, 0.1),
    ),
)
