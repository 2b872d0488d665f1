"""List the study results received by this hospital, and write the results to a folder: `relay site receive`."""

from __future__ import annotations

import json
from pathlib import Path

from client.delivery.export import hand_out
from client.delivery.letter import letter
from client.delivery.store import outcomes
from client.site_config import load_site
from common.errors import RelayError
from common.text import short_digest


def receive(path: Path, *, to: Path | None, study: str, as_json: bool) -> int:
    """Print the study results received by a hospital, and on request write the weights, their cards and the letter.

    Args:
        path: the site's file.
        to: the folder for the weights, their cards and the letter; None: only list.
        study: the name of a study, or the beginning of its digest; empty: all studies.
        as_json: print JSON.

    Returns:
        The exit code, 0.

    Raises:
        RelayError: nothing has arrived, or `to` is given for several studies; `to` takes a single study.
    """
    site = load_site(path)
    found = [
        outcome
        for outcome in outcomes(site)
        if study in ("", outcome.selected.card.study) or outcome.selected.card.study_digest.startswith(study)
    ]
    if not found:
        of_study = f' of a study "{study}"' if study else ""
        raise RelayError(
            f"Nothing{of_study} has arrived at site {site.name} yet; weights come when all that concerns the site is"
            " done, and only if a method of the study ends at it."
        )
    if to is not None and len(found) > 1:
        names = ", ".join(
            f"{outcome.selected.card.study} ({short_digest(outcome.selected.card.study_digest)})" for outcome in found
        )
        raise RelayError(f"{len(found)} studies have ended here: {names}; say which with --study.")
    written = hand_out(found[0], to) if to is not None else []
    if as_json:
        listed = [
            {
                "verdict": letter(outcome).verdict,
                "selected": outcome.selected.card.model_dump(mode="json"),
                "own": outcome.own.card.model_dump(mode="json") if outcome.own else None,
            }
            for outcome in found
        ]
        print(json.dumps({"received": listed, "written": [str(file) for file in written]}, indent=1))
        return 0
    for outcome in found:
        text = letter(outcome)
        print(f"{text.study}, {text.date}, {short_digest(outcome.selected.card.study_digest)}: {text.heading}")
        for name, meaning in text.files[:-2]:
            print(f"  {name}: {meaning}")
    for file in written:
        print(file)
    return 0
