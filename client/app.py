"""The hospital's Flower ClientApp: describe, fine-tune, evaluate.

The same app runs on the embedded grid, in Flower's simulation and in a SuperNode; nothing in it knows
which. Its settings come from the site's own file, never from the coordinator: the environment variable
RELAY_SITE names it. A machine that plays several sites lists their files in RELAY_SITES, separated as in
PATH, and Flower's partition number picks one.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from numpy.typing import NDArray
from torch import nn

from client.approval import answer_once, approved, hold_to
from client.batches import chosen_slices, statistics
from client.cohort import Cohort, gather
from client.egress import release, scrub
from client.evaluation import CaseScore, Example, evaluate, slice_mean
from client.local_page import add_to_page
from client.preprocess import Prepared, Record, fingerprint, prepare, site_key
from client.site import SiteConfig, load_site
from client.stages import StageStore
from client.training import Machine, Trained, choose_machine, fine_tune, place, probabilities
from common.errors import RelayError
from common.graph import Evaluate, FineTune, way_of
from common.keys import Workplace, stage_key
from common.messages import (
    DESCRIBE,
    EVALUATE,
    FINE_TUNE,
    BadMessage,
    Describe,
    Description,
    EvaluateOrder,
    EvaluateReply,
    FineTuneOrder,
    FineTuneReply,
    FromSite,
    Order,
    Refusal,
    Refused,
    from_record,
)
from common.model import build_undrawn
from common.plan import plan
from common.seeds import seed_of
from common.study import Study
from common.weights import UnfitWeights, Weights, check_fit, digest_of, pieces

CHECKPOINT_SECONDS = 60.0
"""A checkpoint at the end of the first epoch after so long, besides one at the end of every leg."""

CASES = ("case_numbers", "case_slices", "case_dices", "case_ious")
"""What an answer says of single patients: kept at the site, and sent only where its file permits."""

app = ClientApp(mods=[scrub])
Stage = TypeVar("Stage", FineTune, Evaluate)


@app.query(DESCRIBE.partition(".")[2])
def describe(message: Message, context: Context) -> Message:
    """Prepare the site's patients, for a leg at most, and say how many there are."""
    site = site_of(context)
    order, _ = from_record(message.content, Describe)
    study = approved(site, order.study)
    cores = min(filter(None, (int(os.environ.get("RELAY_CORES", "0")), site.cores)), default=None)
    prepared = prepare(site, study.preprocessing, seconds=study.training.leg_minutes * 60, cores=cores)
    if prepared.done < prepared.total:
        return _answer(
            message,
            Description(study=study.digest, site=site.name, patients_found=prepared.total, prepared=prepared.done),
            None,
            site=site,
            study=study,
        )
    cohort = gather(prepared.records, site, study.split)
    folds = range(study.split.folds)
    workplace = _workplace(site, study, prepared)
    description = Description.model_validate(
        {
            "study": study.digest,
            "site": site.name,
            "patients_found": prepared.total,
            "prepared": prepared.done,
            "left_out": prepared.left_out,
            "patients": len(cohort.records),
            "test_patients": len(cohort.test()),
            "slices": _chosen(list(cohort.records.values())),
            "test_slices": _chosen(cohort.test()),
            "train_slices": tuple(_chosen(cohort.train(fold)) for fold in folds),
            "train_patients": tuple(len(cohort.train(fold)) for fold in folds),
            "validation_patients": tuple(len(cohort.validation(fold)) for fold in folds),
            **asdict(workplace),
        }
    )
    return _answer(message, description, None, site=site, study=study)


@app.train(FINE_TUNE.partition(".")[2])
def fine_tune_stage(message: Message, context: Context) -> Message:
    """Go on with a fine-tuning stage for a leg, from this site's own checkpoint where there is one."""
    site = site_of(context)
    order, weights = from_record(message.content, FineTuneOrder)
    study, node, cohort = _ordered(site, order, FineTune)
    store = StageStore(site.private() / "stages")
    store.forget(tuple(key for key in order.acknowledged if key != order.key))
    if order.anew:
        store.forget((order.key,))
    reply = store.reply(order.key, FineTuneReply)
    if reply is not None:
        finished = _sound(store.weights(reply.weights), reply)
        if finished is not None:
            return _answer(message, reply, finished, site=site, study=study)
    resume = store.checkpoint(order.key)
    start = weights or _sound(store.start(order.key), order) or _sound(store.weights(order.weights), order)
    if start is None:
        needs = FineTuneReply(study=study.digest, key=order.key, state="needs-weights")
        return _answer(message, needs, None, site=site, study=study)
    reply, finished = _train(site, study, node, cohort, order, start, resume, store)
    return _answer(message, reply, finished, site=site, study=study)


