"""FedAvg: the mean, weighted by training slices (McMahan et al., AISTATS 2017).

With batch norm's tensors kept at their sites this is FedBN (Li et al., ICLR 2021); with personal models beside it,
Ditto (Li et al., ICML 2021).
"""

from common.strategies.strategy import Strategy

STRATEGY = Strategy(key="fedavg", title="FedAvg", flower="FedAvg", style="s-fedavg", local="FedBN", personal="Ditto")
