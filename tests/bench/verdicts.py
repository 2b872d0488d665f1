"""How often the page says what is true, of studies whose truth is known: `python -m tests.bench.verdicts`.

Three hospitals; rows as in results.json go through the report's own code. Patients are drawn, no network is trained: a
patient is hard or easy whatever the method (standard deviation 5 points), and between any two methods patients differ
with a standard deviation of 2 points. Validation is drawn in the same way, so that it chooses between two routes.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator

import numpy as np
from rich.console import Console
from rich.table import Table

from server.report.contrasts import family
from server.report.table import comparison
from server.report.verdicts import verdicts
from server.results.schema import Results, Row

SITES = ("A", "B", "C")
PATIENTS = (6, 10, 30)
STUDIES = 60
SEED = 17
GAIN = 2.0
TRUTHS = {"no difference": dict.fromkeys(SITES, 0.0), "routes 2 points better at A": {"A": GAIN, "B": 0.0, "C": 0.0}}
"""By hospital, how many points better the routes are than the other methods."""


def study(generator: np.random.Generator, gains: dict[str, float], patients: int) -> Results:
    """Return the results of a study."""
    rows = []
    for site in SITES:
        base = generator.normal(85.0, 5.0, size=patients)
        others = [name for name in SITES if name != site]
        kinds = [("baseline", (site,)), *(("sequential", (other, site)) for other in others), ("fedavg", SITES)]
        for method, route in kinds:
            gain = gains[site] if method == "sequential" else 0.0
            own = base + gain + generator.normal(0.0, 2.0 / 2**0.5, size=patients)
            validation = 85.0 + gain + float(generator.normal(0.0, 2.0 / 2**0.5 / patients**0.5))
            cases = {str(number): round(float(value), 6) for number, value in enumerate(own)}
            rows.append(_row(method, route, site, cases, validation))
        best = max((row for row in rows if row["target"] == site and row["method"] == "sequential"), key=_validation)
        best["headline"] = True
    return Results(
        study={"sites": list(SITES), "training": {"slices": "all"}, "methods": {}},
        rows=tuple(Row.model_validate(row) for row in rows),
    )


def _validation(row: dict[str, object]) -> float:
    return float(str(row["validation_dice_volume"]))


def _row(
    method: str, route: tuple[str, ...], site: str, cases: dict[str, float], validation: float
) -> dict[str, object]:
    mean = float(np.mean(list(cases.values())))
    return {
        "method": method,
        "route": route,
        "target": site,
        "fold": 0,
        "selected": True,
        "headline": False,
        "model": "Unet resnet18",
        "validation_dice_volume": validation,
        "dice": mean,
        "dice_volume": mean,
        "patients": len(cases),
        "slices": 10 * len(cases),
        "case_dice": cases,
        "case_dice_volume": cases,
        "case_slices": dict.fromkeys(cases, 10),
    }


def said(results: Results) -> Iterator[str]:
    """Yield what the page says of a study, in short."""
    for site, sentence in zip(SITES, verdicts(results), strict=False):
        yield f"{site} {_verdict(sentence)}"
    found = family(results, comparison(results))
    if any(one.corrected is not None and one.corrected <= 0.05 for one in found.contrasts):
        yield "a corrected p of at most 0.05"
    for contrast in found.contrasts:
        if contrast.opponent == "FedAvg" and contrast.posterior is not None:
            yield f"together {contrast.posterior.together.finding or 'nothing'}"
            for site, odds in contrast.posterior.at:
                yield f"likely {site} {odds.finding or 'nothing'}"


def _verdict(sentence: str) -> str:
    if "practically no difference" in sentence:
        return "same"
    if "cannot be told" in sentence:
        return "open, no loss" if "did not hurt" in sentence else "open"
    return "helped" if "helped" in sentence else "hurt"


def simulate(truth: str, patients: int, studies: int) -> Counter[str]:
    """Return how often the page says what."""
    found: Counter[str] = Counter()
    for number in range(studies):
        generator = np.random.default_rng((SEED, list(TRUTHS).index(truth), patients, number))
        found.update(said(study(generator, TRUTHS[truth], patients)))
    return found


def main(studies: int) -> None:
    """Print the table of docs/explanation/statistics.md."""
    shown = Table(title=f"Per cent of {studies} studies; several figures: patients of each hospital {PATIENTS}")
    for name in ("the page says", *TRUTHS):
        shown.add_column(name)
    found = {(truth, patients): simulate(truth, patients, studies) for truth in TRUTHS for patients in PATIENTS}
    for entry in sorted({entry for counts in found.values() for entry in counts}):
        cells = (
            " / ".join(f"{100 * found[truth, patients][entry] / studies:.0f}" for patients in PATIENTS)
            for truth in TRUTHS
        )
        shown.add_row(entry, *cells)
    Console(width=100).print(shown)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else STUDIES)
