"""From a message to a verified order, rebuilt from the site's own copy of the approved study and checked once.

The site believes nothing of a message. The site makes the coordinator's plan itself, from its own copy of the study and
with its own patients, and looks up the stage there by name. A stage takes a `VerifiedOrder`, never a message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from pydantic import TypeAdapter

from client.governance.approval import approved
from client.governance.commitments import bind_stage, check_limits, check_routes_extend, pin_census
from client.preprocessing.cohort import Cohort, gather
from client.preprocessing.pipeline import prepare
from client.site_config import SiteConfig
from client.stages.describe import execution_environment, train_slices
from client.stages.own_tensors import own_tensors
from client.stages.parts import parts_of
from common.config.study import Study
from common.errors import RelayError
from common.model.network import staying_names
from common.model.weights import Weights
from common.plan import Census, Choices, Plan, plan
from common.plan.graph import Evaluate, FineTune, Node, keepers, lacks_batch_norm, models_in
from common.plan.stage_key import ExecutionEnvironment, completed_digest, ensemble_digest, stage_key
from common.protocol.codec import BadMessage
from common.protocol.messages import Count, Delivery, EvaluateOrder, FineTuneOrder, Order, Planned
from common.protocol.refusals import Refusal, Refused

_CENSUS = TypeAdapter(dict[str, tuple[Count, ...]])
_CHOICES = TypeAdapter(dict[str, tuple[str, ...]])

Stage = TypeVar("Stage", FineTune, Evaluate)


@dataclass(frozen=True, eq=False)
class VerifiedOrder(Generic[Stage]):
    """A stage of an approved study that this site may carry out."""

    site: SiteConfig
    study: Study
    """The site's own copy of the plain study."""
    node: Stage
    key: str
    """The key of the stage's result, computed at the site."""
    cohort: Cohort
    environment: ExecutionEnvironment
    start_digest: str
    """The digest of the weights from which the stage starts, or which the stage scores."""
    models: tuple[str, ...]
    """The digests of the weights files: several of an ensemble, else a single one."""
    start: Weights | None
    """The weights that came with the order, or None; not yet compared with their digest."""
    came: int
    """The place in `models` of the weights that came with the order."""
    acknowledged: tuple[str, ...]
    """The keys of other stages whose results the coordinator has."""
    restart_token: str
    """If not empty: the stage starts from the beginning, once for each token."""
    own: Weights = field(default_factory=dict)
    """The site's own tensors, with which it completes the weights; none where the weights are complete."""
    lacking: frozenset[str] = frozenset()
    """The names of the tensors that the file of the weights lacks, since they stayed at the sites."""
    parts: Weights | None = None
    """The network's parts that belong to the site, with which a training begins; None where there are none."""


@dataclass(frozen=True, eq=False)
class VerifiedDelivery:
    """The verified values with which a delivery of weights is compared."""

    site: SiteConfig
    study: Study
    """The site's own copy of the plain study."""
    plan: Plan
    cohort: Cohort
    environment: ExecutionEnvironment


@dataclass(frozen=True, eq=False)
class _Rebuilt:
    """The plan behind a message, rebuilt from the approved study."""

    study: Study
    census: Census
    choices: Choices
    plan: Plan


def verify_order(site: SiteConfig, order: Order, weights: Weights | None, kind: type[Stage]) -> VerifiedOrder[Stage]:
    """Check an order step by step against the approved study, this site's data and earlier orders.

    Args:
        site: this site.
        order: the message; its digests and its census alone are compared with the site's own.
        weights: the weights sent with the order, or None.
        kind: the kind of stage for this kind of message.

    Raises:
        Refused: the study is unknown, the stage is not this site's in the study, the site's data have changed since
            their description, the key is not the stage's, or the census, a route or the start weights differ from
            earlier orders.
        BadMessage: the members are not those of the ensemble, or the site's own tensors or parts are not those that
            the stage needs.
    """
    rebuilt = _rebuild(site, order)
    study = rebuilt.study
    node = rebuilt.plan.by_id.get(order.node)
    if not isinstance(node, kind) or node.site != site.name:
        raise Refused(Refusal.NOT_IN_STUDY)
    cohort, environment = _gather(site, rebuilt, order)
    members = order.members if isinstance(order, EvaluateOrder) else ()
    received = node.weights if isinstance(node, Evaluate) else node.parent
    models = models_named(received, order.weights, members)
    parts = order.parts if isinstance(order, FineTuneOrder) else ""
    if order.key != stage_key(node, study=study, weights=order.weights, environment=environment, parts=parts):
        # The data are those described, so a key made with care differs by the programs or the device alone.
        raise Refused(Refusal.ANOTHER_KEY)
    own: Weights = {}
    kept = own_tensors(site.private(), study.digest)
    if needed := tuple(keepers(node)):
        models, own = (file_completed(order),), kept.get(needed, order.own)
    elif order.own or order.shared:
        raise BadMessage("the stage needs no tensors of the site's own")
    if own and not order.shared:
        weights, own = own, {}  # all tensors are the site's own, and none has to come
    pin_census(site, study, rebuilt.census)
    check_routes_extend(site, study, rebuilt.choices)
    bind_stage(site, study, node, order.key)
    return VerifiedOrder(
        site=site,
        study=study,
        node=node,
        key=order.key,
        cohort=cohort,
        environment=environment,
        start_digest=order.weights,
        models=models,
        start=weights,
        own=own,
        lacking=staying_names(study.model, "batch-norm") if lacks_batch_norm(received) else frozenset(),
        parts=parts_of(node, parts, study=study, nodes=rebuilt.plan.nodes, store=kept),
        came=order.member if isinstance(order, EvaluateOrder) else 0,
        acknowledged=tuple(key for key in order.acknowledged if key != order.key),
        restart_token=order.restart_token if isinstance(order, FineTuneOrder) else "",
    )


