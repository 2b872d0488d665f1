"""The hospital's Flower ClientApp: describe, fine-tune, evaluate, take a delivery.

The same app runs on the embedded grid, in Flower's simulation and in a SuperNode; nothing in it knows
which. Its settings come from the site's own file, never from the coordinator: the environment variable
RELAY_SITE names it. A machine that plays several sites lists their files in RELAY_SITES, separated as in
PATH, and Flower's partition number picks one.
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from pydantic import TypeAdapter

from client import progress
from client.delivery.accept import take
from client.evaluation import score_store
from client.evaluation.evaluate import slice_mean
from client.evaluation.scoring import case_numbers, network_of, score, scores_of
from client.governance.approval import approved
from client.governance.commitments import bind_stage, check_limits, check_routes_extend, pin_census
from client.governance.egress import Handler, release, scrub
from client.governance.site_lock import shared_lock
from client.preprocessing.cohort import Cohort, gather
from client.preprocessing.pipeline import Prepared, Record, fingerprint, prepare, site_key
from client.site_config import SiteConfig, load_site
from client.stages.store import StageStore
from client.training.batches import selected_slices, statistics
from client.training.collapse import against_received
from client.training.device import choose_device
from client.training.fine_tune import Trained, fine_tune
from common.config.study import Study
from common.errors import RelayError
from common.model.weights import Weights, digest_of, serialize_chunks
from common.plan import Census, Choices, Plan, plan
from common.plan.graph import Evaluate, FineTune, Start
from common.plan.stage_key import ExecutionEnvironment, stage_key
from common.protocol.messages import (
    DELIVER,
    DESCRIBE,
    EVALUATE,
    FINE_TUNE,
    BadMessage,
    Count,
    Delivery,
    Describe,
    Description,
    EvaluateOrder,
    EvaluateReply,
    FineTuneOrder,
    FineTuneReply,
    FromSite,
    Order,
    Planned,
    Refusal,
    Refused,
    from_record,
)

CHECKPOINT_SECONDS = 60.0
"""A checkpoint at the end of the first epoch after so long, besides one at the end of every leg."""

_CENSUS = TypeAdapter(dict[str, tuple[Count, ...]])
_CHOICES = TypeAdapter(dict[str, tuple[str, ...]])

CASES = ("case_numbers", "case_slices", "case_dices", "case_ious")
"""What an answer says of single patients: kept at the site, and sent only where its file permits."""


def at_work(message: Message, context: Context, handle: Handler) -> Message:
    """Flower's mod around every handler: while it works, nobody empties the site's folder."""
    with shared_lock(site_of(context)):
        return handle(message, context)


app = ClientApp(mods=[scrub, at_work])
Stage = TypeVar("Stage", FineTune, Evaluate)


@app.query(DESCRIBE.partition(".")[2])
def describe(message: Message, context: Context) -> Message:
    """Prepare the site's patients, for a leg at most, and say how many there are."""
    site = site_of(context)
    order, _ = from_record(message.content, Describe)
    study = approved(site, order.study)
    cores = min(filter(None, (int(os.environ.get("RELAY_CORES", "0")), site.cores)), default=None)
    seconds = study.training.leg_minutes * 60
    prepared = prepare(site, study.preprocessing, seconds=seconds, progress=progress.notify, cores=cores)
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
    environment = _environment(site, study, prepared)
    description = Description.model_validate(
        {
            "study": study.digest,
            "site": site.name,
            "patients_found": prepared.total,
            "prepared": prepared.done,
            "left_out": prepared.left_out,
            "patients": len(cohort.records),
            "test_patients": len(cohort.test()),
            "slices": _selected(list(cohort.records.values())),
            "test_slices": _selected(cohort.test()),
            "train_slices": tuple(_selected(cohort.train(fold)) for fold in folds),
            "train_patients": tuple(len(cohort.train(fold)) for fold in folds),
            "validation_patients": tuple(len(cohort.validation(fold)) for fold in folds),
            **asdict(environment),
        }
    )
    return _answer(message, description, None, site=site, study=study)


