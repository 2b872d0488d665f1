"""Describe in plain words, for approval, what a study would run at a hospital and which data would leave."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from client.data.survey import Survey
from client.governance.approval import Approval
from client.governance.disclosure import Disclosure, Onward
from client.site_config import SiteConfig
from common.config.study import Study
from common.fingerprint import format_fingerprint
from common.model.network import declared_bytes, declared_shapes, part_names, staying_names
from common.plan import search_of
from common.strategies import STRATEGIES
from common.text import between, count, listed, moment, percent, short_bytes, whole

WIDTH = 100
LABEL = 12
"""Columns of a line's label."""
SHOWN = 8
"""The largest number of routes written out."""


def words(
    study: Study,
    site: SiteConfig,
    surveys: Sequence[Survey],
    disclosure: Disclosure,
    onward: Onward,
    *,
    largest_elsewhere: int,
) -> list[str]:
    """Describe a study to the person who decides about its approval.

    Args:
        study: the study.
        site: the hospital's settings.
        surveys: the hospital's patients and slices in each variant of the study.
        disclosure: counts of the study's stages here, and of the numbers and weights that would leave.
        onward: where the hospital's weights would go.
        largest_elsewhere: the most training slices of another site in a fold.

    Returns:
        Lines of text.
    """
    others = [name for name in study.sites if name != site.name]
    lines = [f'Study "{study.name}" at site {site.name}, together with {listed(others) or "nobody"}.']
    lines += textwrap.wrap(f"In its own words: {study.about}", WIDTH) if study.about else []
    lines += [
        "",
        *_labelled("hash", f"{format_fingerprint(study.digest)}   (the coordinator has to read out the same)"),
        "",
    ]
    lines += ["What runs here: the relay that is installed on this machine. A study brings no code."]
    for model in study.networks:
        if model.package:
            text = (
                f"The network {model.architecture} is of a package installed on this machine, sha256 {model.package}."
            )
            lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
    for key, package in study.methods.packages.items():
        text = f"The method {key} is of a package installed on this machine, sha256 {package}."
        lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
    lines += _zones(study, site)
    if (model := study.model).dimensions == 3:
        size = f"{model.depth} slices, {model.slice_spacing_mm:g} mm apart"
        lines += _labelled(
            "volumes", f"a network in three dimensions; a training uses one box of {size}, of each patient."
        )
    lines += _runs(study, surveys, disclosure)
    lines += ["", "What leaves, encrypted, to the coordinator and nobody else:"]
    lines += _leaves(study, disclosure)
    lines += ["", "Where the weights go from there:"]
    for text in _goes(study, site.name, others, onward):
        lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
    lines += ["", "What holds the coordinator to it:"]
    for text in _holds(site, surveys, others, f"{whole(largest_elsewhere)} training {study.model.samples}", disclosure):
        lines += textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")
    return [*lines, "", "What can be found out from weights and numbers that left: docs/explanation/threat-model.md."]


def changes(before: Approval, study: Study, disclosure: Disclosure, copy: Study | None) -> list[str]:
    """Describe the differences from the last approval of a study of this name.

    Args:
        before: the last approval.
        study: the study to be approved.
        disclosure: counts of the study's stages here, and of the numbers and weights that would leave.
        copy: the study at its last approval; None where the site's copy is gone.

    Returns:
        Lines of text.
    """
    lines = [f"Since {moment(before.at)}, when {before.by} approved {format_fingerprint(before.study)}:"]
    if copy is None:
        return [*lines, "  the study as it was approved then is gone, and cannot be compared."]
    old, new = flat(copy.model_dump(mode="json")), flat(study.model_dump(mode="json"))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            lines.append(f"  {key}: {_value(old, key)} → {_value(new, key)}")
    counted = [
        f"  {name}: {whole(then)} → {whole(now)}"
        for name, then, now in _compared(before.disclosure, disclosure)
        if before.disclosure and then != now
    ]
    if len(lines) == 1:
        lines.append("  nothing in the study.")
    return [*lines, *(["  and so, with the patients of today:", *counted] if counted else [])]


