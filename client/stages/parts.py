"""The parts of a network that belong to a site, such as MS-Net's auxiliary decoder (`registry.Network.stays`).

Training alone uses them. They begin with the values that the study's seed draws, are kept with the tensors that never
leave the site (`client.stages.own_tensors`), and are put back at the site's next visit.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from client.stages.own_tensors import OwnTensors
from common.config.study import Study
from common.model.network import build, part_names
from common.model.weights import Weights
from common.plan.graph import FineTune, Node, earlier_visit
from common.protocol.codec import BadMessage
from common.seeds import seed_of


def parts_of(node: Node, digest: str, *, study: Study, nodes: Iterable[Node], store: OwnTensors) -> Weights | None:
    """Return the parts with which a training begins; None for any other stage, and for a network without such parts.

    Args:
        node: the stage.
        digest: the digest of the parts that an earlier training kept; empty for a first visit.
        study: the site's own copy of the plain study.
        nodes: the nodes of the plan.
        store: the tensors that stay at the site.

    Raises:
        BadMessage: the stage needs no parts of an earlier training.
        Refused: no training of the site in this fold has kept such parts.
    """
    trains = isinstance(node, FineTune) and node.trains and bool(part_names(study.model))
    if digest and not (trains and isinstance(node, FineTune) and earlier_visit(node)):
        raise BadMessage("the stage needs no parts of an earlier training")
    if not trains:
        return None
    if not digest:
        return first_parts(study)
    assert isinstance(node, FineTune)
    # Two trainings may be the same work, done under either name.
    here = [one for one in nodes if isinstance(one, FineTune) and (one.site, one.fold) == (node.site, node.fold)]
    return store.get(here, digest)


def first_parts(study: Study) -> Weights:
    """Return the first values of the parts: those that the study's seed draws, the same at every site."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(study.seed, "start"))
        drawn = build(study.model, whole=True).state_dict()
    return {name: drawn[name] for name in part_names(study.model)}
