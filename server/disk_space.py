"""Check of the disk's free space for a study's weights, before any training."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from common.config.study import Study
from common.errors import DiskFull
from common.model.network import declared_bytes
from common.plan import search_of, steps_to
from common.plan.graph import Average, FineTune, Node, Refilled, ServerStep, Soup
from common.plan.routes import most_hops, settings_of
from common.strategies import STRATEGIES
from common.text import short_bytes
from server.scheduling.state import made_again_for_a_site


def check_disk_space(
    variants: Sequence[Study],
    to_make: Sequence[Collection[Node]],
    folder: Path,
    *,
    everything: bool,
    searched: Sequence[Collection[Node]],
) -> bool:
    """Refuse a study whose weights do not fit on the disk, before days of training.

    Args:
        variants: the plain studies, one for each repeat and network.
        to_make: for each variant, the nodes still to be made.
        folder: the result folder.
        everything: whether all weights are kept, even if no row, choice or stage needs them any more.
        searched: for each variant, the trainings of all routes compared in a search.

    Returns:
        Whether they fit only if the weights with which later steps of a search may begin are not kept, but made again;
        see `RunState.scarce`.

    Raises:
        DiskFull: the weights need more space than is free.
    """
    free = shutil.disk_usage(folder).free
    made = need = 0
    for scarce in (False, True):
        made, need = needed_at_once(variants, to_make, searched, everything=everything, scarce=scarce)
        if need <= free:
            return scarce
    raise DiskFull(
        f"The weights of {made} stages need {short_bytes(need)} more in {folder},"
        f" and {short_bytes(free)} are free; make room, give another folder with --out,"
        " or set fewer rounds, folds or routes in the study."
    )


def needed_at_once(
    variants: Sequence[Study],
    to_make: Sequence[Collection[Node]],
    searched: Sequence[Collection[Node]],
    *,
    everything: bool,
    scarce: bool,
) -> tuple[int, int]:
    """Return how many weights lie on the disk at once at most, besides those that are there, and their bytes.

    Args:
        variants: the plain studies; for this and what follows see `check_disk_space`.
        to_make: for each, the nodes still to be made.
        searched: for each, the trainings of all routes compared in a search.
        everything: whether all weights are kept.
        scarce: whether the weights of routes that lost are made again where they are needed; see `RunState.scarce`.
    """
    made = need = 0
    for variant, nodes, of_search in zip(variants, to_make, searched, strict=True):
        stay = {node for node in nodes if isinstance(node, FineTune) and node.stays == "everything"}
        trained = sum(isinstance(node, FineTune | Average) for node in nodes) - len(stay)
        if not everything:
            # Of federated rounds, each fold keeps only the leading averages and the weights in transit; of averages
            # re-estimated at a target, the leading one and the one at work.
            folds, sites = len(variant.split.run), len(variant.sites)
            averages = [node for node in nodes if isinstance(node, Average) and not isinstance(node, Soup)]
            later = (node for node in nodes if isinstance(node, FineTune) and node.schedule.first > 0)
            of_rounds = {*averages, *(part for average in averages for part in average.parts), *later} & set(nodes)
            of_rounds -= set(of_search)
            estimates = sum(isinstance(node, FineTune) and not node.trains for node in nodes)
            strategies = sum("re-estimate" in part.batch_norm for part in variant.methods.federated)
            in_search = len(set(of_search) & set(nodes))
            to_come = in_search + (_of_later_hops(variant) if in_search else 0)
            trained += min(to_come, most_of_a_search(variant, scarce=scarce)) - in_search
            trained -= max(0, len(of_rounds) - 3 * folds * (sites + 1))
            trained -= max(0, estimates - 2 * folds * sites * strategies)
        # Of weights with the first weights' batch norm, each site gets those of one stage at a time.
        refilled = sum(isinstance(node, Refilled) for node in nodes)
        trained += refilled if everything else min(refilled, len(variant.sites))
        trained += _states(nodes, everything=everything)
        made += trained
        need += trained * declared_bytes(variant.model)
    return made, need


def most_of_a_search(study: Study, *, scarce: bool = False) -> int:
    """Return the most weights of a search for routes that lie on the disk at once.

    A target keeps the folds of the route that leads and of the one at work. What a step to come may begin with is kept
    too: on each rung, the models of all ways of fewer hops than the longest route has. Where settings are tried,
    or a stage depends on the length of its route, there are as many of each.

    Args:
        study: a plain study.
        scarce: whether of these only the models of single sites are kept, and others are made again when needed, a few
            at a time; see `RunState.scarce`.
    """
    sites, folds = len(study.sites), len(study.split.run) * len(settings_of(study))
    folds *= most_hops(study) if study.methods.sequential.annealing == "route" else 1
    steps = steps_to(study, study.sites[0], {})
    search = search_of(study)
    grows = search is not None and search.hop_by_hop
    # A route that grows keeps its epochs; a rung of halving has twice those of the one before.
    rungs = 1 if grows else (study.training.epochs // max(1, steps[0].epochs)).bit_length() + 1 if steps else 0
    if scarce and grows:
        chain = 1 + most_hops(study)  # of each made again, what it was made of, and what is made of it
        return folds * 3 * sites + chain * sites * made_again_for_a_site(study) * len(settings_of(study))
    ways = sum(math.perm(sites, length) for length in range(1, most_hops(study) + 1))
    return folds * (ways * rungs + 2 * sites)


def _of_later_hops(study: Study) -> int:
    """Return the most trainings of a search that are planned only once earlier hops are decided."""
    search = search_of(study)
    if search is None or not search.hop_by_hop:
        return 0
    sites = len(study.sites)
    routes = sum(sites * max(0, sites - hops) for hops in range(2, most_hops(study) + 1))
    return routes * len(study.split.run) * len(settings_of(study))


def _states(nodes: Collection[Node], *, everything: bool) -> int:
    """Return how many times a network's size the states of server optimizers take: a tensor a moment and weight.

    A state is needed by the next round alone, so each series of rounds has two at most.
    """
    steps = [node for node in nodes if isinstance(node, ServerStep)]
    first = [step for step in steps if step.before is None or step.before not in nodes]
    servers = [STRATEGIES[step.strategy].server for step in (steps if everything else (*first, *first))]
    return sum(len(server.moments) for server in servers if server)