def models_named(model: Node, weights: str, members: tuple[str, ...]) -> tuple[str, ...]:
    """Return the digests of the weights files named in a message: several of an ensemble.

    Args:
        model: the node of the weights.
        weights: the digest of the weights in the message.
        members: the digests of an ensemble's members in the message.

    Raises:
        BadMessage: the members are not as many as the ensemble has, or not those that its digest is made of.
    """
    if models_in(model) == 1 and not members:
        return (weights,)
    if len(members) != models_in(model) or ensemble_digest(members) != weights:
        raise BadMessage("the members are not those of the ensemble")
    return members


def file_completed(message: Order | Delivery, weights: str = "") -> str:
    """Return the digest of the file that a site completes with its own tensors; if it is complete, of these tensors.

    Args:
        message: names the file and the site's own tensors.
        weights: the digest of the completed weights; by default, that of an order.

    Raises:
        BadMessage: the two digests are not those that the completed weights' digest is made of.
    """
    weights = weights or getattr(message, "weights", "")
    if not message.own or completed_digest(message.shared, message.own) != weights:
        raise BadMessage("the weights are not completed by the tensors named")
    return message.shared or message.own


def verify_delivery(site: SiteConfig, delivery: Delivery) -> VerifiedDelivery:
    """Check a delivery against the approved study, this site's data and earlier orders.

    Raises:
        Refused: the study is unknown, the site's data have changed since their description, or the census or a route
            differs from earlier orders.
    """
    rebuilt = _rebuild(site, delivery)
    cohort, environment = _gather(site, rebuilt, delivery)
    pin_census(site, rebuilt.study, rebuilt.census)
    check_routes_extend(site, rebuilt.study, rebuilt.choices)
    return VerifiedDelivery(site, rebuilt.study, rebuilt.plan, cohort, environment)


def _rebuild(site: SiteConfig, message: Planned) -> _Rebuilt:
    """Make the plan behind a message from the approved study.

    Raises:
        Refused: the study is not approved, or the message's census or choices do not fit the study.
    """
    study = approved(site, message.study)
    torch.set_num_threads(study.training.threads)
    try:
        census, choices = _CENSUS.validate_json(message.census), _CHOICES.validate_json(message.choices)
    except ValueError:
        raise Refused(Refusal.NOT_IN_STUDY) from None
    if any(len(counts) < study.split.folds for counts in census.values()):
        raise Refused(Refusal.NOT_IN_STUDY)
    check_limits(site, study, census)
    try:
        return _Rebuilt(study, census, choices, plan(study, census, choices, at=site.name))
    except RelayError:  # any other exception is an error of this program, and is reported as an internal error
        raise Refused(Refusal.NOT_IN_STUDY) from None


def _gather(site: SiteConfig, rebuilt: _Rebuilt, message: Planned) -> tuple[Cohort, ExecutionEnvironment]:
    """Return the site's patients and its execution environment.

    Raises:
        Refused: the patients differ from the patients in the coordinator's plan.
    """
    study = rebuilt.study
    prepared = prepare(site, study.preprocessing, target=study.model.segments)
    cohort = gather(prepared.records, site, study.split)
    environment = execution_environment(site, study, prepared)
    own = train_slices(cohort, study)
    if environment.fingerprint != message.fingerprint or rebuilt.census.get(site.name) != own:
        raise Refused(Refusal.DATA_CHANGED)
    return cohort, environment
