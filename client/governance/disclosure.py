"""The work and data that a study may ask of a site, counted before the first order.

Trainings, evaluations and the data that leaves are counted on the site's own plan, with the site's own patients. The
sizes of the other sites are unknown when a study is approved. The sizes decide two things: the epochs of the longer
baseline, and the rounds of a federated method without a given number. The rounds have a largest number, whatever the
sizes are. The epochs have no largest number and are counted for the largest size that another site may have;
`client.governance.commitments` holds every order to this largest size.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict

from client.data.survey import Survey
from client.governance.egress import numbers_in
from common.config.study import Study
from common.model.network import (
    declared_bytes,
    declared_shapes,
    part_bytes,
    part_names,
    staying_bytes,
    staying_names,
)
from common.plan import MOST, Choices, Method, asked_for, batches_per_epoch, longest_has_all, plan, search_of
from common.plan.cost import made_at
from common.plan.graph import (
    Average,
    Best,
    Evaluate,
    FineTune,
    Node,
    Soup,
    Stays,
    ensemble_in,
    travelled,
    validation_folds,
)
from common.protocol.messages import Description, EvaluateReply, FineTuneReply
from common.scores import unmeasured
from common.target import Target

STAYING: tuple[Stays, ...] = ("batch-norm", "everything")
"""The kinds of trainings after which tensors stay at the site."""

ANY = "0" * 64
"""A placeholder for a digest in messages made only for counting."""


class Disclosure(BaseModel):
    """Counts over all repeats and networks of a study. A stage ordered again after a loss counts once."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    exact: bool
    """Whether the study asks for exactly these counts; otherwise for these at most."""
    trainings: int
    local: int = 0
    """Trainings after which batch norm's tensors stay at the site; they leave with no weights."""
    personal: int = 0
    """Trainings of personal models, of which no tensor leaves the site."""
    parted: int = 0
    """Trainings of a network with parts that belong to the site (`registry.Network.stays`), which stay there."""
    staying_tensors: int = 0
    """The tensors that stay at the site after all trainings of these kinds."""
    staying_bytes: int = 0
    """The bytes of these tensors, which need as much space on the site's disk."""
    estimates: int = 0
    """Estimates of batch norm's statistics for an average, without a gradient step. Their weights leave like those of
    trainings."""
    of_epochs: tuple[tuple[int, int], ...]
    """Pairs (epochs, number of trainings of so many epochs), fewest epochs first."""
    epochs: int
    gradient_steps: int
    validations: int
    """Evaluations on validation patients, without the validation within a training."""
    tests: int
    """Evaluations on test patients."""
    tensors: int
    """The tensors leaving the site with all trainings and estimates."""
    weight_bytes: int
    description_numbers: int
    """The numbers in the site's descriptions. Numbers without information (0) count too, also in the next three."""
    training_numbers: int
    """The numbers in the replies to trainings and estimates."""
    scoring_numbers: int
    """The numbers in the replies to evaluations, without scores of single patients."""
    patient_numbers: int
    """The numbers of single patients, under random case numbers; 0 where the site's file does not permit them."""


@dataclass(frozen=True)
class Onward:
    """The onward path of a site's weights from the coordinator."""

    routes: tuple[tuple[str, ...], ...]
    """The routes on which other sites train from the weights; the site is on each route, and another site is its end.
    """
    scored_at: tuple[str, ...]
    together_at: tuple[tuple[str, int], ...]
    """Pairs (another site, number of the site's models that go there as members of ensembles, of all variants)."""
    averaged: tuple[str, ...]
    """The strategies to whose averages the weights contribute. An average goes to every site of the study."""


@dataclass
class _Tally:
    """Counts of some stages of one plain study."""

    trainings: Counter[int] = field(default_factory=Counter)
    """The number of trainings, by epochs."""
    validated: Counter[int] = field(default_factory=Counter)
    """How often a fold's validation patients are scored, within a training or by an evaluation, by fold; an ensemble of
    folds scores all at once."""
    other: Counter[str] = field(default_factory=Counter)
    """The numbers of estimates, of evaluations on validation patients, of tests, of gradient steps, and of trainings
    after which batch norm's or all tensors stay."""

    def __add__(self, more: _Tally) -> _Tally:
        return _Tally(self.trainings + more.trainings, self.validated + more.validated, self.other + more.other)

    def __or__(self, rival: _Tally) -> _Tally:
        """Return the larger of every count."""
        return _Tally(self.trainings | rival.trainings, self.validated | rival.validated, self.other | rival.other)


