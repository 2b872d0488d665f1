"""The table and the page say what results.json says, and nothing that a site did not let out."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
from html.parser import HTMLParser
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from common.errors import RelayError
from server.report import comparison, opening, read_results, terminal_table, text_lines, write_report
from server.report.page import SCALE, SITE_COLOURS
from server.statistics import bootstrap_ci


def example(
    *,
    sites: tuple[str, ...] = ("A", "B", "C"),
    folds: int = 2,
    epochs: int = 6,
    test_patients: tuple[int, ...] = (2, 2, 2),
    synthetic: bool = True,
    scores_leave: bool = True,
    seed: int = 1,
) -> dict[str, Any]:
    """Plausible results of a study over three sites with every method; figures drawn, not measured."""
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    stages: dict[str, dict[str, Any]] = {}
    behind = dict(zip(sites, test_patients, strict=True))

    def stage(kind: str, site: str, fold: int, label: str, parent: str | None, length: int, start: float) -> str:
        name = hashlib.sha256(f"{kind}{site}{fold}{label}{length}".encode()).hexdigest()[:16]
        if name not in stages:
            top = draw.uniform(86, 92)
            curve = [top - (top - start) * 0.85**step + draw.gauss(0, 0.8) for step in range(length)]
            stages[name] = {
                "id": name, "kind": kind, "site": site, "fold": fold, "label": label, "parent": parent,
                "epochs": [
                    {"epoch": step + 1, "lr": 0.001, "loss": 1 / (step + 1), "dice": round(value, 3)}
                    for step, value in enumerate(curve)
                ] if kind == "fine-tune" else [],
                "gradient_steps": 20 * length, "validation_dice": round(max(curve), 3), "weights": name * 4,
            }  # fmt: skip
        return name

    def row(method: str, route: list[str], target: str, fold: int, *, last: str | None, mean: float) -> None:
        scores = {str(case): round(min(97, draw.gauss(mean, 2.5)), 3) for case in range(1, behind[target] + 1)}
        slices = {case: draw.randint(9, 16) for case in scores}
        dice = sum(scores[case] * slices[case] for case in scores) / sum(slices.values())
        rows.append({
            "method": method, "label": " → ".join(route) or method, "route": route, "target": target,
            "fold": fold,
            "chosen": fold == folds - 1, "headline": False,
            "validation_dice": round(mean + draw.gauss(0, 1), 3), "dice": round(dice, 3),
            "iou": round(dice - 6.5, 3), "dice_volume": round(dice - 1, 3), "hd95_mm": None,
            "ci95": bootstrap_ci(scores, slices, seed=1, resamples=500) if scores_leave else None,
            "patients": behind[target], "slices": sum(slices.values()),
            "case_dice": scores if scores_leave else None, "case_slices": slices if scores_leave else None,
            "gradient_steps": 20 * epochs * max(1, len(route)),
            "bytes_moved": 26_000_000 * max(1, len(route)),
            "weights": hashlib.sha256(f"{method}{route}{target}{fold}".encode()).hexdigest(),
            "contributed": list(sites) if method.startswith("fed") else route,
            "stage": last,
        })  # fmt: skip

    def grown(route: tuple[str, ...], fold: int) -> str:
        parent = None
        for length in range(1, len(route) + 1):
            own = fold if length == len(route) else folds - 1
            label = " → ".join(route[:length])
            parent = stage("fine-tune", route[length - 1], own, label, parent, epochs, 40 if length == 1 else 78)
        return str(parent)

    for fold in range(folds):
        for target in sites:
            row("baseline", [target], target, fold, last=grown((target,), fold), mean=88)
            longer = stage("fine-tune", target, fold, "longer", None, 3 * epochs, 40)
            row("longer", [target], target, fold, last=longer, mean=88.5)
            others = [site for site in sites if site != target]
            for hops in range(1, len(others) + 1):
                for way in permutations(others, hops):
                    row(
                        "sequential",
                        [*way, target],
                        target,
                        fold,
                        last=grown((*way, target), fold),
                        mean=90.5,
                    )
            row("unadapted", [others[0]], target, fold, last=None, mean=62)
            for method in ("fedavg", "fedprox"):
                average = None
                for number in range(epochs):
                    average = stage("average", "", fold, f"{method} {number}", average, 1, 60 + 28 * (1 - 0.85**number))
                row(method, [], target, fold, last=average, mean=89)
                tuned = stage("fine-tune", target, fold, f"{method}, then", average, epochs, 80)
                row(f"{method}-then-target", [target], target, fold, last=tuned, mean=90)
            row("pooled", ["pooled"], target, fold,
                last=stage("fine-tune", "pooled", fold, "pooled", None, epochs, 50), mean=90)  # fmt: skip
    for target in sites:
        routes = [entry for entry in rows if entry["chosen"] and entry["method"] == "sequential"
                  and entry["target"] == target]  # fmt: skip
        max(routes, key=lambda entry: entry["validation_dice"])["headline"] = True
    return {
        "relay": "0.1.0",
        "study": {
            "name": "Three hospitals", "about": "Does a model gain by being handed on?", "seed": 1,
            "sites": list(sites), "synthetic": synthetic,
            "model": {"architecture": "UnetPlusPlus", "encoder": "efficientnet-b3"},
            "preprocessing": {"pixels": 256, "spacing_mm": 0.625, "n4": {"iterations": [50, 50]}},
            "split": {"seed": 1, "test_fraction": 0.2, "folds": folds, "source": "best-fold"},
            "training": {"epochs": epochs, "batch": 16, "learning_rate": 0.001, "loss": "dice+bce"},
            "methods": {"sequential": {"routes": "all", "max_hops": 2},
                        "federated": [{"strategy": "fedavg"}, {"strategy": "fedprox", "proximal_mu": 0.1}]},
        },
        "synthetic": synthetic,
        "sites": [{"name": site, "patients": 5 * behind[site], "test_patients": behind[site],
                   "train_slices": [200 + fold for fold in range(folds)], "left_out": 0} for site in sites],
        "choices": [["loss", "Dice + BCE", "not said in the paper"],
                    ["kept epoch", "best by validation Dice", "not said in the paper"]],
        "rows": rows,
        "stages": list(stages.values()),
    }  # fmt: skip


RUN = {
    "machine": "2 cores, Linux", "started": "2026-05-04T09:00:00+00:00", "seconds": 312.4,
    "bytes_sent": {"A": 260_000_000, "B": 240_000_000, "C": 240_000_000},
    "bytes_received": {"A": 250_000_000, "B": 230_000_000, "C": 230_000_000},
    "messages": 120, "attempts": {"A": 41, "B": 40, "C": 40},
}  # fmt: skip


def put(folder: Path, results: dict[str, Any]) -> Path:
    """A result folder as a study leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (folder / "run.json").write_text(json.dumps(RUN), encoding="utf-8")
    (folder / "study.toml").write_text('name = "Three hospitals"\nsites = ["A", "B", "C"]\n', encoding="utf-8")
    return folder


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, text, and the cells of each table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.grids: list[list[list[str]]] = []
        self._open: list[list[list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.grids.append([])
            self._open.append(self.grids[-1])
        elif tag == "tr":
            self._open[-1].append([])
        elif tag in ("td", "th"):
            self._open[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._open.pop()

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._open and self._open[-1] and self._open[-1][-1]:
            self._open[-1][-1][-1] += data.strip("\n")

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def page_of(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


def the(results: dict[str, Any], **wanted: Any) -> dict[str, Any]:
    """The one row with these values."""
    found = [row for row in results["rows"] if all(row[key] == value for key, value in wanted.items())]
    assert len(found) == 1
    return found[0]


def test_rows_stand_in_the_order_of_table_iii(tmp_path: Path) -> None:
    table = comparison(read_results(put(tmp_path, example())))
    assert table.targets == ("A", "B", "C")
    assert [line.label for line in table.lines] == [
        "Target alone", "Target alone, longest route's steps", "A →", "B →", "C →",
        "A → B →", "A → C →", "B → A →", "B → C →", "C → A →", "C → B →", "A, unadapted", "B, unadapted",
        "FedAvg", "FedProx", "FedAvg, then the target", "FedProx, then the target", "All data",
    ]  # fmt: skip


def test_the_order_of_rows_in_the_file_does_not_matter(tmp_path: Path) -> None:
    results = example()
    before = text_lines(read_results(put(tmp_path, results)))
    results["rows"] = results["rows"][::-1]
    assert text_lines(read_results(put(tmp_path, results))) == before


def test_every_cell_shows_the_chosen_fold_of_its_route_and_target_and_nothing_else(tmp_path: Path) -> None:
    results = example(folds=3)
    grid = page_of(put(tmp_path, results)).grids[0]
    header, lines = grid[0], {line[0]: line[1:] for line in grid[1:]}
    assert [cell.strip() for cell in header[1:]] == ["→ A", "→ B", "→ C"]
    for source in ("A", "B", "C", "B → C", "C → B", "A → C", "C → A", "A → B", "B → A"):
        for target, cell in zip("ABC", lines[f"{source} →"], strict=True):
            route = [*source.split(" → "), target]
            if len(set(route)) < len(route):
                assert cell == "–"
                continue
            row = the(results, method="sequential", route=route, chosen=True)
            assert cell.startswith(f"{row['dice']:.1f} / {row['iou']:.1f}")
            assert cell.endswith("2 patients")
            assert ("★" in cell) == row["headline"]
    for label, method in (("Target alone", "baseline"), ("FedAvg", "fedavg"), ("All data", "pooled")):
        for target, cell in zip("ABC", lines[label], strict=True):
            row = the(results, method=method, target=target, chosen=True)
            assert cell.startswith(f"{row['dice']:.1f} / {row['iou']:.1f}")


def test_one_route_a_target_is_the_headline(tmp_path: Path) -> None:
    results = read_results(put(tmp_path, example()))
    for column in range(3):
        cells = [cell for line in comparison(results).lines if (cell := line.cells[column])]
        assert sum("★" in cell.text for cell in cells) == 1


def test_two_chosen_rows_for_one_cell_are_an_error_and_not_a_guess(tmp_path: Path) -> None:
    results = example()
    the(results, method="baseline", target="A", chosen=False)["chosen"] = True
    with pytest.raises(RelayError, match="two chosen rows for A alone at A"):
        write_report(put(tmp_path, results))


def test_a_method_that_lacked_a_hospital_says_so(tmp_path: Path) -> None:
    results = example()
    the(results, method="fedavg", target="A", chosen=True)["contributed"] = ["A", "C"]
    the(results, route=["B", "C", "A"], chosen=True)["contributed"] = ["C", "A"]
    folder = put(tmp_path, results)
    lines = text_lines(read_results(folder))
    assert sum("†" in line for line in lines[:-1]) == 2
    expected = "† not every hospital took part: B → C → A at A without B; FedAvg at A without B."
    assert lines[-1] == expected
    assert expected in page_of(folder).text


def test_where_everybody_took_part_no_mark_and_no_note_stands(tmp_path: Path) -> None:
    assert "†" not in page_of(put(tmp_path, example())).text


def test_the_terminal_table_fits_a_hundred_columns_and_agrees_with_the_plain_lines(tmp_path: Path) -> None:
    results = read_results(put(tmp_path, example(test_patients=(10, 10, 10))))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal_table(results))
    drawn = [re.sub(r"\s+", " ", line).strip() for line in console.export_text().splitlines()]
    for line in text_lines(results):
        assert re.sub(r"\s+", " ", line).strip() in drawn


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
    ("patients", "said"),
    [
        ((6, 6, 4), "With 4 test patients at C, no paired sign or permutation test can go below p = 0.125"),
        ((7, 6, 8), "With 6 test patients at B, no paired sign or permutation test can go below p = 0.0312"),
        ((6, 1, 4), "With 1 test patient at B, no paired sign or permutation test can go below p = 1:"),
    ],
)
def test_real_results_open_with_patients_epochs_and_how_little_so_few_can_show(
    tmp_path: Path, patients: tuple[int, ...], said: str
) -> None:
    results = example(synthetic=False, folds=5, epochs=3, test_patients=patients)
    sentence = opening(read_results(put(tmp_path, results)))
    numbers = " + ".join(map(str, patients))
    assert sentence.startswith(f"3 hospitals (A, B, C): {numbers} test patients, 3 epochs a stage, 5 folds")
    assert said in sentence
    assert ("cannot be told from chance" in sentence) == (min(patients) < 6)


def test_intervals_are_drawn_where_they_are_known(tmp_path: Path) -> None:
    results = example(test_patients=(6, 5, 4))
    page = page_of(put(tmp_path, results))
    chosen = [row for row in results["rows"] if row["chosen"]]
    assert all(row["ci95"] for row in chosen)
    assert sum(attributes.get("class") == "whisker" for _, attributes in page.tags) == len(chosen)
    row = the(results, method="baseline", target="A", chosen=True)
    assert f"{row['dice']:.1f} [{row['ci95'][0]:.1f}, {row['ci95'][1]:.1f}]" in page.text
    assert "shows no interval" not in page.text


def test_missing_intervals_are_said_with_their_reason(tmp_path: Path) -> None:
    few = page_of(put(tmp_path / "few", example(test_patients=(2, 5, 5))))
    assert "A shows no interval: with fewer than four patients it would only be their range." in few.text
    assert "B shows no interval" not in few.text
    kept = page_of(put(tmp_path / "kept", example(test_patients=(6, 6, 6), scores_leave=False)))
    assert not any(attributes.get("class") == "whisker" for _, attributes in kept.tags)
    for site in "ABC":
        assert f"{site} shows no interval: the hospital does not let the figures of single patients" in kept.text


def test_the_route_map_gives_the_difference_of_every_hop(tmp_path: Path) -> None:
    results = example(test_patients=(6, 6, 6))
    figures = (
        (["A"], "baseline", 80.0), (["B"], "baseline", 70.0), (["C"], "baseline", 60.0),
        (["B", "C"], "sequential", 58.5), (["C", "A"], "sequential", 85.0),
        (["B", "C", "A"], "sequential", 84.25),
    )  # fmt: skip
    for route, method, dice in figures:
        the(results, method=method, route=route, chosen=True)["dice"] = dice
    text = write_report(put(tmp_path, results)).read_text(encoding="utf-8")
    lane = next(part for part in text.split("<g>") if part.strip().startswith("<title>B → C → A</title>"))
    seen = Page(lane.split("</svg>")[0]).text
    assert [word for word in ("70.0", "58.5 −1.5", "84.2 +4.2", "−0.8 against C → A") if word not in seen] == []


def test_a_route_shows_the_fold_that_was_handed_on_and_not_the_prefix_chosen_for_itself(
    tmp_path: Path,
) -> None:
    results = example(test_patients=(6, 6, 6))
    other = the(results, method="baseline", route=["B"], chosen=False)
    other["dice"] = 12.3
    last = the(results, route=["B", "A"], chosen=True)["stage"]
    next(stage for stage in results["stages"] if stage["id"] == last)["parent"] = other["stage"]
    text = write_report(put(tmp_path, results)).read_text(encoding="utf-8")
    lane = next(part for part in text.split("<g>") if part.strip().startswith("<title>B → A</title>"))
    assert "12.3" in Page(lane).text


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
    assert rows["together"] == ["740.0 MB", "710.0 MB"]
    assert "120 messages, 1.4 GB in all; 12.1 MB a message" in page.text


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
        assert (row["weights"] in text) == row["chosen"]


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
    assert not {"src", "href", "xlink:href", "srcset", "data"} & attributes
    assert not re.search(r"https?:|//[a-z]|@import|url\((?!#clip-)", text)


def test_references_inside_the_page_are_unique_and_lead_somewhere(tmp_path: Path) -> None:
    text = write_report(put(tmp_path, example())).read_text(encoding="utf-8")
    names = re.findall(r' id="([^"]+)"', text)
    assert len(names) == len(set(names))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(names)


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    first = write_report(put(tmp_path / "one", example())).read_bytes()
    assert write_report(put(tmp_path / "two", example())).read_bytes() == first
    assert write_report(tmp_path / "one").read_bytes() == first
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "report.html", "results.json", "run.json", "study.toml",
    ]  # fmt: skip


def test_five_folds_of_two_hundred_epochs_stay_below_two_megabytes(tmp_path: Path) -> None:
    folder = put(tmp_path, example(synthetic=False, folds=5, epochs=200, test_patients=(6, 6, 4)))
    assert write_report(folder).stat().st_size < 2_000_000


def test_a_report_is_written_from_rows_and_nothing_else(tmp_path: Path) -> None:
    rows = [{"method": "baseline", "target": "A", "chosen": True, "dice": float("nan")}]
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
        ('{"rows": [{"method": "baseline", "target": "A"}]}', r"at rows\.0\.chosen"),
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