def flat(content: Any, name: str = "") -> dict[str, Any]:
    """Flatten settings into a single table by their full names, such as "methods.sequential.max_hops"."""
    if isinstance(content, Mapping):
        pairs = [(f"{name}.{key}" if name else key, value) for key, value in content.items()]
    elif isinstance(content, list) and any(isinstance(value, Mapping) for value in content):
        pairs = [(f"{name}[{number}]", value) for number, value in enumerate(content, start=1)]
    else:
        return {name: content}
    return {key: value for inner, part in pairs for key, value in flat(part, inner).items()}


def _zones(study: Study, site: SiteConfig) -> list[str]:
    """Return lines on what a study of the zones makes of this hospital's masks; none for a study of the gland."""
    if not study.model.segments.zones:
        return []
    named = zip(study.model.segments.zones, site.statement().zones, strict=False)  # none, where no zones are named
    values = listed(f"{zone.title} {listed(map(str, of_zone))}" for zone, of_zone in named)
    drawn = (
        f'"labels" in the site file names them: {values}'
        if values
        else ('"labels" in the site file does not name them, so this site takes part with the whole gland alone')
    )
    return _labelled("zones", f"the peripheral zone and the central gland are segmented; {drawn}.")


def _runs(study: Study, surveys: Sequence[Survey], counts: Disclosure) -> Iterator[str]:
    first = surveys[0]
    number = len(study.split.turns)
    turns = f" in the first of {number} rotations, every patient in one of them" if number > 1 else ""
    out = f"; {first.left_out} cannot be used and are left out" if first.left_out else ""
    yield from _labelled(
        "patients",
        f"{first.patients} of this site{out}: {first.test_patients} are held out for test{turns}, the others are"
        f" divided into {study.split.folds} folds; a training uses {between(first.train_patients)} of them, and"
        f" {between(first.validation_patients)} to validate.",
    )
    if len(surveys) > 1:
        rotated = f", each with {number} rotations of the test" if number > 1 else ""
        networks = len({variant.model for variant in study.variants})
        yield from _labelled(
            "variants",
            f"the study is {len(surveys)} in one: {count(len(study.pairs_of_seeds), 'repeat')} of"
            f" {count(networks, 'network')}{rotated}."
            " All that follows is counted over them together.",
        )
    most = "" if counts.exact else "at most "
    epochs = ", ".join(f"{whole(trainings)} of {count(epochs, 'epoch')}" for epochs, trainings in counts.of_epochs)
    yield from _labelled(
        "trainings",
        f"{most}{whole(counts.trainings)}: {epochs}; {whole(counts.epochs)} epochs and {whole(counts.gradient_steps)}"
        " gradient steps together."
        if counts.trainings
        else "none.",
    )
    if counts.estimates:
        yield from _labelled(
            "estimates",
            f"{most}{whole(counts.estimates)} of batch normalisation's statistics, for weights from elsewhere:"
            f" the {study.model.samples} of a training are shown to the network once, and no step is made.",
        )
    of_each = "each training or estimate" if counts.estimates else "each training"
    yield from _labelled(
        "scorings",
        f"{most}{whole(counts.validations)} on validation patients, besides the one that belongs to {of_each},"
        f" and {whole(counts.tests)} on test patients.",
    )
    if search := search_of(study.variants[0]):
        how = "they grow in the course of the study, hop by hop"
        if not search.hop_by_hop:
            how = "which of them go on with more epochs is found in the course of the study"
        yield from _labelled("routes", f"{how}; counted is the most that they may ask for.")