def disclosure_of(
    site: str, study: Study, surveys: Sequence[Survey], *, largest_elsewhere: int, patient_scores: bool
) -> Disclosure:
    """Return the counts of work and data that a study may ask of a site.

    Args:
        site: the site's name.
        study: the study.
        surveys: counts of the site's patients, one survey for each of the study's variants.
        largest_elsewhere: the most training slices that another site may have in a fold.
        patient_scores: whether the site permits scores of single patients to leave.
    """
    of_epochs: Counter[int] = Counter()
    total: Counter[str] = Counter()
    for variant, survey in zip(study.variants, surveys, strict=True):
        tally = _most(site, variant, survey, largest_elsewhere)
        target = variant.model.segments
        validations, tests, estimates = (tally.other[kind] for kind in ("validations", "tests", "estimates"))
        sent = tally.trainings.total() + estimates
        kept = {stays: tally.other[stays] for stays in STAYING}
        staying_tensors = sum(len(staying_names(variant.model, stays)) * number for stays, number in kept.items())
        staying = sum(staying_bytes(variant.model, stays) * number for stays, number in kept.items())
        parted = tally.trainings.total() if (parts := part_names(variant.model)) else 0
        shown = sum(survey.validation_patients[fold] * count for fold, count in tally.validated.items())
        shown += survey.test_patients * tests
        of_epochs += tally.trainings
        total += Counter(
            local=kept["batch-norm"],
            personal=kept["everything"],
            parted=parted,
            staying_tensors=staying_tensors + parted * len(parts),
            staying_bytes=staying + parted * part_bytes(variant.model),
            estimates=estimates,
            gradient_steps=tally.other["gradient_steps"],
            validations=validations,
            tests=tests,
            tensors=sent * len(declared_shapes(variant.model)) - staying_tensors,
            weight_bytes=sent * declared_bytes(variant.model) - staying,
            description_numbers=_of_description(variant.split.folds, target),
            training_numbers=estimates * _of_training(0)
            + sum(_of_training(epochs) * count for epochs, count in tally.trainings.items()),
            scoring_numbers=(validations + tests) * _of_scoring(0, target),
            patient_numbers=shown * (_of_scoring(1, target) - _of_scoring(0, target)) if patient_scores else 0,
        )
    return Disclosure(
        exact=_is_exact(study),
        trainings=of_epochs.total(),
        of_epochs=tuple(sorted(of_epochs.items())),
        epochs=sum(epochs * count for epochs, count in of_epochs.items()),
        **{
            name: total[name] for name in Disclosure.model_fields.keys() - {"exact", "trainings", "of_epochs", "epochs"}
        },
    )


def onward_of(site: str, study: Study) -> Onward:
    """Return the onward path of a site's weights; of routes that grow hop by hop, only the first hop is known."""
    variant = study.variants[0]
    nodes = plan(variant, dict.fromkeys(variant.sites, (1,) * variant.split.folds), budgets=MOST).nodes
    routes: dict[tuple[str, ...], None] = {}
    for node in nodes:
        if isinstance(node, FineTune) and node.site != site:
            way = travelled(node)
            if site in way:
                routes[way] = None
    scored = {
        node.site
        for node in nodes
        if isinstance(node, Evaluate) and node.site != site and made_at(node.weights) == site
    }
    together: dict[str, set[Node]] = defaultdict(set)
    for node in nodes:
        ensemble = ensemble_in(node.weights) if isinstance(node, Evaluate) and node.site != site else None
        if ensemble is not None and isinstance(node, Evaluate):
            together[node.site].update(member for member in ensemble.members if made_at(member) == site)
    averages = (node for node in nodes if isinstance(node, Average) and not isinstance(node, Soup))
    strategies = {node.strategy: None for node in averages}
    return Onward(
        routes=tuple(sorted(routes, key=len)),
        scored_at=tuple(name for name in study.sites if name in scored),
        together_at=tuple((name, len(study.variants) * len(together[name])) for name in study.sites if together[name]),
        averaged=tuple(strategies),
    )