@app.train(FINE_TUNE.partition(".")[2])
def fine_tune_stage(message: Message, context: Context) -> Message:
    """Go on with a fine-tuning stage for a leg, from this site's own checkpoint where there is one."""
    site = site_of(context)
    order, weights = from_record(message.content, FineTuneOrder)
    study, node, cohort, environment = _ordered(site, order, FineTune)
    store = StageStore(site.private() / "stages")
    store.forget(tuple(key for key in order.acknowledged if key != order.key))
    if order.anew:
        store.begin_anew(order.key, order.anew)
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
    reply, finished = _train(site, study, node, cohort, environment, order, start, resume, store)
    return _answer(message, reply, finished, site=site, study=study)


@app.evaluate(EVALUATE.partition(".")[2])
def evaluate_stage(message: Message, context: Context) -> Message:
    """Score weights on this site's validation or test patients."""
    site = site_of(context)
    order, weights = from_record(message.content, EvaluateOrder)
    study, node, cohort, _ = _ordered(site, order, Evaluate)
    store = StageStore(site.private() / "stages")
    reply = store.reply(order.key, EvaluateReply)
    if reply is None:
        weights = weights or _sound(store.weights(order.weights), order)
        if weights is None:
            reply = EvaluateReply(study=study.digest, key=order.key, state="needs-weights")
            return _answer(message, reply, None, site=site, study=study)
        reply = score(site, study, node, cohort, order, weights)
        store.finish(reply)
    store.forget(tuple(key for key in order.acknowledged if key != order.key))
    if not site.patient_scores:
        reply = reply.model_copy(update=dict.fromkeys(CASES, ()))
    return _answer(message, reply, None, site=site, study=study)


@app.query(DELIVER.partition(".")[2])
def take_delivery(message: Message, context: Context) -> Message:
    """Keep weights that this site may use from now on, with a card that says what they are."""
    site = site_of(context)
    delivery, weights = from_record(message.content, Delivery)
    study, census, choices, found = _planned(site, delivery)
    cohort, environment = _gathered(site, study, delivery, census)
    pin_census(site, study, census)
    check_routes_extend(site, study, choices)
    receipt = take(site, study, found, cohort, environment, delivery, weights)
    return _answer(message, receipt, None, site=site, study=study)


def site_of(context: Context) -> SiteConfig:
    """The settings of the site that this process works for.

    Raises:
        RelayError: the environment names no site file.
    """
    log = Path(os.environ.get("RELAY_SITE_LOG", ""))
    if log.name and log.parent.is_dir():
        _log_to(log)  # before the file is read: what is wrong in it is told there
    if path := os.environ.get("RELAY_SITE"):
        site = load_site(Path(path))
    elif paths := os.environ.get("RELAY_SITES"):
        site = load_site(Path(paths.split(os.pathsep)[int(context.node_config["partition-id"])]))
    else:
        raise RelayError("The environment names no site file; set RELAY_SITE to the path of site.toml.")
    _log_to(site.private() / "site.log")
    return site


def _log_to(path: Path) -> None:
    """The site's own log: the one place where errors are told in full; standard error until it is open."""
    logger = logging.getLogger("relay.site")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = False
    logging.raiseExceptions = False  # a log on a full disk shall not fill another one with tracebacks
    path.touch(mode=0o600)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)


def _answer(message: Message, answer: FromSite, weights: Weights | None, *, site: SiteConfig, study: Study) -> Message:
    # Once more: since the order came the site may have left the study, and then nothing more of it leaves.
    approved(site, study.digest)
    return Message(release(answer, weights, site=site, model=study.model), reply_to=message)


def _ordered(site: SiteConfig, order: Order, kind: type[Stage]) -> tuple[Study, Stage, Cohort, ExecutionEnvironment]:
    """What an order asks for, rebuilt from the approved study; nothing of the order itself is believed.

    Raises:
        Refused: an unknown study, a stage that is not this site's in it, other data than were described.
    """
    study, census, choices, found = _planned(site, order)
    node = found.by_id.get(order.node)
    if not isinstance(node, kind) or node.site != site.name:
        raise Refused(Refusal.NOT_IN_STUDY)
    cohort, environment = _gathered(site, study, order, census)
    if order.key != stage_key(node, study=study, weights=order.weights, environment=environment):
        raise BadMessage("the key is not the stage's")
    pin_census(site, study, census)
    check_routes_extend(site, study, choices)
    bind_stage(site, study, node, order.key)
    return study, node, cohort, environment