@app.evaluate(EVALUATE.partition(".")[2])
def evaluate_stage(message: Message, context: Context) -> Message:
    """Score weights on this site's validation or test patients."""
    site = site_of(context)
    order, weights = from_record(message.content, EvaluateOrder)
    study, node, cohort = _ordered(site, order, Evaluate)
    store = StageStore(site.private() / "stages")
    reply = store.reply(order.key, EvaluateReply)
    if reply is None:
        weights = weights or _sound(store.weights(order.weights), order)
        if weights is None:
            reply = EvaluateReply(study=study.digest, key=order.key, state="needs-weights")
            return _answer(message, reply, None, site=site, study=study)
        reply = _score(site, study, node, cohort, order, weights)
        store.finish(reply)
    store.forget(tuple(key for key in order.acknowledged if key != order.key))
    if not site.patient_scores:
        reply = reply.model_copy(update=dict.fromkeys(CASES, ()))
    return _answer(message, reply, None, site=site, study=study)


def site_of(context: Context) -> SiteConfig:
    """The settings of the site that this process works for.

    Raises:
        RelayError: the environment names no site file.
    """
    if path := os.environ.get("RELAY_SITE"):
        site = load_site(Path(path))
    elif paths := os.environ.get("RELAY_SITES"):
        site = load_site(Path(paths.split(os.pathsep)[int(context.node_config["partition-id"])]))
    else:
        raise RelayError("The environment names no site file; set RELAY_SITE to the path of site.toml.")
    _log_to(site.private() / "site.log")
    return site


