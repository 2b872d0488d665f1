"""Mutated site and study files: a sound value, or one sentence; and what a site with such a file lets out."""

from __future__ import annotations

import math
import os
from pathlib import Path

from flwr.common.serde import message_to_proto

from client.site_config import SiteConfig, load_site
from common.config.study import Study, load_study, study_toml
from common.errors import RelayError
from common.protocol.codec import to_record
from common.protocol.messages import DESCRIBE, Describe
from common.protocol.refusals import Refusal
from deploy.simulation.local_grid import enter_run
from tests.fuzz.child import Watched, tell, unkind
from tests.fuzz.plain import FLOATS, NUMBERS, PHI, Random, harm
from tests.fuzz.planted import NAME, USER, WARD, found_in
from tests.support.hospitals import small_study
from tests.support.site_calls import call

SITE = f"""name = "A"
layout = "nci-isbi"
images = "images {NAME}"
masks = 'labels'
folder = "private"
device = "cpu"
cores = 1
bad_patients = "leave-out"
series = "T2.*AX"
patient_scores = false
minimum_patients = 1
"""
STUDY = study_toml(small_study())
VALUES = (
    *(number[:30] for number in NUMBERS), "9" * 5000, "nan", "-inf", "1e400", "0x7fffffffffffffff", "1_0",
    "true", '""', "[]", "{}", "[[]]", "[1, 'a', {}]", "1979-05-27T07:32:00Z", "07:32:00", "1979-05-27",
    f'"{NAME}"', f'"images {NAME}/{USER}.dcm"', "'(((a+)+)+'", "'['", "'.'", "'images'", '"""\nlines\n"""', '"\\u0000"',
    '"\\ud800"', '"' + "x" * 3000 + '"', "[" * 3000, "[" * 400 + "]" * 400, "{a.b.c = 1}", '["A", "A"]', '["pooled"]',
    '"pooled"', '"../.."', "'auto'", "'A'", "-1", "3.0", '"1"', "[nan]", "[" + "1," * 3000 + "]",
    *(f'"{text}"' for text in FLOATS),
)  # fmt: skip
KEYS = ("name", "members", "sites", "paper", "x", '""', f'"{NAME}"', "a.b.c", "model.encoder",
        "[methods]", "[[methods]]", "[methods.federated]", "[[methods.federated]]", "seed", "repeats", "about",
        "folder")  # fmt: skip


def text_of(seed: int) -> bytes:
    """The content of a file: an even seed's is a site's, an odd one's a study's."""
    rng = Random(f"toml {seed}")
    lines = (STUDY if seed % 2 else SITE).splitlines()
    if rng.random() < 0.25:
        return harm("\n".join(lines).encode(), rng)
    for _ in range(rng.choice((1, 1, 2, 3))):
        k = rng.randrange(len(lines))
        key, equals, _ = lines[k].partition(" = ")
        way = rng.randrange(8)
        if way < 5 and equals:
            lines[k] = f"{key} = {rng.choice(VALUES)}"
        elif way == 5:
            lines.insert(k, rng.choice((lines[k], f"{rng.choice(KEYS)} = {rng.choice(VALUES)}", rng.choice(KEYS))))
        elif way == 6 and len(lines) > 1:
            del lines[k]
        else:
            lines[k] = rng.choice((lines[k].upper(), f"{lines[k]} {rng.choice(PHI)}", f"# {NAME}", "\r", "\0", "=", ""))
    text = "\n".join(lines)
    return rng.choice(("", "", "", "\ufeff")).encode() + text.encode(rng.choice(("utf-8", "utf-8", "utf-8", "utf-16")))


def run(_: str, seeds: list[int], folder: Path, watched: Watched) -> None:
    here = folder / WARD
    for name in (f"images {NAME}", "labels"):
        (here / name).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        path = here / ("study.toml" if seed % 2 else "site.toml")
        path.write_bytes(text_of(seed))
        with watched.only(RelayError, seeds=[seed], what="load"):
            made = load_study(path) if seed % 2 else load_site(path)
            watched.outcomes["read"] += 1
            if (wrong := _unsound(made)) is not None:
                tell(fault=f"a value that is none: {wrong}", seeds=[seed])
            if isinstance(made, SiteConfig) and not all(
                place.is_relative_to(here) for place in (made.folder, made.images, made.masks or here, *made.members)
            ):
                continue  # a real folder, which is none of ours
        if not seed % 2:
            _describe(path, folder, seed)


def _unsound(made: SiteConfig | Study) -> str | None:
    if isinstance(made, Study):
        again = type(made).model_validate_json(made.model_dump_json())
        numbers = (made.training.learning_rate, made.preprocessing.spacing_mm, made.split.test_fraction)
        if again.digest != made.digest:
            return "it is another one once it is written"
        return None if all(map(math.isfinite, numbers)) else f"{numbers}"
    if not made.folder.is_absolute() or not (made.pooled or made.images.is_absolute()):
        return "its paths are not absolute"
    return unkind(f"{made.name}.")


def _describe(path: Path, folder: Path, seed: int) -> None:
    os.environ["RELAY_SITE"] = str(path)
    enter_run(1)
    reply = call(DESCRIBE, to_record(Describe(study="a" * 64)))
    left = message_to_proto(reply).SerializeToString()
    if told := found_in(left, also=(str(folder), "images")):
        tell(fault=f"this would leave the site: {told}", seeds=[seed])
    if not reply.has_error() or reply.error.code not in (Refusal.DATA_UNUSABLE, Refusal.UNKNOWN_STUDY):
        tell(fault=f"the answer is {reply}", seeds=[seed])
