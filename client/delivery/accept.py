"""Acceptance of the weights that a study brought this site, with a model card, into the private folder received/.

A delivery is believed as little as an order. The site makes the plan itself, chooses by its own scores, and takes
weights only if they fit the declared network and have the expected digest. A folder is named after the digest of the
approved study and a file after its role, never after a text from a message.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from client.delivery import comparison
from client.delivery.model_card import (
    Card,
    HopScores,
    HospitalCounts,
    Member,
    Reference,
    load_card,
    network_named,
    weights_digest,
    weights_files,
)
from client.delivery.store import FOLDER, PATIENTS
from client.evaluation import score_store
from client.evaluation.ensemble import shown_fold
from client.evaluation.floor import is_below_floor
from client.evaluation.score_store import OwnScores
from client.evaluation.scoring import check_named
from client.governance import looks
from client.governance.rounding import as_it_leaves
from client.preprocessing import cache
from client.preprocessing.cohort import Cohort
from client.site_config import SiteConfig
from client.stages.order import file_completed, models_named
from client.stages.own_tensors import own_tensors
from client.stages.store import StageStore
from client.training.batches import standards
from common.config.study import Study
from common.digest import digest_of
from common.errors import RelayError
from common.files import write_atomically
from common.model.network import staying_names
from common.model.weights import UnfitWeights, Weights, load, serialize_chunks
from common.plan import Plan, PlannedRow, method_of
from common.plan.cost import all_behind
from common.plan.graph import (
    Best,
    Evaluate,
    FineTune,
    Node,
    SplitName,
    ensemble_in,
    keepers_of,
    lacks_batch_norm,
    travelled,
)
from common.plan.selection import may_be_left_out, offered, own, select
from common.plan.stage_key import ExecutionEnvironment, stage_key
from common.protocol.codec import BadMessage
from common.protocol.messages import Delivery, Receipt
from common.protocol.refusals import Refusal, Refused
from common.scores import DICE_VOLUME, Score, deciding


@dataclass(frozen=True)
class _Known:
    """The site's records on every row of the plan that may be delivered here, in the plan's order."""

    site: SiteConfig
    score: Score
    """The score by which the study selects."""
    rows: tuple[PlannedRow, ...]
    left_out: frozenset[int]
    """The places of rows that do not count, as the coordinator reports, since a site they need was away."""
    weights: tuple[str, ...]
    validation: tuple[OwnScores | None, ...]
    test: tuple[OwnScores | None, ...]

    @property
    def dices(self) -> list[float] | None:
        """Return all validation scores, -1 for rows that do not count; None where a score is not on record."""
        found = []
        for place, scores in enumerate(self.validation):
            if place in self.left_out:
                found.append(-1.0)
            elif scores is None:
                return None
            else:
                found.append(self._as_told(self.rows[place], scores))
        return found

    def _as_told(self, row: PlannedRow, scores: OwnScores) -> float:
        """Return the validation score of a row as it left the site: rounded, and 0 below the floor."""
        judged = row.validation.candidates[0] if isinstance(row.validation, Best) else row.validation
        trained = isinstance(judged, FineTune) and judged.trains
        if not trained and is_below_floor(self.site, scores.patients):
            return 0.0
        return as_it_leaves(self.site, scores.value(self.score))


def take(
    site: SiteConfig,
    study: Study,
    plan: Plan,
    cohort: Cohort,
    environment: ExecutionEnvironment,
    delivery: Delivery,
    weights: Weights | None,
) -> Receipt:
    """Store a delivery, or request its weights; the same delivery again changes nothing.

    Args:
        site: this site.
        study: the site's own copy of the plain study.
        plan: the site's own plan of the study.
        cohort: the site's patients.
        environment: the properties of this site that determine results besides the study.
        delivery: the message.
        weights: the weights sent with the message, or None.

    Returns:
        A receipt: the delivery is stored, or its weights are needed.

    Raises:
        Refused: the delivery is not about this study's rows, its weights have another digest or do not fit the
            network, or this site's own validation scores choose another row.
        BadMessage: the delivery's numbers do not match the study's sites or the route's hops, or its members the
            ensemble.
    """
    rows = offered(plan, site.name)
    if len(rows) != len(delivery.models) or (delivery.role == "own" and not method_of(rows[delivery.row].method).alone):
        raise Refused(Refusal.NOT_IN_STUDY)
    if not all(place < len(rows) and may_be_left_out(study, rows[place]) for place in delivery.left_out):
        raise Refused(Refusal.NOT_SELECTED)
    hops = len(delivery.forgetting) // max(len(study.sites), 1)
    if len(delivery.patients) != len(study.sites) or hops not in (0, len(rows[delivery.row].route)):
        raise BadMessage("numbers of other sites or hops than the study's")
    known = _known(site, study, rows, delivery, environment)
    checked = _check_choice(known, delivery)
    parcel = _parcel(site, study, rows[delivery.row].model, delivery)
    folder = site.private() / FOLDER / study.digest
    files = weights_files(folder / f"{delivery.role}.safetensors", len(parcel.models))
    for number, file in enumerate(files):
        came = weights if number == delivery.member else None
        if not _store(site, study, file, parcel, number, came):
            return Receipt(study=study.digest, state="needs-weights", member=number)
    card = _card(site, study, cohort, environment, delivery, known, parcel, files, checked=checked)
    cache.write_json(folder / f"{delivery.role}{PATIENTS}", _differences(known, delivery.row))
    if not _has(folder / f"{delivery.role}.json", card):
        cache.write_bytes(folder / f"{delivery.role}.json", card.model_dump_json(indent=1).encode())
    return Receipt(study=study.digest, state="done")


@dataclass(frozen=True)
class _Parcel:
    """The weights files of a delivery, and the site's own tensors that complete them."""

    models: tuple[str, ...]
    """The digests of the weights files that travel: several of an ensemble; of a model whose tensors are all the
    site's own, the digest of these."""
    own: Weights
    """The site's own tensors; none where the weights are complete."""
    lacking: frozenset[str]
    """The names of the tensors that the travelling file lacks."""