def _log_to(path: Path) -> None:
    """The site's own log: the one place where errors are told in full."""
    logger = logging.getLogger("relay.site")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    handler = logging.FileHandler(path, delay=True, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    path.touch(mode=0o600)


def _answer(message: Message, answer: FromSite, weights: Weights | None, *, site: SiteConfig, study: Study) -> Message:
    return Message(release(answer, weights, site=site, model=study.model), reply_to=message)


def _ordered(site: SiteConfig, order: Order, kind: type[Stage]) -> tuple[Study, Stage, Cohort]:
    """What an order asks for, rebuilt from the approved study; nothing of the order itself is believed.

    Raises:
        Refused: an unknown study, a stage that is not this site's in it, other data than were described.
    """
    study = approved(site, order.study)
    torch.set_num_threads(study.training.threads)
    try:
        census = {name: tuple(int(n) for n in counts) for name, counts in json.loads(order.census).items()}
        choices = {target: tuple(map(str, chosen)) for target, chosen in json.loads(order.choices).items()}
        node = plan(study, census, choices).by_id.get(order.node)
    except (RelayError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError):
        raise Refused(Refusal.NOT_IN_STUDY) from None
    if not isinstance(node, kind) or node.site != site.name:
        raise Refused(Refusal.NOT_IN_STUDY)
    prepared = prepare(site, study.preprocessing)
    cohort = gather(prepared.records, site, study.split)
    workplace = _workplace(site, study, prepared)
    own = tuple(_chosen(cohort.train(fold)) for fold in range(study.split.folds))
    if workplace.fingerprint != order.fingerprint or census.get(site.name) != own:
        raise Refused(Refusal.DATA_CHANGED)
    if order.key != stage_key(node, study=study, weights=order.weights, workplace=workplace):
        raise BadMessage("the key is not the stage's")
    hold_to(site, study, choices)
    answer_once(site, study, node, order.key)
    return study, node, cohort


def _workplace(site: SiteConfig, study: Study, prepared: Prepared) -> Workplace:
    machine = choose_machine(site.device, study.training.precision)
    return Workplace(
        fingerprint=fingerprint(prepared.records, site_key(site)),
        torch=torch.__version__,
        device=machine.device,
        precision=machine.precision,
    )


def _sound(weights: Weights | None, named: Order | FineTuneReply) -> Weights | None:
    """Weights that the site kept, if they are still those named: damaged ones are as good as none."""
    return weights if weights is not None and digest_of(pieces(weights)) == named.weights else None


def _chosen(records: list[Record]) -> int:
    return sum(record.chosen for record in records)


def _train(
    site: SiteConfig,
    study: Study,
    node: FineTune,
    cohort: Cohort,
    order: FineTuneOrder,
    start: Weights,
    resume: Trained | None,
    store: StageStore,
) -> tuple[FineTuneReply, Weights | None]:
    """One leg; the weights come with the last."""
    began = checkpointed = time.monotonic()
    machine = choose_machine(site.device, study.training.precision)
    train, validation = cohort.train(node.fold), cohort.validation(node.fold)
    mean_std = statistics(train)
    network = _network(study, start, order.weights)
    trained, key = resume, order.key
    legs_end = began + study.training.leg_minutes * 60
    if trained is None or trained.epoch < node.schedule.epochs:
        for trained in fine_tune(
            network,
            chosen_slices(train, mean_std),
            chosen_slices(validation, mean_std),
            training=study.training,
            schedule=node.schedule,
            seed_names=(study.seed, site.name, node.fold),
            machine=machine,
            proximal_mu=node.proximal_mu,
            resume=resume,
        ):
            now = time.monotonic()
            if trained.epoch == node.schedule.epochs:
                break
            if now >= legs_end:
                if not store.has_start(key):
                    store.save_start(key, start)
                store.save_checkpoint(key, trained)
                return _reply(study, key, trained, "running", train, validation), None
            if now - checkpointed >= CHECKPOINT_SECONDS:
                store.save_checkpoint(key, trained)
                checkpointed = now
    assert trained is not None
    network.load_state_dict(trained.kept)
    scores = _scores(network, validation, mean_std, machine)
    dice, iou = slice_mean(scores)
    reply = _reply(study, key, trained, "done", train, validation).model_copy(
        update={
            "weights": store.save_weights(key, trained.kept),
            "validation_dice": dice,
            "validation_iou": iou,
        }
    )
    store.finish(reply)
    return reply, trained.kept


def _reply(
    study: Study, key: str, trained: Trained, state: str, train: list[Record], validation: list[Record]
) -> FineTuneReply:
    return FineTuneReply.model_validate(
        {
            "study": study.digest,
            "key": key,
            "state": state,
            "epoch": trained.epoch,
            "losses": trained.losses,
            "learning_rates": trained.learning_rates,
            "dices": trained.dices,
            "kept_epoch": trained.kept_epoch,
            "gradient_steps": trained.gradient_steps,
            "train_slices": _chosen(train),
            "train_patients": len(train),
            "validation_patients": len(validation),
        }
    )


def _score(
    site: SiteConfig, study: Study, node: Evaluate, cohort: Cohort, order: EvaluateOrder, weights: Weights
) -> EvaluateReply:
    """Scores on the patients of a split; the site's own page keeps the worst and best slices of a test."""
    machine = choose_machine(site.device, study.training.precision)
    network = _network(study, weights, order.weights)
    place(network, machine)
    examples: list[Example] = []
    records = cohort.test() if node.split == "test" else cohort.validation(node.fold)
    mean_std = statistics(cohort.train(node.fold))
    scores = _scores(network, records, mean_std, machine, examples, surfaces=node.split == "test")
    dice, iou = slice_mean(scores)
    numbers = _case_numbers(site, cohort)
    ordered = sorted(scores, key=lambda score: numbers[score.patient])
    if node.split == "test":
        add_to_page(site, title=f"{way_of(node.weights)}, fold {node.fold + 1}", stage=node.id, examples=examples)
    volume = float(np.mean([score.volume_dice for score in scores]))
    # Fewer than may stand behind a number: the numbers stay, the rest of the answer may go.
    distances = [score.surface_mm for score in scores if score.surface_mm is not None]
    if len(distances) < site.minimum_patients:
        distances = []
    hd95, assd = (float(value) for value in np.mean(distances, axis=0)) if distances else (0.0, 0.0)
    return EvaluateReply.model_validate(
        {
            "study": study.digest,
            "key": order.key,
            "state": "done",
            "dice": dice,
            "iou": iou,
            "dice_volume": volume,
            "patients": len(scores),
            "slices": sum(score.slices for score in scores),
            "hd95_mm": hd95,
            "assd_mm": assd,
            "surface_patients": len(distances),
            "case_numbers": tuple(numbers[score.patient] for score in ordered),
            "case_slices": tuple(score.slices for score in ordered),
            "case_dices": tuple(score.dice for score in ordered),
            "case_ious": tuple(score.iou for score in ordered),
        }
    )


def _scores(
    network: nn.Module,
    records: list[Record],
    mean_std: dict[str, tuple[float, float]],
    machine: Machine,
    examples: list[Example] | None = None,
    *,
    surfaces: bool = False,
) -> list[CaseScore]:
    def predict(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return probabilities(network, torch.from_numpy(images).unsqueeze(1), machine).squeeze(1).numpy()

    return evaluate(
        predict,
        records,
        lambda record: mean_std[record.site],
        surfaces=surfaces,
        keep=None if examples is None else examples.append,
    )


def _network(study: Study, weights: Weights, digest: str) -> nn.Module:
    """The declared network with weights that an order names.

    Raises:
        Refused: they are not the declared network's, or not those of that digest.
    """
    network = build_undrawn(study.model)
    try:
        check_fit(weights, study.model)
    except UnfitWeights:
        raise Refused(Refusal.BAD_WEIGHTS) from None
    if digest_of(pieces(weights)) != digest:
        raise Refused(Refusal.BAD_WEIGHTS)
    network.load_state_dict(weights)
    return network


def _case_numbers(site: SiteConfig, cohort: Cohort) -> dict[str, int]:
    """Random numbers in the patients' place: the same for every model, and meaningless elsewhere."""
    key = int.from_bytes(site_key(site), "big")
    ranks: dict[str, int] = {name: seed_of(key, name) for name in cohort.records}
    return {name: number for number, name in enumerate(sorted(ranks, key=ranks.__getitem__), start=1)}
