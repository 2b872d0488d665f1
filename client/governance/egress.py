"""The egress filter, which decides what may leave a hospital, and the log of the released replies.

Every reply passes `release`, which releases the declared messages alone, weights that fit the declared network exactly,
numbers with enough patients behind them, and the code of a refusal. Every line of the log (`audit_log`) names the
digest of the line before, so that a changed or missing line shows.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from flwr.app import Context, Message, RecordDict

from client.governance import audit_log, released_sets
from client.governance.released_sets import PatientSets
from client.governance.rounding import rounded
from client.governance.simulation_mode import in_simulation_mode
from client.site_config import SiteConfig
from common.config.model import ModelConfig
from common.digest import digest_of
from common.errors import Damaged, DiskFull, RelayError
from common.model.network import part_names, staying_names
from common.model.weights import UnfitWeights, Weights, check_fit, size_in_bytes
from common.plan.graph import Stays
from common.protocol.codec import BadMessage, to_record
from common.protocol.messages import Description, EvaluateReply, FineTuneReply, FromSite, Receipt, WireMessage
from common.protocol.refusals import Refusal, Refused, refusal_error
from common.scores import COUNTED

Handler = Callable[[Message, Context], Message]
LOG = "egress.jsonl"

log = logging.getLogger("relay.site")


def release(
    answer: FromSite,
    weights: Weights | None,
    *,
    site: SiteConfig,
    model: ModelConfig,
    stays: Stays = "",
    behind: PatientSets | None = None,
) -> RecordDict:
    """Check a reply against the site's limits, log the reply, and return the record to send.

    Figures leave rounded, where the site's file asks for several patients behind a number.

    Args:
        answer: the reply.
        weights: the weights of the reply, or None.
        site: the site's settings, which set the limits.
        model: the study's network, which the weights must fit.
        stays: which tensors of the stage's result stay at the site, by the site's own plan; weights that hold one of
            them are blocked.
        behind: the sets of patients behind the numbers of the reply; None for a reply without numbers of patients.

    Raises:
        Refused: the reply may not leave; no part of the reply leaves.
    """
    if type(answer) not in (Description, FineTuneReply, EvaluateReply, Receipt):
        log.error("Blocked at the door: a %s, which is no declared answer.", type(answer).__name__)
        raise Refused(Refusal.BLOCKED)
    try:
        # pydantic does not validate a copy made with changes (`model_copy`); here every reply is validated.
        answer = type(answer).model_validate_json(answer.model_dump_json(warnings=False))
    except ValueError:
        log.error("Blocked at the door: an answer that is not as it is declared.")
        raise Refused(Refusal.BLOCKED) from None
    if weights is not None:
        if not isinstance(answer, FineTuneReply) or answer.state != "done":
            log.error("Blocked at the door: weights with an answer that has none.")
            raise Refused(Refusal.BLOCKED)
        try:
            check_fit(weights, model, without=staying_names(model, stays))
        except UnfitWeights as error:
            log.error("Blocked at the door: %s.", error)
            raise Refused(Refusal.BLOCKED) from None
    _check_staying(answer, weights, stays, parts=bool(part_names(model)))
    for patients in _patients_behind(answer):
        if patients < site.minimum_patients:
            log.error("Blocked at the door: %d patients stand behind a number.", patients)
            raise Refused(Refusal.TOO_FEW_PATIENTS)
    if isinstance(answer, FineTuneReply | EvaluateReply) and answer.case_numbers and not site.patient_scores:
        log.error("Blocked at the door: scores of single patients, which the site's file does not permit.")
        raise Refused(Refusal.BLOCKED)
    if behind is not None:
        released_sets.admit(site, behind, study=answer.study)
    answer = rounded(answer, site)
    record = to_record(answer, weights)
    _note(answer, weights, site.private() / LOG)
    return record


def _check_staying(answer: FromSite, weights: Weights | None, stays: Stays, *, parts: bool) -> None:
    """Block a finished training that does not say what stayed, or says so though all tensors leave.

    Raises:
        Refused: the reply's digest of its own tensors does not match the stage, or weights leave of which all stay.
    """
    finished = isinstance(answer, FineTuneReply) and answer.state == "done"
    named = bool(answer.own) if isinstance(answer, FineTuneReply) else False
    kept = (answer.parts != "", answer.epoch > 0) if isinstance(answer, FineTuneReply) else (False, False)
    if (
        named != (finished and stays != "")
        or kept[0] != (finished and parts and kept[1])
        or (weights is not None and stays == "everything")
    ):
        log.error("Blocked at the door: an answer that does not agree with the tensors that stay here.")
        raise Refused(Refusal.BLOCKED)


def _patients_behind(answer: FromSite) -> tuple[int, ...]:
    """Return the numbers of patients behind the numbers of a reply."""
    if isinstance(answer, Description):
        if not answer.complete:  # the number of prepared patients is progress, not a number about patients
            return (answer.patients_found,)
        return (answer.test_patients, *answer.train_patients, *answer.validation_patients)
    if isinstance(answer, Receipt) or answer.state == "needs-weights":
        return ()
    if isinstance(answer, FineTuneReply):
        return (answer.train_patients, answer.validation_patients)
    return (answer.patients, *(patients for name in COUNTED if (patients := getattr(answer, name))))


def numbers_in(message: WireMessage) -> int:
    """Return the number of numbers in a message, including numbers without information (0)."""
    return sum(map(_numbers, message.model_dump(mode="json").values()))


def _numbers(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(_numbers, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def _note(answer: FromSite, weights: Weights | None, path: Path) -> None:
    """Append a reply to the egress log; the line is on the disk before the reply is sent."""
    body = answer.model_dump_json()
    audit_log.append(
        path,
        {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "study": answer.study,
            "kind": type(answer).__name__,
            "state": getattr(answer, "state", ""),
            "stage": getattr(answer, "key", ""),
            "bytes": len(body) + (size_in_bytes(weights) if weights else 0),
            "numbers": numbers_in(answer),
            "tensors": len(weights) if weights else 0,
            "digest": digest_of(body.encode()),
            "weights": getattr(answer, "weights", "") if weights else "",
            **({"simulation": True} if in_simulation_mode() else {}),
        },
    )


def scrub(message: Message, context: Context, handle: Handler) -> Message:
    """Return a code and a fixed text in the place of any exception, and log the exception at the site (a Flower mod).

    Flower itself would send an exception's text to the coordinator, including paths and patients' names.
    """
    try:
        return handle(message, context)
    except Exception as error:
        code, sentence = _refusal_of(error)
        known = isinstance(error, Refused | BadMessage)
        with suppress(Exception):  # an error of a log that cannot be written names the log's path
            log.log(
                logging.WARNING if known else logging.ERROR,
                "%s",
                sentence,
                exc_info=not known and not isinstance(error, RelayError),
            )
    return Message(refusal_error(code), reply_to=message)


def _refusal_of(error: Exception) -> tuple[Refusal, str]:
    """Return the code that leaves the site for an error, and the sentence for the site's own log."""
    if isinstance(error, Refused):
        return error.refusal, f"Refused: {error}."
    if isinstance(error, BadMessage):
        return Refusal.BAD_MESSAGE, "Refused: the message is not one that this site knows."
    if isinstance(error, DiskFull):
        return Refusal.DISK_FULL, str(error)
    if isinstance(error, Damaged):
        return Refusal.FAILED, str(error)
    if isinstance(error, RelayError):
        return Refusal.DATA_UNUSABLE, str(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return Refusal.OUT_OF_MEMORY, "Out of memory."
    if isinstance(error, OSError):
        full = error.errno == errno.ENOSPC
        return Refusal.DISK_FULL if full else Refusal.FAILED, "A file could not be read or written."
    return Refusal.FAILED, "A stage failed."
