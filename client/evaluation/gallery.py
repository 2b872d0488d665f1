"""The site's own page of its worst patients, and its worst and best slices, with pictures. It stays at the site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from client import drawing
from client.evaluation.evaluate import CaseScore, Example
from client.preprocessing import cache
from client.site_config import SiteConfig
from common.digest import digest_of
from common.scores import LOW, THIRDS
from common.text import percent

OF_EACH = 3
"""The number of a model's worst slices on the page, of its best, and of the worst of a patient below `LOW`."""
PICTURED = 6
"""The most patients below `LOW` with pictures, the worst ones; of the others the page has the figures alone."""
MODELS = 100
"""The most models on the page: the models scored last."""
SIDE = 240
"""Pixels of a picture's side."""
WINDOW = (1.0, 99.0)
"""The percentiles of a picture's values that become black and white."""

EXPERT, PREDICTED, BOTH = drawing.FIRST, drawing.SECOND, drawing.BOTH


def add_to_page(
    site: SiteConfig,
    *,
    title: str,
    stage: str,
    examples: Sequence[Example],
    scores: Sequence[CaseScore],
    numbers: Mapping[str, int],
) -> Path:
    """Show a model on the site's page, in the place of the same stage's earlier pictures.

    Args:
        site: the site whose private folder holds the page.
        title: the model's name for readers, such as "B → C → A, fold 1".
        stage: the key of the scored stage.
        examples: the model's slices; the worst and the best by Dice are drawn.
        scores: the model's scores, a patient each; patients below a volume Dice of `LOW` stand first, the worst first.
        numbers: the random number of each patient, by name, under which the study's report lists the patient.

    Returns:
        The path of the page: page.html in the site's private folder, mode 0600.

    Raises:
        RelayError: the disk is full, or the folder cannot be written.
    """
    ordered = sorted(examples, key=lambda example: (example.dice, example.patient, example.number))
    worst = ordered[:OF_EACH]
    best = ordered[len(worst) :][-OF_EACH:][::-1]
    section = {
        "title": title,
        "stage": stage,
        "at": datetime.now().astimezone().isoformat(timespec="seconds"),
        "scored": len(scores),
        "low": _low(scores, ordered, numbers),
        "rows": [
            {"heading": heading, "pictures": [_picture(example) for example in selected]}
            for heading, selected in (("Worst selected slices", worst), ("Best selected slices", best))
            if selected
        ],
    }
    folder = site.private() / "page"
    page = site.private() / "page.html"
    path = folder / f"{digest_of(stage.encode())[:32]}.json"
    with cache.exclusive_lock(folder / "page"):
        cache.write_json(path, section)
        newest = sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns, reverse=True)
        for old in newest[MODELS:]:
            old.unlink()
        sections = [known for file in newest[:MODELS] if (known := cache.read_json(file))]
        cache.write_bytes(page, _render(site.name, sections).encode())
    return page


