"""The studies that a site has approved. It runs nothing else."""

from __future__ import annotations

import json
import shutil

from client import cache
from client.site import SiteConfig
from common.errors import RelayError
from common.files import write_atomically
from common.graph import Node
from common.messages import Refusal, Refused
from common.plan import Choices
from common.study import Study, load_study, study_toml

FOLDER = "approved"
ANSWERED = "answered"
CHOICES = "choices.json"


def approve(site: SiteConfig, study: Study) -> str:
    """Keep a copy of the study, or of each variant of it, in the site's private folder; returns its digest.

    Approving a study again lets each of its stages be answered once more.
    """
    folder = site.private() / FOLDER
    folder.mkdir(exist_ok=True)
    for variant in study.variants:
        write_atomically(folder / f"{variant.digest}.toml", study_toml(variant).encode())
        shutil.rmtree(site.private() / ANSWERED / variant.digest, ignore_errors=True)
    return study.digest


def answer_once(site: SiteConfig, study: Study, node: Node, key: str) -> None:
    """Bind a stage of an approved study to the weights and data that it is first asked for with.

    Whoever could have one stage worked out from any number of weights could ask the data any number of
    questions. The same question again, after a lost answer, is no other question.

    Raises:
        Refused: the stage was asked for with others before.
    """
    folder = site.private() / ANSWERED / study.digest
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / node.id
    if not path.exists():
        # Durably: what a loss of power left of it would bind the stage to nothing, or to something else.
        write_atomically(path, key.encode(), durable=True)
    elif path.read_bytes() != key.encode():
        raise Refused(Refusal.ANSWERED)


def hold_to(site: SiteConfig, study: Study, choices: Choices) -> None:
    """Let the hops of growing routes only be added to: who could take one back could try all routes.

    Raises:
        Refused: a hop is another one than was told before.
    """
    path = site.private() / ANSWERED / study.digest / CHOICES
    known = {target: tuple(chosen) for target, chosen in cache.read_json(path).items()}
    longest = dict(known)
    for target, chosen in choices.items():
        before = known.get(target, ())
        # An order that was under way for long may know less than a later one.
        if chosen[: len(before)] != before and before[: len(chosen)] != chosen:
            raise Refused(Refusal.ANSWERED)
        longest[target] = max(before, chosen, key=len)
    if longest != known:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(longest).encode(), durable=True)


def approved(site: SiteConfig, digest: str) -> Study:
    """The approved study of that digest.

    Raises:
        Refused: the site has approved none such.
    """
    # Looked for among what is there: no file name is made of what was sent.
    for path in sorted((site.private() / FOLDER).glob("*.toml")):
        if path.stem == digest:
            try:
                study = load_study(path)
            except RelayError:
                break
            if study.digest == digest:
                return study
    raise Refused(Refusal.UNKNOWN_STUDY)