def _parcel(site: SiteConfig, study: Study, model: Node, delivery: Delivery) -> _Parcel:
    """Return the weights files of a delivery.

    Raises:
        BadMessage: the digests do not make up the digest of the row's weights.
        Refused: the site's own tensors are gone.
    """
    digest, lacking = delivery.models[delivery.row], frozenset[str]()
    if not (needed := tuple(keepers_of(model))):
        return _Parcel(models_named(model, digest, delivery.members), {}, lacking)
    models = (file_completed(delivery, digest),)
    if lacks_batch_norm(model):
        lacking = staying_names(study.model, "batch-norm")
    return _Parcel(models, own_tensors(site.private(), study.digest).get(needed, delivery.own), lacking)


def _known(
    site: SiteConfig, study: Study, rows: Sequence[PlannedRow], delivery: Delivery, environment: ExecutionEnvironment
) -> _Known:
    def scores(row: PlannedRow, weights: str, split: SplitName) -> OwnScores | None:
        node = Evaluate(site.name, row.fold, split, row.model)
        return score_store.kept(site, stage_key(node, study=study, weights=weights, environment=environment))

    pairs = list(zip(rows, delivery.models, strict=True))
    return _Known(
        site=site,
        score=deciding(study.training.slices),
        rows=tuple(rows),
        left_out=frozenset(delivery.left_out),
        weights=delivery.models,
        validation=tuple(scores(row, weights, "validation") for row, weights in pairs),
        test=tuple(scores(row, weights, "test") if row.test else None for row, weights in pairs),
    )


def _check_choice(known: _Known, delivery: Delivery) -> bool:
    """Return whether the site's own scores choose the same row; False where the site has no score on record.

    Raises:
        Refused: the scores choose another row, or some of the named weights were never scored here, though the study
            has every row scored at its target.
    """
    if not any(known.validation):
        return False
    dices = known.dices
    if dices is None:
        raise Refused(Refusal.NOT_SELECTED)
    place = (select if delivery.role == "selected" else own)(known.rows, dices)
    if place != delivery.row:
        raise Refused(Refusal.NOT_SELECTED)
    return True


def _store(site: SiteConfig, study: Study, file: Path, parcel: _Parcel, number: int, came: Weights | None) -> bool:
    """Store weights under a path, from a message or from this site's disk; return False where they are nowhere.

    Weights are completed with the site's own tensors, so that the file is the whole model.

    Raises:
        Refused: the weights of the message have another digest, or do not fit the network.
    """
    digest = parcel.models[number]
    weights = came if came is not None else _held(site, file, digest, parcel)
    if weights is None:
        return False
    check_named(study, weights, digest, lacking=parcel.lacking)
    whole = serialize_chunks({**weights, **parcel.own})
    if not file.exists() or weights_digest(file) != digest_of(whole):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(file, whole, durable=True, mode=0o600)
    return True


def _held(site: SiteConfig, file: Path, digest: str, parcel: _Parcel) -> Weights | None:
    """Return weights if already at the site, from an earlier delivery or from a stage of the site's own; else None."""
    try:
        earlier = load(file) if file.exists() else {}
    except UnfitWeights:
        earlier = {}
    shared = {name: tensor for name, tensor in earlier.items() if name not in parcel.lacking}
    for weights in (parcel.own, shared, StageStore(site.private() / "stages").weights(digest)):
        if weights is not None and digest_of(serialize_chunks(weights)) == digest:
            return weights
    return None


def _has(path: Path, card: Card) -> bool:
    """Return whether a file holds this card already, apart from the time of receipt."""
    try:
        earlier = load_card(path)
    except RelayError:
        return False
    return earlier.model_copy(update={"received": card.received}) == card


def _alone(known: _Known) -> Iterator[tuple[str, int]]:
    """Yield each method that trains at this site alone, with the row that validation chose among the method's folds."""
    for method in dict.fromkeys(row.method for row in known.rows if method_of(row.method).alone):
        places = [place for place, row in enumerate(known.rows) if row.method == method and place not in known.left_out]
        found = [known.validation[place] for place in places]
        dices = [as_it_leaves(known.site, scores.value(known.score)) for scores in found if scores is not None]
        if len(dices) == len(places) and (best := select([known.rows[place] for place in places], dices)) is not None:
            yield method, places[best]


