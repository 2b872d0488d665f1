"""The first sentences of tables and page: sites, patients, training, and how much so few patients can show."""

from __future__ import annotations

from common.statistics.paired import LEVEL, smallest_p
from common.text import count, listed
from server.report.wording import site_names, targets
from server.results.schema import Results


def test_patients(results: Results) -> dict[str, int]:
    """Return the number of test patients of each target: from its site's description, else from its rows."""
    rotating = results.rotations > 1
    known = {site.name: site.patients if rotating else site.test_patients for site in results.sites}
    said = {name: number for name, number in known.items() if number is not None}
    counted = {
        target: max((row.patients or 0 for row in results.rows if row.target == target), default=0)
        for target in targets(results)
    }
    return {target: said.get(target, counted[target]) for target in targets(results)}


def epochs_of(results: Results) -> int | None:
    """Return the epochs of a stage: from the study's settings, else from the longest stage."""
    training = results.study.get("training")
    said = training.get("epochs") if isinstance(training, dict) else None
    if isinstance(said, int):
        return said
    return max((len(stage.epochs) for stage in results.stages), default=0) or None


def drawn(results: Results) -> str:
    """Return what the repeats of a study draw anew: "3 splits and trainings"."""
    splits, trainings = (len(set(seeds)) for seeds in zip(*results.repeats, strict=True)) if results.repeats else (1, 1)
    if len(results.repeats) == max(splits, trainings) and splits == trainings:
        return "one split and one training" if splits == 1 else f"{splits} splits and trainings"
    if splits == 1:
        return f"one split, with {trainings} training seeds"
    return f"{splits} splits, each with {count(trainings, 'training seed')}"


def _facts(results: Results) -> str:
    """Return the facts of a study: "2 + 2 + 2 test patients, 5 epochs a stage"."""
    patients, repeats = test_patients(results), len(results.repeats)
    facts = [
        f"{' + '.join(str(number) for number in patients.values())} test patients"
        + (" a repeat" if repeats > 1 and results.rotations < 2 else "")
        if results.tested
        else "validation patients alone"
    ]
    epochs = epochs_of(results)
    if epochs:
        facts.append(f"{count(epochs, 'epoch')} a stage")
    if len(results.models) > 1:
        facts.append(count(len(results.models), "network"))
    if repeats > 1:
        facts.append(count(repeats, "repeat"))
    if results.rotations > 1:
        facts.append(f"{results.rotations} rotations of the test")
    return ", ".join(facts)


def opening(results: Results) -> str:
    """Return the basis of the results (sites, patients, folds, repeats) in two or three sentences."""
    places = len(site_names(results))
    if results.synthetic:
        what = "A synthetic hospital" if places == 1 else "Synthetic hospitals"
        better = "network" if not results.tested and len(results.models) > 1 else "method"
        return f"{what}: {_facts(results)}. This shows that the software works, not which {better} is better."
    patients = test_patients(results)
    text = f"{count(len(patients), 'hospital')} ({', '.join(patients)}): {_facts(results)}"
    if results.folds > 1:
        each = " of each rotation" if results.rotations > 1 else ""
        shown = (
            f", of which the one with the best validation {results.score.title} is shown{each}"
            if results.tested
            else ""
        )
        text += f", {results.folds} folds{shown}"
    text += "."
    if not results.tested:
        return f"{text} No test patient was looked at: these figures choose, they do not judge."
    repeats = len(results.repeats)
    text += f" The figures describe these test patients, in {drawn(results)}."
    if not patients or min(patients.values()) < 1:
        return text
    if repeats > 1:
        return f"{text} The spread over the repeats says how far {_another(results)} would take them."
    site = min(patients, key=lambda name: patients[name])
    fewest = patients[site]
    smallest = smallest_p(fewest)
    if smallest < 0.001:
        return f"{text} A difference smaller than the intervals may be chance."
    verdict = (
        "a difference between methods there cannot be told from chance"
        if smallest > LEVEL
        else "a difference smaller than the intervals may be chance"
    )
    return (
        f"{text} With {count(fewest, 'test patient')} at {site}, no paired sign or permutation test"
        f" on that hospital alone can go below p = {smallest:.3g}: {verdict}."
    )


def synthetic_sentence(results: Results) -> str:
    """Return the warning under results of synthetic patients; empty for real patients."""
    return " The patients are synthetic: nothing here is evidence about real ones." if results.synthetic else ""


def _another(results: Results) -> str:
    """Return what differs between the repeats: "another split and training"."""
    splits, trainings = (len(set(seeds)) > 1 for seeds in zip(*results.repeats, strict=True))
    return f"another {listed([name for name, differs in (('split', splits), ('training', trainings)) if differs])}"


def held_out(results: Results) -> str:
    """Return the test patients by target: "6 test patients at A, 6 at B and 4 at C"."""
    patients = test_patients(results)
    parts = [
        f"{count(number, 'test patient') if index == 0 else number} at {target}"
        for index, (target, number) in enumerate(patients.items())
    ]
    return listed(parts)