def _most(site: str, variant: Study, survey: Survey, largest_elsewhere: int) -> _Tally:
    """Return the largest counts of work that a plain study may ask of a site."""
    census = dict.fromkeys(variant.sites, (largest_elsewhere,) * variant.split.folds) | {site: survey.train_slices}

    def own(choices: Choices, *methods: Method) -> set[FineTune | Evaluate]:
        """Return the site's stages, of the given methods or of all methods."""
        return set(_own(site, plan(variant, census, choices, budgets=MOST, methods=methods or None).nodes))

    def tally(nodes: Iterable[FineTune | Evaluate]) -> _Tally:
        found = _Tally()
        for node in nodes:
            if isinstance(node, FineTune):
                found.validated[node.fold] += 1
            if isinstance(node, FineTune) and not node.trains:
                found.other["estimates"] += 1
            elif isinstance(node, FineTune):
                steps = batches_per_epoch(census[site][node.fold], variant.training.batch)
                found.trainings[node.schedule.epochs] += 1
                found.other[node.stays] += node.stays != ""
                found.other["gradient_steps"] += node.schedule.epochs * steps
            elif node.split == "test":
                found.other["tests"] += 1
            else:
                found.other["validations"] += 1
                found.validated.update(validation_folds(node))
        return found

    total = tally(own({}))
    if search := search_of(variant):
        growing = tuple(method for method in asked_for(variant) if method.routed or method.of_selected_route)
        first = own({}, *growing)
        for target in variant.sites:
            most = _Tally()
            for selected in search.heaviest(variant, site, target):
                most |= tally(own({target: selected}, *growing) - first)
            total += most
    return total


def _own(site: str, nodes: Iterable[Node]) -> Iterator[FineTune | Evaluate]:
    """Yield a site's stages, without evaluations whose scores are known from choosing the best of several averages."""
    for node in nodes:
        if not isinstance(node, FineTune | Evaluate) or node.site != site:
            continue
        if isinstance(node, Evaluate) and isinstance(node.weights, Best):
            scored = (node.site, node.fold, node.split)
            ballots = [ballot for of_one in node.weights.ballots for ballot in of_one if isinstance(ballot, Evaluate)]
            if ballots and all((ballot.site, ballot.fold, ballot.split) == scored for ballot in ballots):
                continue
        yield node


def _is_exact(study: Study) -> bool:
    """Return whether the counts depend neither on other sites' sizes nor on which stages turn out to be the same."""
    methods, alone = study.methods, len(study.sites) == 1
    routes = methods.sequential.routes
    all_sites = longest_has_all(study)
    rounds_known = all(part.rounds or (all_sites and part.budget == ("steps",)) for part in methods.federated)
    laps_known = not methods.cyclic.laps or methods.cyclic.epochs > 0 or all_sites
    # A route within one fold may turn out to pass through the best of the folds.
    revisits = not isinstance(routes, str) and any(len(set(route)) < len(route) for route in routes)
    one_fold = study.split.source == "same-fold" or len(study.split.run) == 1
    return (
        not methods.sequential.grows
        and not methods.leave_out  # of several models that turn out to be the same, one is scored
        and not methods.parts  # a share of the patients has about that share of the slices
        and not methods.more  # the dependencies of further methods are not known here
        and rounds_known
        and laps_known
        and (alone or not methods.longer_baseline)
        and (one_fold or not (revisits or methods.cyclic.laps))
    )


def _of_description(folds: int, target: Target) -> int:
    each = (0,) * folds
    return numbers_in(
        Description(
            zoned_patients=0 if target.zones else None,
            study=ANY,
            site="A",
            patients_found=0,
            prepared=0,
            train_slices=each,
            train_patients=each,
            validation_patients=each,
            fingerprint=ANY,
        )
    )


def _of_training(epochs: int) -> int:
    each = (0.0,) * epochs
    return numbers_in(
        FineTuneReply(
            study=ANY,
            key=ANY,
            state="done",
            epoch=epochs,
            losses=each,
            learning_rates=each,
            dices=each,
            kept_epoch=min(epochs, 1),
        )
    )


def _of_scoring(patients: int, target: Target) -> int:
    each = (0.0,) * patients
    numbers = tuple(range(patients))
    return numbers_in(
        EvaluateReply.model_validate(
            {
                "study": ANY,
                "key": ANY,
                "state": "done",
                "case_numbers": numbers,
                "case_slices": numbers,
                "case_dices": each,
                "case_ious": each,
                "case_volume_dices": each,
                **unmeasured(target),
            }
        )
    )
