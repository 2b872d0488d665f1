"""Krum: the model nearest to the other models (Blanchard et al., NeurIPS 2017)."""

from common.strategies.strategy import Strategy

STRATEGY = Strategy(
    key="krum",
    title="Krum",
    flower="Krum",
    # The largest number f of malicious sites that Krum tolerates among n sites: 2 f + 3 ≤ n.
    arguments=lambda parts: {"num_malicious_nodes": max(0, (parts - 3) // 2)},
    fewest_parts=3,
    why_so_many="compares models with each other; it needs three sites",
    whole_parts=True,
    weighting="the one part nearest to the others",
    skippable=False,
)
