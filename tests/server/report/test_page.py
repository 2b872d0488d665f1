"""The page says what results.json says, and nothing that a site did not let out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from common.errors import RelayError
from common.statistics.intervals import case_interval
from server.report import opening, read_results, write_report
from server.report.colours import SCALE, SITE_COLOURS
from server.report.remarks import COVERAGE
from tests.support.pages import Page, example, page_of, put, the


def test_synthetic_results_open_by_saying_what_they_are(tmp_path: Path) -> None:
    folder = put(tmp_path, example(test_patients=(2, 3, 1), epochs=4))
    expected = (
        "Synthetic hospitals: 2 + 3 + 1 test patients, 4 epochs a stage."
        " This shows that the software works, not which method is better."
    )
    assert opening(read_results(folder)) == expected
    text = page_of(folder).text
    assert expected in text
    assert text.index(expected) < text.index("The comparison")


@pytest.mark.parametrize(
    ("patients", "who", "smallest"),
    [
        ((6, 6, 4), "4 test patients at C", "0.125:"),
        ((7, 6, 8), "6 test patients at B", "0.0312:"),
        ((6, 1, 4), "1 test patient at B", "1:"),
    ],
)
def test_real_results_open_with_patients_epochs_and_how_little_so_few_can_show(
    tmp_path: Path, patients: tuple[int, ...], who: str, smallest: str
) -> None:
    results = example(synthetic=False, folds=5, epochs=3, test_patients=patients)
    sentence = opening(read_results(put(tmp_path, results)))
    numbers = " + ".join(map(str, patients))
    assert sentence.startswith(f"3 hospitals (A, B, C): {numbers} test patients, 3 epochs a stage, 5 folds")
    test = "no paired sign or permutation test on that hospital alone can go below p ="
    assert f"With {who}, {test} {smallest}" in sentence
    assert ("cannot be told from chance" in sentence) == (min(patients) < 6)


def test_intervals_are_drawn_where_they_are_known(tmp_path: Path) -> None:
    results = example(test_patients=(6, 7, 8))
    page = page_of(put(tmp_path, results))
    selected = [row for row in results["rows"] if row["selected"]]
    assert all(row["ci95"] for row in selected)
    assert sum(attributes.get("class") == "whisker" for _, attributes in page.tags) == len(selected)
    row = the(results, method="baseline", target="A", selected=True)
    assert f"{row['dice']:.1f} [{row['ci95'][0]:.1f}, {row['ci95'][1]:.1f}]" in page.text
    assert "shows no interval" not in page.text


def test_missing_intervals_are_said_with_their_reason(tmp_path: Path) -> None:
    few = page_of(put(tmp_path / "few", example(test_patients=(5, 6, 6))))
    assert "A shows no interval: an interval needs 6 patients." in few.text
    assert "B shows no interval" not in few.text
    kept = page_of(put(tmp_path / "kept", example(test_patients=(6, 6, 6), scores_leave=False)))
    assert not any(attributes.get("class") == "whisker" for _, attributes in kept.tags)
    for site in "ABC":
        assert f"{site} shows no interval: the hospital does not let the figures of single patients" in kept.text


@pytest.mark.slow
def test_intervals_fall_short_as_the_page_says() -> None:
    for patients, said in COVERAGE.items():
        generator, held = np.random.default_rng((1969, patients)), 0
        for _ in range(1000):
            cases = {str(k): float(value - np.exp(0.5)) for k, value in enumerate(generator.lognormal(size=patients))}
            found = case_interval(cases, dict.fromkeys(cases, 1))
            held += found is not None and found[0] <= 0 <= found[1]
        assert abs(held / 10 - said) < 2.5  # two and a half standard errors


def test_the_route_map_gives_the_difference_of_every_hop(tmp_path: Path) -> None:
    results = example(test_patients=(6, 6, 6))
    figures = (
        (["A"], "baseline", 80.0), (["B"], "baseline", 70.0), (["C"], "baseline", 60.0),
        (["B", "C"], "sequential", 58.5), (["C", "A"], "sequential", 85.0),
        (["B", "C", "A"], "sequential", 84.25),
    )  # fmt: skip
    for route, method, dice in figures:
        the(results, method=method, route=route, selected=True)["dice"] = dice
    text = write_report(put(tmp_path, results)).read_text(encoding="utf-8")
    strip = next(part for part in text.split("<g>") if part.strip().startswith("<title>B → C → A</title>"))
    seen = Page(strip.split("</svg>")[0]).text
    assert [word for word in ("70.0", "58.5 −1.5", "84.2 +4.2", "−0.8 against C → A") if word not in seen] == []


def test_a_route_shows_the_fold_that_was_handed_on_and_not_the_prefix_selected_for_itself(
    tmp_path: Path,
) -> None:
    results = example(test_patients=(6, 6, 6))
    other = the(results, method="baseline", route=["B"], selected=False)
    other["dice"] = 12.3
    last = the(results, route=["B", "A"], selected=True)["stage"]
    next(stage for stage in results["stages"] if stage["id"] == last)["parent"] = other["stage"]
    text = write_report(put(tmp_path, results)).read_text(encoding="utf-8")
    strip = next(part for part in text.split("<g>") if part.strip().startswith("<title>B → A</title>"))
    assert "12.3" in Page(strip).text


def test_learning_curves_of_a_route_follow_one_another(tmp_path: Path) -> None:
    text = write_report(put(tmp_path, example(epochs=5))).read_text(encoding="utf-8")
    panel = text.split('aria-label="Learning curves of B → C → A"')[1].split("</svg>")[0]
    strong = re.findall(r'<polyline points="([^"]+)" stroke="([^"]+)" class="curve"', panel)
    assert [colour for _, colour in strong] == [SITE_COLOURS[1], SITE_COLOURS[2], SITE_COLOURS[0]]
    across = [[float(point.split(",")[0]) for point in points.split()] for points, _ in strong]
    assert [len(points) for points in across] == [5, 5, 5]
    joined = [x for points in across for x in points]
    assert joined == sorted(joined)


def test_bytes_on_the_wire_are_added_up(tmp_path: Path) -> None:
    page = page_of(put(tmp_path, example()))
    rows = {row[0]: row[1:] for grid in page.grids for row in grid}
    assert rows["A"] != []
    assert rows["together"] == ["740 MB", "710 MB"]
    assert "120 messages, 1.4 GB in all; 12 MB a message" in page.text


def test_what_the_paper_leaves_open_and_every_setting_are_in_the_page(tmp_path: Path) -> None:
    results = example()
    text = page_of(put(tmp_path, results)).text
    for word in (
        "kept epoch",
        "best by validation Dice",
        "proximal_mu",
        "spacing_mm",
        "0.625",
        "efficientnet-b3",
    ):
        assert word in text
    for row in results["rows"]:
        assert (row["weights"] in text) == row["selected"]


def test_names_out_of_files_cannot_become_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    results = json.loads(json.dumps(example()).replace('"B"', json.dumps(evil)))
    results["study"]["name"] = results["study"]["about"] = f'"{evil}'
    results["choices"].append([evil, "</style>" + evil, "' onload='x"])
    folder = put(tmp_path, results)
    (folder / "study.toml").write_text(f'name = "</pre>{evil}"\n', encoding="utf-8")
    page = page_of(folder)
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert evil in page.text


def test_the_page_fetches_nothing(tmp_path: Path) -> None:
    text = write_report(put(tmp_path, example())).read_text(encoding="utf-8")
    page = Page(text)
    tags = {tag for tag, _ in page.tags}
    assert not {"script", "link", "iframe", "img", "image", "object", "embed", "base"} & tags
    attributes = {name for _, given in page.tags for name in given}
    assert not {"src", "xlink:href", "srcset", "data"} & attributes
    assert all(str(given["href"]).startswith("#") for _, given in page.tags if "href" in given)
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#clip-)", text)


def test_references_inside_the_page_are_unique_and_lead_somewhere(tmp_path: Path) -> None:
    text = write_report(put(tmp_path, example())).read_text(encoding="utf-8")
    names = re.findall(r' id="([^"]+)"', text)
    assert len(names) == len(set(names))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(names)
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(names)


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    first = write_report(put(tmp_path / "one", example())).read_bytes()
    assert write_report(put(tmp_path / "two", example())).read_bytes() == first
    assert write_report(tmp_path / "one").read_bytes() == first
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "report.html", "results.json", "run.json", "study.toml",
    ]  # fmt: skip


@pytest.mark.slow
def test_five_folds_of_two_hundred_epochs_stay_below_two_megabytes(tmp_path: Path) -> None:
    folder = put(tmp_path, example(synthetic=False, folds=5, epochs=200, test_patients=(6, 6, 4)))
    assert write_report(folder).stat().st_size < 2_000_000


def test_a_report_is_written_from_rows_and_nothing_else(tmp_path: Path) -> None:
    rows = [{"method": "baseline", "target": "A", "selected": True, "dice": float("nan")}]
    (tmp_path / "results.json").write_text(json.dumps({"rows": rows}), encoding="utf-8")
    page = page_of(tmp_path)
    assert "Target alone" in page.text
    assert "nan" not in page.grids[0][1][1].lower()
    assert "no learning curves" in page.text
    assert "What was really sent is not known" in page.text


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "holds no results.json: run the study to its end first"),
        ("{", "is no JSON"),
        ("[]", "does not read as relay writes it"),
        ('{"rows": [{"method": "baseline", "target": "A"}]}', r"at rows\.0\.selected"),
    ],
)
def test_a_folder_without_readable_results_is_told_in_one_sentence(
    tmp_path: Path, content: str | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content, encoding="utf-8")
    with pytest.raises(RelayError, match=sentence) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def _contrast(colour: tuple[int, ...], other: tuple[int, ...]) -> float:
    """WCAG 2.2 contrast of two sRGB colours."""

    def luminance(rgb: tuple[int, ...]) -> float:
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
                  for part in (value / 255 for value in rgb)]  # fmt: skip
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(colour), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_text_can_be_read_on_every_colour() -> None:
    for colour in SCALE:
        assert _contrast(colour, (0x1B, 0x24, 0x30)) > 4.5
        assert _contrast(colour, (0x35, 0x41, 0x4F)) > 4.5
    for site in SITE_COLOURS:
        assert _contrast(tuple(bytes.fromhex(site[1:])), (255, 255, 255)) > 4.5


def test_a_study_of_which_nothing_could_be_finished_still_has_a_page(tmp_path: Path) -> None:
    results = example() | {"rows": [], "stages": []}
    text = write_report(put(tmp_path, results)).read_text(encoding="utf-8")
    assert "<h1" in text and "Dice" in text