def _low(scores: Sequence[CaseScore], ordered: Sequence[Example], numbers: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the patients below a volume Dice of `LOW`, the worst first, each with figures and its worst slices.

    Args:
        scores: a score for each patient.
        ordered: the slices of all patients, the worst first.
        numbers: the random number of each patient.
    """
    low = sorted((case for case in scores if case.dice_volume < LOW), key=lambda case: (case.dice_volume, case.patient))
    found = []
    for place, case in enumerate(low):
        worst = [example for example in ordered if example.patient == case.patient][:OF_EACH]
        pictures = [_picture(example) for example in worst] if place < PICTURED else []
        figures = f"no. {numbers[case.patient]} in reports, {_figures(case)}"
        found.append({"patient": case.patient, "figures": figures, "pictures": pictures})
    return found


def _figures(case: CaseScore) -> str:
    """Return a patient's figures in words."""
    parts = [f"volume Dice {percent(case.dice_volume)}"]
    if case.volume_error_ml is not None:
        parts.append(f"volume error {case.volume_error_ml:+.1f} ml".replace("-", "−"))
    for third in THIRDS:
        value: float | None = getattr(case, third.key)
        if value is not None:
            parts.append(f"{third.title} {percent(value)}")
    return f"{', '.join(parts)}; gland drawn in {case.false_slices} of {case.empty_slices} slices without gland"


def draw(example: Example) -> Image.Image:
    """Return a slice around the prostate, SIDE pixels square, with the expert's outline and the prediction's.

    Where the expert drew zones, the outlines are those of the gland and of the central gland within it.
    """
    rows, columns = _window_on((example.expert > 0) | (example.predicted > 0))
    values = example.image[rows, columns]
    low, high = np.percentile(values, WINDOW)
    grey = np.clip((values - low) / max(float(high - low), 1e-6), 0, 1) * 255
    outlines = [(example.expert[rows, columns], EXPERT), (example.predicted[rows, columns], PREDICTED)]
    return drawing.draw(grey.astype(np.uint8), outlines, side=SIDE)


def _picture(example: Example) -> dict[str, Any]:
    return {
        "patient": example.patient,
        "slice": example.number + 1,
        "dice": example.dice,
        "png": drawing.png(draw(example)),
    }


def _window_on(region: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return a square window around a region, half as large again as the region and at least half of the slice."""
    rows, columns = np.nonzero(region)
    size = region.shape[0]
    if len(rows) == 0:
        return slice(0, size), slice(0, size)
    middles = ((rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2)
    side = int(min(size, max(size // 2, 1.5 * max(np.ptp(rows), np.ptp(columns)))))
    first_row, first_column = (int(np.clip(middle - side // 2, 0, size - side)) for middle in middles)
    return slice(first_row, first_row + side), slice(first_column, first_column + side)


def _render(name: str, sections: Sequence[dict[str, Any]]) -> str:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["percent"] = percent
    environment.globals.update(low=percent(LOW, 0), pictured=PICTURED)
    colours = {"expert": EXPERT, "predicted": PREDICTED}
    return environment.from_string(_PAGE).render(
        name=name,
        sections=sections,
        colours={key: drawing.css(value) for key, value in colours.items()},
    )


_PAGE = """{% macro row_of(pictures) %}
<div class="row">
{% for picture in pictures %}
<figure><img alt="slice {{ picture.slice }} of patient {{ picture.patient }}"
src="data:image/png;base64,{{ picture.png }}">
<figcaption>{{ picture.patient }}, slice {{ picture.slice }}: Dice {{ picture.dice | percent }}</figcaption>
</figure>
{% endfor %}
</div>
{% endmacro %}
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Site {{ name }}: segmentations</title>
<style>
  body { margin: 0 auto; max-width: 60rem; padding: 1.5rem; background: #16181c; color: #e8e8e6;
         font: 16px/1.5 system-ui, sans-serif; }
  h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2.5rem 0 0; }
  h3 { font-size: 1rem; margin: .8rem 0 .3rem; }
  .stays { border-left: .3rem solid #e69f00; padding: .5rem 1rem; background: #24262b; }
  .stage { color: #9a9a96; font-size: .8rem; overflow-wrap: anywhere; }
  .figures { margin: .6rem 0 .3rem; }
  .row { display: flex; flex-wrap: wrap; gap: 1rem; }
  figure { margin: 0; width: 240px; } img { display: block; width: 240px; height: 240px; border-radius: .3rem; }
  figcaption { font-size: .85rem; overflow-wrap: anywhere; }
  .key::before { content: ""; display: inline-block; width: 1.4em; height: .25em; margin: 0 .4em .25em 0;
                 background: var(--colour); }
  .key { margin-right: 1.5em; }
</style>
<h1>Site {{ name }}: how models segment its own patients</h1>
<p class="stays"><strong>This page shows patients' images and names. It must stay at the site.</strong></p>
<p><span class="key" style="--colour: {{ colours.expert }}">expert</span>
<span class="key" style="--colour: {{ colours.predicted }}">model</span>
<span class="key" style="--colour: #ffffff">both</span>
front at the top, the patient's right on the left</p>
{% for section in sections %}
<section>
<h2>{{ section.title }}</h2>
<div class="stage">stage {{ section.stage }} · {{ section.at }}</div>
{% if section.low is defined %}{# earlier versions did not list them #}
{% if section.low %}
<h3>Patients below a volume Dice of {{ low }}: {{ section.low | length }} of {{ section.scored }}, the worst first</h3>
<p class="figures">The figures are of the whole volume; the pictures show the worst selected slices of each
{{- " of the first " ~ pictured if section.low | length > pictured }}.</p>
{% for patient in section.low %}
<p class="figures"><strong>{{ patient.patient }}</strong>: {{ patient.figures }}</p>
{% if patient.pictures %}{{ row_of(patient.pictures) }}{% endif %}
{% endfor %}
{% else %}
<p class="figures">No patient is below a volume Dice of {{ low }}.</p>
{% endif %}
{% endif %}
{% for row in section.rows %}
<h3>{{ row.heading }}</h3>
{{ row_of(row.pictures) }}
{% endfor %}
</section>
{% endfor %}
</html>
"""
