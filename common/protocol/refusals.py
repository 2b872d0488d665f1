"""Refusals: a site's reason for not carrying out an order, as a number and a fixed text, without any other content."""

from __future__ import annotations

from enum import IntEnum

from flwr.app import Error


class Refusal(IntEnum):
    """A site's reason for not carrying out an order. Only the number and its fixed text leave the site."""

    FAILED = 1000
    UNKNOWN_STUDY = 1001
    NOT_IN_STUDY = 1002
    BAD_MESSAGE = 1003
    BAD_WEIGHTS = 1004
    DATA_CHANGED = 1005
    DATA_UNUSABLE = 1006
    TOO_FEW_PATIENTS = 1007
    DISK_FULL = 1008
    BLOCKED = 1009
    DIVERGED = 1010
    OUT_OF_MEMORY = 1011
    ANSWERED = 1012
    NOT_SELECTED = 1013
    LEFT = 1014
    BEYOND_APPROVAL = 1015
    OWN_TENSORS_GONE = 1016
    RESTARTED = 1017
    COMBINED = 1018
    UNFIT_START = 1019
    SCORINGS_SPENT = 1020
    ANOTHER_KEY = 1021

    @property
    def code(self) -> str:
        """The refusal's name in the form of `RelayError.code`: "disk-full"."""
        return self.name.lower().replace("_", "-")


REFUSALS: dict[Refusal, str] = {
    Refusal.FAILED: "the stage failed; the site's own log says why",
    Refusal.UNKNOWN_STUDY: "the site has not approved this study",
    Refusal.NOT_IN_STUDY: "the site's approved study does not contain this stage",
    Refusal.BAD_MESSAGE: "the message is not one that the site knows",
    Refusal.BAD_WEIGHTS: "the weights do not fit the declared model",
    Refusal.DATA_CHANGED: "the site's own data have changed since it described them; it puts them back, or approves the"
    " study anew (relay site approve --again) before the study is run again; with a minimum_patients of 2 or more, as a"
    " rule a study with another split seed",
    Refusal.DATA_UNUSABLE: "the site's data cannot be used; its own log says why",
    Refusal.TOO_FEW_PATIENTS: "fewer patients than the site allows to stand behind a number",
    Refusal.DISK_FULL: "the site's disk is full; make room there",
    Refusal.BLOCKED: "the site's egress filter blocked the reply; see site.log at the site",
    Refusal.DIVERGED: "training gave values that are not finite",
    Refusal.OUT_OF_MEMORY: "the site ran out of memory",
    Refusal.ANSWERED: "the site has answered this stage from other weights or data; approve the study there again",
    Refusal.NOT_SELECTED: "the site's own validation scores do not choose these weights",
    Refusal.LEFT: "the site has left the study",
    Refusal.BEYOND_APPROVAL: "another site has more training slices than the site's approval of the study allows for",
    Refusal.OWN_TENSORS_GONE: "the tensors that stayed at the site are gone or damaged; run the study in a new folder",
    Refusal.RESTARTED: "the site has begun this stage anew once already; approve the study there again",
    Refusal.COMBINED: "with the numbers that left the site before, these would tell of fewer patients than it allows",
    Refusal.UNFIT_START: "the weights that it was given do not work there: their loss is not finite, or above 1000",
    Refusal.SCORINGS_SPENT: "the site has scored as many models as it approved for the study; approve it there again",
    Refusal.ANOTHER_KEY: "another version of torch or of relay, or another kind of device, is at work there or at the"
    " coordinator than when the site described its data; run the study again, and the site describes them again",
}
"""The fixed text of each refusal."""


DIED = 8
"""Flower's code for a client app that ended without a reply."""


class Refused(Exception):
    """A message cannot be answered at a site; only the refusal's code and fixed text leave."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(REFUSALS[refusal])
        self.refusal = refusal


def refusal_error(code: Refusal) -> Error:
    """Return Flower's error for a refusal."""
    return Error(code=int(code), reason=REFUSALS[code])


def refusal_text(error: Error) -> str:
    """Return the sentence for a received error; for a refusal's code, always the fixed text, whatever text was sent."""
    if error.code == DIED:
        return f"the site's process ended without an answer, often for want of memory (Flower's error {DIED})"
    try:
        return REFUSALS[Refusal(error.code)]
    except ValueError:
        return f"Flower reports error {error.code}"