def _leaves(study: Study, counts: Disclosure) -> Iterator[str]:
    most = "" if counts.exact else "at most "
    sizes = {(len(declared_shapes(one.model)), declared_bytes(one.model)) for one in study.variants}
    with_what = "training or estimate" if counts.estimates else "training"
    of_each = " or ".join(f"{tensors} tensors of {short_bytes(size)}" for tensors, size in sorted(sizes))
    personal = ", except for personal models" if counts.personal else ""
    yield from _labelled(
        "weights",
        f"{most}{count(counts.trainings + counts.estimates - counts.personal, 'time')}, once a {with_what}{personal}:"
        f" {of_each}{', less what stays here' if counts.local else ''}; {short_bytes(counts.weight_bytes)} together.",
    )
    yield from _staying(study, counts, most)
    yield from _labelled(
        "numbers",
        f"{most}{whole(counts.training_numbers)} with them: of each epoch the loss, the learning rate and the"
        f" validation Dice; of each {with_what} Dice, IoU and volume Dice, and counts of patients, slices and steps.",
    )
    zones = ", and of its two zones" if study.model.segments.zones else ""
    yield from _labelled(
        "",
        f"{most}{whole(counts.scoring_numbers)} with the scorings: Dice, IoU and volume Dice, of test patients also"
        f" distances between surfaces, errors of the gland's volume, Dice of its apex, middle and base{zones}, and how"
        " far the model's probabilities are off (calibration error), each a mean over patients of the split; counts of"
        " patients, of slices, and of slices in which gland is wrongly drawn.",
    )
    drawn = "in how many patients the zones are drawn; " if study.model.segments.zones else ""
    yield from _labelled(
        "",
        f"{whole(counts.description_numbers)} about the data, each time that the coordinator asks: counts of patients"
        f" and slices, in each split; {drawn}in how many patients the gland reaches beyond the study's grid, and the"
        " mean Dice that this grid allows. With them go a fingerprint of the data, under a key that stays here, this"
        " machine's kind of processor, and the version of torch.",
    )
    if counts.patient_numbers:
        yield from _labelled(
            "",
            f"{most}{whole(counts.patient_numbers)} OF SINGLE PATIENTS, with trainings and scorings: slices, Dice, IoU"
            " and volume Dice of each, under a random number in the place of the name;"
            ' "patient_scores" is true in the site file.',
        )
    else:
        yield from _labelled("", "none of single patients.")
    minutes = f"{study.training.leg_minutes:g} minutes"
    yield from _labelled(
        "besides",
        f"a training that takes longer than {minutes} says every {minutes} how far it is, with the numbers of its"
        " epochs so far; a scoring of several models names the next one that it needs; an answer that was lost is sent"
        " again; a refusal is a code and a fixed text; at the end, that the weights selected for this site have"
        " arrived.",
    )
    yield from _labelled(
        "never", "images, masks, names, dates, paths, headers, texts of errors: no message has a place for them."
    )


def _staying(study: Study, counts: Disclosure, most: str) -> Iterator[str]:
    """Yield lines about the tensors that never leave the hospital; nothing where the study has none."""
    texts = []
    if counts.local:
        sizes = sorted({len(staying_names(one.model, "batch-norm")) for one in study.variants})
        of_each = f"{between(sizes)} of batch normalisation"
        texts.append(f"{of_each} after each of {most}{count(counts.local, 'training')} with batch norm of its own")
    if counts.parted:
        sizes = sorted({len(part_names(one.model)) for one in study.variants if part_names(one.model)})
        of_each = f"{between(sizes)} of the network's parts that belong to a site"
        texts.append(f"{of_each} after each of {most}{count(counts.parted, 'training')}")
    if counts.personal:
        texts.append(f"all after each of {most}{count(counts.personal, 'training')} of a personal model")
    if texts:
        yield from _labelled(
            "stay here",
            f"{most}{count(counts.staying_tensors, 'tensor')}: {listed(texts)}. No message has them; they need up to"
            f" {short_bytes(counts.staying_bytes)} in this site's private folder.",
        )


def _goes(study: Study, site: str, others: Sequence[str], onward: Onward) -> Iterator[str]:
    """Yield sentences about the destinations of the hospital's weights after the coordinator."""
    if not others:
        yield "To nobody."
        return
    if onward.routes:
        shown = ", ".join(" → ".join(route) for route in onward.routes[:SHOWN])
        more = len(onward.routes) - SHOWN
        yield (
            f"To {listed(list(dict.fromkeys(route[-1] for route in onward.routes)))}, where others go on training from"
            f" them: {shown}{f' and {more} more ways' if more > 0 else ''}."
        )
    if (search := search_of(study.variants[0])) and search.hop_by_hop:
        yield (
            f"Wherever a route grows through {site}: further hops lead from there to any of {listed(others)}"
            f" ({study.methods.sequential.max_hops} hops at most)."
        )
    if onward.scored_at:
        yield f"To {listed(onward.scored_at)}, where they are scored."
    if onward.together_at:
        shown = ", ".join(f"{models} to {name}" for name, models in onward.together_at)
        yield (
            f"As models beside those of other sites, whose probabilities are averaged: {shown}. A hospital for which"
            " such an ensemble is selected gets all its models for good."
        )
    if onward.averaged:
        titles = ", ".join(STRATEGIES[key].title for key in onward.averaged)
        yield f"Into averages with those of {listed(others)} ({titles}), which go to every site of the study."
    if not (onward.routes or onward.scored_at or onward.together_at or onward.averaged):
        yield "Nowhere: they stay at the coordinator."
    else:
        yield (
            "What is selected for a hospital at the end is sent to it for good, to use and pass on as its licence says."
        )


