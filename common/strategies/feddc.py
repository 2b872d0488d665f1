"""FedDC, federated daisy-chaining: between averages, models change places (Kamp, Fischer and Vreeken, ICLR 2023).

Every site trains a model of its own. After a round, the models go to the sites in another order, drawn from the study's
seed; after every few rounds, they are averaged, and all sites go on from the average. A site of few patients thus gets
models that other sites have trained, as on a route, and the average takes what all of them have learned.
"""

from common.strategies.strategy import Strategy

# A model whose last site of a chain is away would be left out with all that its earlier sites have trained.
STRATEGY = Strategy(key="feddc", title="FedDC", flower="FedAvg", daisy_chain=True, skippable=False)
