"""FedAvg: the mean, weighted by training slices (McMahan et al., AISTATS 2017)."""

from common.strategies.strategy import Strategy

STRATEGY = Strategy(key="fedavg", title="FedAvg", flower="FedAvg", style="s-fedavg")
