"""What the hierarchical model shows of the contrasts, in sentences: better, worse, the same, or non-inferior."""

from __future__ import annotations

from common.statistics.hierarchical import SURE
from common.text import listed, percent, points
from server.report.contrasts import Family

ROUTE = "the route that validation chose is"
SAID = ("better", "worse", "same", "not-worse", "not-better")
"""The findings in the order in which they are told."""


def findings(family: Family) -> list[str]:
    """Return what is known of the selected route against each opponent with a probability of `SURE` or more.

    Opponents of whom the same is known share a sentence. Without any posterior there is no sentence.
    """
    known: dict[str, list[str]] = {}
    for contrast in family.contrasts:
        if contrast.posterior is not None:
            known.setdefault(contrast.posterior.together.finding, []).append(f"“{contrast.opponent}”")
    several = any(len(contrast.at) > 1 for contrast in family.contrasts)
    sure = f"With a probability of {percent(SURE, 0)} or more"
    where = f"{sure}, in the mean over the hospitals," if several else f"{sure},"
    told = [f"{where} {_words(name, listed(known[name]), family.margin)}" for name in SAID if name in known]
    if "" in known:
        told.append(f"Nothing of the kind can be told of the route against {listed(known[''])}.")
    return told


def _words(finding: str, opponents: str, margin: float) -> str:
    """Return what a finding says of the route, in words."""
    by_more = f"by more than {points(margin)}"
    return {
        "better": f"{ROUTE} better than {opponents} {by_more}.",
        "worse": f"{ROUTE} worse than {opponents} {by_more}.",
        "same": f"{ROUTE} practically the same as {opponents}: they differ by no more than {points(margin)}.",
        "not-worse": f"{ROUTE} not worse than {opponents} {by_more} (non-inferior).",
        "not-better": f"{ROUTE} not better than {opponents} {by_more}.",
    }[finding]
