"""The report's words: names of methods, figures in text, and the sentences that open table and page."""

from __future__ import annotations

from datetime import datetime

from server.report.results import Results, Row

ROUTED = ("sequential", "cyclic", "greedy")
THEN_TARGET = "-then-target"
POOLED = "pooled"
_NAMES = {
    "fedavg": "FedAvg",
    "fedprox": "FedProx",
    "fedmedian": "FedMedian",
    "fedtrimmedavg": "FedTrimmedAvg",
    POOLED: "All data",
}
_GROUPS = {
    "baseline": "Target alone",
    "longer": "Target alone, longest route's steps",
    "sequential": "Routes",
    "greedy": "Growing routes",
    "cyclic": "Laps",
    "unadapted": "Source, unadapted",
    "all": "Together",
}


def method_name(method: str) -> str:
    """The name of an averaging or pooling method."""
    return _NAMES.get(method, method)


def group_name(method: str) -> str:
    """All rows of a method together, as a line of a list of methods."""
    if method.endswith(THEN_TARGET):
        return f"{method_name(method.removesuffix(THEN_TARGET))}, then the target"
    return _GROUPS.get(method, method_name(method))


def sources(row: Row) -> tuple[str, ...]:
    """The sites a model came through before its target."""
    return row.route[:-1] if row.route and row.route[-1] == row.target else row.route


def full_name(row: Row) -> str:
    """A method at its target: "B → C → A", "A alone", "FedAvg, then A"."""
    if row.method == "baseline":
        return f"{row.target} alone"
    if row.method == "longer":
        return f"{row.target} alone, longer"
    if row.method in ROUTED:
        return " → ".join((*sources(row), row.target))
    if row.method == "unadapted":
        return f"{' → '.join(sources(row))}, unadapted"
    if row.method.endswith(THEN_TARGET):
        return f"{method_name(row.method.removesuffix(THEN_TARGET))}, then {row.target}"
    return method_name(row.method)


def figure(value: float | None, digits: int = 1) -> str:
    """A number, or a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float) -> str:
    """A difference with its sign, to one decimal."""
    text = f"{abs(value):.1f}"
    if text == "0.0":
        return "±0.0"
    return f"{'+' if value > 0 else '−'}{text}"


def count(number: int, noun: str) -> str:
    """ "1 patient", "6 patients"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}".replace(",", "\u202f")


def duration(seconds: float) -> str:
    """ "5 min 12 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def moment(iso: str) -> str:
    """ "2026-05-04 09:00 UTC"; what does not read as a time stays as it is."""
    try:
        return f"{datetime.fromisoformat(iso):%Y-%m-%d %H:%M %Z}".rstrip()
    except ValueError:
        return iso


def targets(results: Results) -> tuple[str, ...]:
    """The targets in the study's order of sites."""
    found = dict.fromkeys(row.target for row in results.rows)
    known = [name for name in site_names(results) if name in found]
    return (*known, *(name for name in found if name not in known))


def site_names(results: Results) -> tuple[str, ...]:
    """The hospitals in the study's order."""
    names = results.study.get("sites")
    if not isinstance(names, list | tuple) or not names:
        names = [site.name for site in results.sites]
    return tuple(str(name) for name in names if name != POOLED)


def test_patients(results: Results) -> dict[str, int]:
    """Held-out patients by target, where known: as the sites say, else as the rows count them."""
    told = {site.name: site.test_patients for site in results.sites if site.test_patients is not None}
    counted = {
        target: max((row.patients or 0 for row in results.rows if row.target == target), default=0)
        for target in targets(results)
    }
    return {target: told.get(target, counted[target]) for target in targets(results)}


def _epochs(results: Results) -> int | None:
    training = results.study.get("training")
    said = training.get("epochs") if isinstance(training, dict) else None
    if isinstance(said, int):
        return said
    return max((len(stage.epochs) for stage in results.stages), default=0) or None


def _facts(results: Results) -> str:
    patients = test_patients(results)
    text = f"{' + '.join(str(number) for number in patients.values())} test patients"
    epochs = _epochs(results)
    return f"{text}, {count(epochs, 'epoch')} a stage" if epochs else text


def opening(results: Results) -> str:
    """What the figures are: whose patients, how many, how long trained, and what so few can show."""
    if results.synthetic:
        return (
            f"Synthetic hospitals: {_facts(results)}. This shows that the software works, not which method is better."
        )
    patients = test_patients(results)
    folds = len({row.fold for row in results.rows if row.fold is not None})
    told = f"{count(len(patients), 'hospital')} ({', '.join(patients)}): {_facts(results)}"
    if folds > 1:
        told += f", {folds} folds, of which the one with the best validation Dice is shown"
    told += ". The figures describe these test patients, in one split and one training."
    if not patients or min(patients.values()) < 1:
        return told
    site = min(patients, key=lambda name: patients[name])
    fewest = patients[site]
    smallest = 2 * 0.5**fewest  # two-sided sign test, or sign-flip permutation test, all differences one way
    if smallest < 0.001:
        return f"{told} A difference smaller than the intervals may be chance."
    verdict = (
        "differences between methods there cannot be told from chance"
        if smallest >= 0.05
        else "a difference smaller than the intervals may be chance"
    )
    return (
        f"{told} With {count(fewest, 'test patient')} at {site},"
        f" no paired sign or permutation test can go below p = {min(smallest, 1):.3g}: {verdict}."
    )