def _references(site: SiteConfig, known: _Known, row: int) -> Iterator[Reference]:
    mine = known.test[row]
    for method, place in _alone(known):
        validation, test = known.validation[place], known.test[place]
        yield Reference(
            method=method,
            fold=known.rows[place].fold,
            weights=known.weights[place],
            validation_dice=100 * validation.value(known.score) if validation else None,
            scores=comparison.scores(test, minimum_patients=site.minimum_patients) if test else None,
            ahead=comparison.ahead(mine, test, known.score) if mine and test and place != row else None,
            volume_ahead=comparison.ahead(mine, test, DICE_VOLUME) if mine and test and place != row else None,
        )


def _differences(known: _Known, row: int) -> dict[str, list[float]]:
    """Return the lead in Dice of the delivered model over the site's own models, patient by patient.

    Returns:
        For each method that trains at this site alone, the patients' differences in points, the least first.
    """
    mine = known.test[row]
    found = {}
    for method, place in _alone(known):
        test = known.test[place]
        pairs = comparison.differences(mine, test, known.score) if mine and test and place != row else None
        if pairs:
            found[method] = sorted(value for value, _ in pairs)
    return found


def _chosen(known: _Known, row: PlannedRow, models: tuple[str, ...]) -> Node:
    """Return the node of a row's weights; of a choice among ensembles of routes, the ensemble whose weights came.

    Its members are the models of rows of their own, whose weights the delivery names.
    """
    named = {other.model: digest for other, digest in zip(known.rows, known.weights, strict=True)}
    for candidate in row.model.candidates if isinstance(row.model, Best) and ensemble_in(row.model) else ():
        if [named.get(member) for member in candidate.parents] == list(models):
            return candidate
    return row.model


def _card(
    site: SiteConfig,
    study: Study,
    cohort: Cohort,
    environment: ExecutionEnvironment,
    delivery: Delivery,
    known: _Known,
    parcel: _Parcel,
    files: Sequence[Path],
    *,
    checked: bool,
) -> Card:
    row = known.rows[delivery.row]
    ensemble = ensemble_in(row.model)
    folds = [shown_fold(member, site.name, row.fold) for member in ensemble.members] if ensemble else []
    # Each needs all training slices of its fold, so equal folds are read once.
    standard = {fold: standards(cohort.train(fold), study)[site.name] or (0.0, 1.0) for fold in {row.fold, *folds}}
    mean, std = standard[row.fold]
    members = [
        Member(weights=digest, mean=standard[fold][0], std=standard[fold][1])
        for fold, digest in zip(folds, parcel.models, strict=bool(folds))
    ]
    model = _chosen(known, row, parcel.models)
    trained = {node.site for node in all_behind([model]) if isinstance(node, FineTune)}
    validation, test = known.validation[delivery.row], known.test[delivery.row]
    counts = zip(study.sites, delivery.patients, delivery.test_patients, delivery.slices, strict=True)
    width = len(study.sites)
    looked = looks.looks(site)
    hops = [delivery.forgetting[k : k + width] for k in range(0, len(delivery.forgetting), width)]
    return Card.model_validate(
        {
            "relay": importlib.metadata.version("prostate-relay"),
            "received": datetime.now(UTC).isoformat(timespec="seconds"),
            "study": study.name,
            "study_digest": study.digest,
            "about": study.about,
            "licence": study.licence,
            "synthetic": study.synthetic,
            "site": site.name,
            "role": delivery.role,
            "method": row.method,
            "route": travelled(model) if method_of(row.method).of_selected_route else row.route,
            "fold": row.fold,
            "folds": len(study.split.run),
            "rotation": study.split.rotation,
            "rotations": study.split.rotations,
            "weights": weights_digest(files[0]) if parcel.own else delivery.models[delivery.row],
            "own_tensors": len(parcel.own),
            "members": tuple(members),
            "model": network_named(study.model),
            "preprocessing": study.preprocessing,
            "training": study.training,
            "equivalence_margin": study.equivalence_margin,
            "mean": mean,
            "std": std,
            "device": environment.device,
            "precision": environment.precision,
            "torch": environment.torch,
            "hospitals": tuple(
                HospitalCounts(
                    name=name, patients=patients, test_patients=held_out, slices=slices, trained=name in trained
                )
                for name, patients, held_out, slices in counts
            ),
            "cleaned": validation.cleaned if validation else test.cleaned if test else False,
            "validation_dice": 100 * validation.value(known.score) if validation else None,
            "checked": checked,
            "left_out": len(delivery.left_out),
            "stated": site.statement().sentences(),
            "scores": comparison.scores(test, minimum_patients=site.minimum_patients) if test else None,
            "test_looks": looked.models,
            "test_studies": looked.studies,
            "references": tuple(_references(site, known, delivery.row)),
            "forgetting": tuple(
                HopScores(site=hop, dice={name: 100 * dice for name, dice in zip(study.sites, dices, strict=True)})
                for hop, dices in zip(row.route, hops, strict=False)
            ),
        }
    )
