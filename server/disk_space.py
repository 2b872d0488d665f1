"""Check of the disk's free space for a study's weights, before any training."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from common.config.study import Study
from common.errors import DiskFull
from common.model.network import declared_bytes
from common.plan.graph import Average, FineTune, Node, ServerStep, Soup
from common.strategies import STRATEGIES
from common.text import short_bytes


def check_disk_space(
    variants: Sequence[Study], to_make: Sequence[Collection[Node]], folder: Path, *, everything: bool
) -> None:
    """Refuse a study whose weights do not fit on the disk, before days of training.

    Args:
        variants: the plain studies, one for each repeat and network.
        to_make: for each variant, the nodes still to be made.
        folder: the result folder.
        everything: whether all weights are kept, even if no row, choice or stage needs them any more.

    Raises:
        DiskFull: the weights need more space than is free.
    """
    made = need = 0
    for variant, nodes in zip(variants, to_make, strict=True):
        stay = {node for node in nodes if isinstance(node, FineTune) and node.stays == "everything"}
        trained = sum(isinstance(node, FineTune | Average) for node in nodes) - len(stay)
        if not everything:
            # Of federated rounds, each fold keeps only the leading averages and the weights in transit; of averages
            # re-estimated at a target, the leading one and the one at work.
            folds, sites = len(variant.split.run), len(variant.sites)
            averages = [node for node in nodes if isinstance(node, Average) and not isinstance(node, Soup)]
            later = (node for node in nodes if isinstance(node, FineTune) and node.schedule.first > 0)
            of_rounds = {*averages, *(part for average in averages for part in average.parts), *later} & set(nodes)
            estimates = sum(isinstance(node, FineTune) and not node.trains for node in nodes)
            strategies = sum("re-estimate" in part.batch_norm for part in variant.methods.federated)
            trained -= max(0, len(of_rounds) - 3 * folds * (sites + 1))
            trained -= max(0, estimates - 2 * folds * sites * strategies)
        trained += _states(nodes, everything=everything)
        made += trained
        need += trained * declared_bytes(variant.model)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise DiskFull(
            f"The weights of {made} stages need {short_bytes(need)} more in {folder},"
            f" and {short_bytes(free)} are free; make room, give another folder with --out,"
            " or set fewer rounds, folds or routes in the study."
        )


def _states(nodes: Collection[Node], *, everything: bool) -> int:
    """Return how many times a network's size the states of server optimizers take: a tensor a moment and weight.

    A state is needed by the next round alone, so each series of rounds has two at most.
    """
    steps = [node for node in nodes if isinstance(node, ServerStep)]
    first = [step for step in steps if step.before is None or step.before not in nodes]
    servers = [STRATEGIES[step.strategy].server for step in (steps if everything else (*first, *first))]
    return sum(len(server.moments) for server in servers if server)