def _planned(site: SiteConfig, message: Planned) -> tuple[Study, Census, Choices, Plan]:
    """The plan that a message is about, made from the approved study. Raises Refused."""
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
        return study, census, choices, plan(study, census, choices, at=site.name)
    except RelayError:  # what else is raised is this program's own fault, and told as that
        raise Refused(Refusal.NOT_IN_STUDY) from None


def _gathered(site: SiteConfig, study: Study, message: Planned, census: Census) -> tuple[Cohort, ExecutionEnvironment]:
    """The site's patients. Raises Refused where they are not those that the coordinator planned with."""
    prepared = prepare(site, study.preprocessing)
    cohort = gather(prepared.records, site, study.split)
    environment = _environment(site, study, prepared)
    own = tuple(_selected(cohort.train(fold)) for fold in range(study.split.folds))
    if environment.fingerprint != message.fingerprint or census.get(site.name) != own:
        raise Refused(Refusal.DATA_CHANGED)
    return cohort, environment


def _environment(site: SiteConfig, study: Study, prepared: Prepared) -> ExecutionEnvironment:
    device = choose_device(site.device, study.training.precision)
    return ExecutionEnvironment(
        fingerprint=fingerprint(prepared.records, site_key(site)),
        torch=torch.__version__,
        device=device.kind,
        precision=device.precision,
    )


def _sound(weights: Weights | None, named: Order | FineTuneReply) -> Weights | None:
    """Weights that the site kept, if they are still those named: damaged ones are as good as none."""
    return weights if weights is not None and digest_of(serialize_chunks(weights)) == named.weights else None


def _selected(records: list[Record]) -> int:
    return sum(record.selected for record in records)


def _train(
    site: SiteConfig,
    study: Study,
    node: FineTune,
    cohort: Cohort,
    environment: ExecutionEnvironment,
    order: FineTuneOrder,
    start: Weights,
    resume: Trained | None,
    store: StageStore,
) -> tuple[FineTuneReply, Weights | None]:
    """One leg; the weights come with the last."""
    began = checkpointed = time.monotonic()
    device = choose_device(site.device, study.training.precision)
    train, validation = cohort.train(node.fold), cohort.validation(node.fold)
    mean_std = statistics(train)
    network = network_of(study, start, order.weights)
    slices = selected_slices(train, mean_std), selected_slices(validation, mean_std)
    trained, key = resume, order.key
    legs_end = began + study.training.leg_minutes * 60
    if trained is None or trained.epoch < node.schedule.epochs:
        for trained in fine_tune(
            network,
            *slices,
            training=study.training,
            schedule=node.schedule,
            seed_names=(study.seed, site.name, node.fold),
            device=device,
            proximal_mu=node.proximal_mu,
            resume=resume,
        ):
            approved(site, study.digest)  # a site that has left trains no further epoch
            progress.notify(trained.epoch, node.schedule.epochs, trained.dices[-1])
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
    scores = scores_of(network, validation, mean_std, device)
    dice, iou = slice_mean(scores)
    digest = store.save_weights(key, trained.kept)
    figures: dict[str, float | str] = {"weights": digest, "validation_dice": dice, "validation_iou": iou}
    if trained.dices[trained.kept_epoch - 1] < study.collapse and not isinstance(node.parent, Start):
        received = network_of(study, start, order.weights)
        figures |= against_received(network, received, *slices, training=study.training, device=device)
    reply = _reply(study, key, trained, "done", train, validation).model_copy(update=figures)
    # The very scores that an evaluation of these weights would give: they are kept as those.
    scored = Evaluate(node.site, node.fold, "validation", node)
    score_store.keep(
        site,
        stage_key(scored, study=study, weights=digest, environment=environment),
        scores,
        case_numbers(site, cohort),
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
            "train_slices": _selected(train),
            "train_patients": len(train),
            "validation_patients": len(validation),
        }
    )
