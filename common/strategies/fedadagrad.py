"""FedAdagrad: FedAvg's mean change as the gradient of Adagrad at the server (Reddi et al., ICLR 2021).

Algorithm 2 of the source, without momentum: v ← v + Δ² and w ← w + η Δ / (√v + τ), where Δ is the mean change of the
weights in a round, and v begins with τ².
"""

from common.strategies.strategy import ServerOptimizer, Strategy

STRATEGY = Strategy(
    key="fedadagrad",
    title="FedAdagrad",
    flower="FedAdagrad",
    server=ServerOptimizer(
        arguments={"learning_rate": "eta", "tau": "tau"},
        moments={"first": "m_t", "second": "v_t"},
        learning_rates=(0.001, 0.01, 0.1),
    ),
)