def _holds(
    site: SiteConfig, surveys: Sequence[Survey], others: Sequence[str], largest: str, counts: Disclosure
) -> Iterator[str]:
    fewest = min(survey.fewest for survey in surveys)
    yield (
        "This site makes the plan itself from the study that is approved here, refuses what is not in it, and answers"
        " each stage with one result only, for the weights that it was first asked with."
    )
    yield (
        f"After {count(counts.validations + counts.tests, 'scoring')}, as many as the study needs, it answers no"
        " further one. A training is begun anew once for a result that the coordinator rejects, and again from the same"
        " weights where the coordinator lost what it had: another answer only on a device whose sums differ."
    )
    if others:
        yield (
            f"How long the longest training is depends on the other sites' sizes. It is counted, and held, to"
            f" {largest} at each of them (--others): a study that claims more is refused."
        )
    yield (
        f"Nothing leaves that stands for fewer than {count(site.minimum_patients, 'patient')} (minimum_patients in the"
        f" site file); the smallest split here has {fewest}."
    )
    yield from _protected(site, min(min(survey.validation_patients) for survey in surveys))


def _protected(site: SiteConfig, validating: int) -> Iterator[str]:
    """Yield sentences about what the numbers of all splits together give away, and what they do not.

    Args:
        site: the site.
        validating: the fewest validation patients of a fold.
    """
    if site.minimum_patients > 1:
        secret = site.split_key == "site"
        yield (
            f"Nor may {'sums and differences of numbers' if secret else 'numbers'} that left, in this study and all"
            " before it, tell of fewer together: this site keeps a record of the patients behind each number, and"
            " refuses an answer that would. Numbers leave rounded. Not covered: what weights give away, and changes in"
            f" the data of fewer than {site.minimum_patients} patients, of which the numbers before and after (--again)"
            " tell."
        )
    else:
        yield (
            "minimum_patients is 1: sums and differences of the numbers of repeats, folds and studies may tell of"
            " single patients. With 2 or more, this site would refuse such answers, and every further study once such"
            " numbers have left: raise it before the first study."
        )
    if site.scoring_floor:
        yield (
            f"A scoring of a model that reaches less than {percent(site.scoring_floor)} in volume Dice on half of the"
            " validation patients is told as 0, without any figure (scoring_floor): weights made to draw one known"
            " patient do not tell there who is scored. The figures of a training leave all the same."
        )
        if validating < 3:
            yield (
                f"The smallest validation split has {count(validating, 'patient')}, and with fewer than 3 a single one"
                " decides whether the floor is reached: it cannot hold there."
            )
    else:
        yield (
            "scoring_floor is 0: weights that were made to draw one known patient may tell whether this patient is"
            " among those scored."
        )
    if site.split_key == "site":
        yield "Who is trained on, validates and is tested is decided with a secret of this site (split_key)."
    else:
        yield (
            "Who is trained on, validates and is tested can be worked out by anybody who knows the patients' names in"
            ' the files, such as Case00; split_key = "site" in the site file keeps it secret.'
        )


def _compared(then: Disclosure | None, now: Disclosure) -> Iterator[tuple[str, int, int]]:
    if then is None:
        return
    for name, value in now.model_dump().items():
        if isinstance(value, int) and not isinstance(value, bool):
            yield name.replace("_", " "), getattr(then, name), value


def _labelled(label: str, text: str) -> list[str]:
    head = f"  {label:<{LABEL}}"
    return textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=" " * len(head))


def _value(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key], ensure_ascii=False) if key in settings else "(not there)"
