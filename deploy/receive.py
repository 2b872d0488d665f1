"""`relay site receive`: what studies brought this hospital, listed, and written where the user wants it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from common.errors import RelayError

ABOUT = (
    "List what studies brought this hospital. With --to, write the weights with their model card, and a letter of one"
    " page: what taking part brought, and whether to keep your own model."
)


def arguments(own: argparse.ArgumentParser) -> None:
    own.add_argument("site", metavar="SITE.toml", type=Path, help="the hospital's own settings")
    own.add_argument("--to", metavar="DIR", type=Path, help="write weights, cards and letter into this folder")
    own.add_argument("--study", metavar="NAME", default="", help="one study alone: its name, or how its digest begins")
    own.add_argument("--json", action="store_true", help="for a script")


def run(chosen: argparse.Namespace) -> int:
    from client.handout import hand_out
    from client.letter import letter
    from client.received import outcomes
    from client.site import load_site

    site = load_site(chosen.site)
    found = [
        outcome
        for outcome in outcomes(site)
        if chosen.study in ("", outcome.chosen.card.study) or outcome.chosen.card.study_digest.startswith(chosen.study)
    ]
    if not found:
        of_study = f' of a study "{chosen.study}"' if chosen.study else ""
        raise RelayError(
            f"Nothing{of_study} has arrived at site {site.name} yet; weights come when all that concerns the site is"
            " done, and only if a method of the study ends at it."
        )
    if chosen.to is not None and len(found) > 1:
        names = ", ".join(f"{outcome.chosen.card.study} ({outcome.chosen.card.study_digest[:12]})" for outcome in found)
        raise RelayError(f"{len(found)} studies have ended here: {names}; say which with --study.")
    written = hand_out(found[0], chosen.to) if chosen.to is not None else []
    if chosen.json:
        listed = [
            {
                "verdict": letter(outcome).verdict,
                "chosen": outcome.chosen.card.model_dump(mode="json"),
                "own": outcome.own.card.model_dump(mode="json") if outcome.own else None,
            }
            for outcome in found
        ]
        print(json.dumps({"received": listed, "written": [str(path) for path in written]}, indent=1))
        return 0
    for outcome in found:
        told = letter(outcome)
        print(f"{told.study}, {told.date}, {outcome.chosen.card.study_digest[:12]}: {told.heading}")
        for name, meaning in told.files[:-2]:
            print(f"  {name}: {meaning}")
    for path in written:
        print(path)
    return 0
