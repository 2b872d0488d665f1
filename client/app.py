"""The hospital's Flower ClientApp: its handlers for describing data, fine-tuning, evaluating and accepting a delivery.

The same app runs on the embedded grid, in Flower's simulation and in a SuperNode, and does not depend on which of them
runs the app. The app takes its settings from the site's own file, never from the coordinator. The environment variable
RELAY_SITE names the site's file. A machine with several sites lists their files in RELAY_SITES, separated as in PATH,
and Flower's partition number selects the file.
"""

from __future__ import annotations

import os
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from client.delivery.accept import take
from client.governance.approval import approved
from client.governance.commitments import bind_description
from client.governance.egress import Handler, release, scrub
from client.governance.released_sets import PatientSets
from client.governance.site_lock import shared_lock
from client.site_config import SiteConfig, load_site
from client.site_log import open_site_log
from client.stages.describe import describe_patients
from client.stages.evaluate import answer_evaluate, sets_behind_scoring
from client.stages.fine_tune import answer_fine_tune, sets_behind_training
from client.stages.order import verify_delivery, verify_order
from client.stages.store import StageStore
from common.config.study import Study
from common.errors import RelayError
from common.model.weights import Weights
from common.plan.graph import Evaluate, FineTune, Stays
from common.protocol.codec import from_record
from common.protocol.messages import (
    DELIVER,
    DESCRIBE,
    EVALUATE,
    FINE_TUNE,
    Delivery,
    Describe,
    EvaluateOrder,
    FineTuneOrder,
    FromSite,
)


def at_work(message: Message, context: Context, handle: Handler) -> Message:
    """Hold the site's shared lock while a handler runs, so that nobody empties the site's folder (a Flower mod)."""
    with shared_lock(site_of(context)):
        return handle(message, context)


app = ClientApp(mods=[scrub, at_work])


@app.query(DESCRIBE.partition(".")[2])
def describe(message: Message, context: Context) -> Message:
    """Prepare the site's patients, for one leg at most, and reply with their numbers."""
    site = site_of(context)
    order, _ = from_record(message.content, Describe)
    study = approved(site, order.study)
    description, behind = describe_patients(site, study)
    if description.complete:
        bind_description(site, study, description.fingerprint)
    return _answer(message, description, None, site=site, study=study, behind=behind)


@app.train(FINE_TUNE.partition(".")[2])
def fine_tune_stage(message: Message, context: Context) -> Message:
    """Continue a fine-tuning stage for one leg, from the site's own checkpoint if present."""
    site = site_of(context)
    order = verify_order(site, *from_record(message.content, FineTuneOrder), FineTune)
    reply, weights = answer_fine_tune(order, _store(site))
    # A site that still lacks the weights tells no number.
    behind = None if reply.state == "needs-weights" else sets_behind_training(order)
    return _answer(message, reply, weights, site=site, study=order.study, stays=order.node.stays, behind=behind)


@app.evaluate(EVALUATE.partition(".")[2])
def evaluate_stage(message: Message, context: Context) -> Message:
    """Score weights on this site's validation or test patients."""
    site = site_of(context)
    order = verify_order(site, *from_record(message.content, EvaluateOrder), Evaluate)
    reply = answer_evaluate(order, _store(site))
    return _answer(message, reply, None, site=site, study=order.study, behind=sets_behind_scoring(order))


@app.query(DELIVER.partition(".")[2])
def take_delivery(message: Message, context: Context) -> Message:
    """Store weights for use at this site from now on, with their model card."""
    site = site_of(context)
    delivery, weights = from_record(message.content, Delivery)
    found = verify_delivery(site, delivery)
    receipt = take(site, found.study, found.plan, found.cohort, found.environment, delivery, weights)
    return _answer(message, receipt, None, site=site, study=found.study)


def site_of(context: Context) -> SiteConfig:
    """Return the settings of this process's site, and open the site's log.

    Raises:
        RelayError: the environment names no site file.
    """
    log = Path(os.environ.get("RELAY_SITE_LOG", ""))
    if log.name and log.parent.is_dir():
        open_site_log(log)  # opened before the site file is read, so that errors in the site file are logged
    if path := os.environ.get("RELAY_SITE"):
        site = load_site(Path(path))
    elif paths := os.environ.get("RELAY_SITES"):
        site = load_site(Path(paths.split(os.pathsep)[int(context.node_config["partition-id"])]))
    else:
        raise RelayError("The environment names no site file; set RELAY_SITE to the path of site.toml.")
    open_site_log(site.private() / "site.log")
    return site


def _store(site: SiteConfig) -> StageStore:
    return StageStore(site.private() / "stages")


def _answer(
    message: Message,
    answer: FromSite,
    weights: Weights | None,
    *,
    site: SiteConfig,
    study: Study,
    stays: Stays = "",
    behind: PatientSets | None = None,
) -> Message:
    # The approval is checked again: if the site has left the study since the order arrived, nothing may leave.
    approved(site, study.digest)
    record = release(answer, weights, site=site, model=study.model, stays=stays, behind=behind)
    return Message(record, reply_to=message)
