"""The comparison's table, on the page and in a terminal."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from rich.console import Console

from common.errors import RelayError
from server.report import comparison, read_results, terminal_table, text_lines, write_report
from server.report.contrasts import family
from tests.support.hospitals import small_study
from tests.support.pages import Page, example, page_of, put, the
from tests.support.plausible import plausible


def test_rows_stand_in_the_order_of_table_iii(tmp_path: Path) -> None:
    table = comparison(read_results(put(tmp_path, example())))
    assert table.targets == ("A", "B", "C")
    assert [line.label for line in table.lines] == [
        "Target alone", "Target alone, longer", "A →", "B →", "C →",
        "A → B →", "A → C →", "B → A →", "B → C →", "C → A →", "C → B →", "A, unadapted", "B, unadapted",
        "FedAvg", "FedProx", "FedAvg, then the target", "FedProx, then the target", "All data",
    ]  # fmt: skip


def test_the_order_of_rows_in_the_file_does_not_matter(tmp_path: Path) -> None:
    results = example()
    before = text_lines(read_results(put(tmp_path, results)))
    results["rows"] = results["rows"][::-1]
    assert text_lines(read_results(put(tmp_path, results))) == before


def test_every_cell_shows_the_selected_fold_of_its_route_and_target_and_nothing_else(tmp_path: Path) -> None:
    results = example(folds=3)
    grid = page_of(put(tmp_path, results)).grids[0]
    header, lines = grid[0], {line[0]: line[1:] for line in grid[1:]}
    assert [cell.strip() for cell in header[1:]] == ["→ A2 test patients", "→ B2 test patients", "→ C2 test patients"]
    for source in ("A", "B", "C", "B → C", "C → B", "A → C", "C → A", "A → B", "B → A"):
        for target, cell in zip("ABC", lines[f"{source} →"], strict=True):
            route = [*source.split(" → "), target]
            if len(set(route)) < len(route):
                assert cell == "–"
                continue
            row = the(results, method="sequential", route=route, selected=True)
            assert cell.startswith(f"{row['dice']:.1f} / {row['iou']:.1f}")
            assert ("★" in cell) == row["headline"]
    for label, method in (("Target alone", "baseline"), ("FedAvg", "fedavg"), ("All data", "pooled")):
        for target, cell in zip("ABC", lines[label], strict=True):
            row = the(results, method=method, target=target, selected=True)
            assert cell.startswith(f"{row['dice']:.1f} / {row['iou']:.1f}")


def test_one_route_a_target_is_the_headline(tmp_path: Path) -> None:
    results = read_results(put(tmp_path, example()))
    for column in range(3):
        cells = [cell for _, cell in comparison(results).column(column)]
        assert sum("★" in cell.marks for cell in cells) == 1


def test_two_selected_rows_for_one_cell_are_an_error_and_not_a_guess(tmp_path: Path) -> None:
    results = example()
    the(results, method="baseline", target="A", selected=False)["selected"] = True
    with pytest.raises(RelayError, match="two selected rows for A alone at A"):
        write_report(put(tmp_path, results))


def test_a_method_that_lacked_a_hospital_says_so(tmp_path: Path) -> None:
    results = example()
    the(results, method="fedavg", target="A", selected=True)["contributed"] = ["A", "C"]
    the(results, route=["B", "C", "A"], selected=True)["contributed"] = ["C", "A"]
    folder = put(tmp_path, results)
    lines = text_lines(read_results(folder))
    expected = "† not every hospital took part: B → C → A at A without B; FedAvg at A without B."
    assert sum("†" in line for line in lines) == 3
    assert expected in lines
    assert expected in page_of(folder).text


def test_a_row_that_missed_a_hospital_in_one_round_alone_says_so_everywhere(tmp_path: Path) -> None:
    results = example()
    the(results, method="fedavg", target="A", selected=True)["absent"] = ["B"]
    folder = put(tmp_path, results)
    expected = "† not every hospital took part: FedAvg at A without B."
    assert expected in text_lines(read_results(folder))
    page = page_of(folder).text
    assert expected in page and "FedAvg † without B" in page
    for column, told in (("A", False), ("B", True)):
        found = family(read_results(folder), comparison(read_results(folder))).contrasts
        (fedavg,) = [contrast for contrast in found if contrast.opponent == "FedAvg"]
        assert (fedavg.where(column) is not None) == told, "it is no opponent where it lacked a hospital"


def test_where_everybody_took_part_no_mark_and_no_note_stands(tmp_path: Path) -> None:
    assert "†" not in page_of(put(tmp_path, example())).text


def test_the_terminal_table_fits_a_hundred_columns_and_agrees_with_the_plain_lines(tmp_path: Path) -> None:
    results = read_results(put(tmp_path, example(test_patients=(10, 10, 10))))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal_table(results))
    drawn = [re.sub(r"\s+", " ", line).strip() for line in console.export_text().splitlines()]
    for line in text_lines(results):
        assert re.sub(r"\s+", " ", line).strip() in drawn


ROUTES: dict[str, Any] = {
    "baseline": True,
    "longer_baseline": True,
    "unadapted": True,
    "sequential": {"routes": "all", "max_hops": 2},
    "cyclic": {"laps": 2},
    "federated": ({"strategy": "fedavg", "rounds": 10},),
    "pooled": True,
    "pooled_then_target": True,
}
KINDS: dict[str, dict[str, Any]] = {
    "three sites": {"methods": ROUTES},
    "repeats": {"methods": ROUTES, "repeats": 3},
    "greedy": {"methods": {"baseline": True, "sequential": {"routes": "greedy"}, "forgetting": True}, "repeats": 2},
    "validation": {"methods": {**ROUTES, "scored_on": "validation"}},
    "networks": {
        "sites": ("A",),
        "methods": {"baseline": True, "scored_on": "validation"},
        "models": {"encoders": ("resnet18", "efficientnet-b0"), "architectures": ("Unet", "UnetPlusPlus", "MAnet")},
        "paper": "table-2",
    },
    "networks and routes": {"methods": ROUTES, "models": {"encoders": ("resnet18", "resnet34")}},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A result folder of every kind of study."""
    found = {}
    for kind, changes in KINDS.items():
        place = tmp_path_factory.mktemp("kind")
        found[kind] = put(place / "results", plausible(small_study(**changes), place / "run"))
    return found


def screen_of(folder: Path, width: int) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(terminal_table(read_results(folder)))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("kind", KINDS)
def test_a_terminal_shows_every_figure_whatever_the_study(folders: dict[str, Path], kind: str, width: int) -> None:
    drawn = screen_of(folders[kind], width)
    assert max(map(len, drawn)) <= width
    shown = " ".join(drawn)
    for line in text_lines(read_results(folders[kind])):
        assert len(line) <= 100
        for figure in re.findall(r"\d+\.\d ?(?:± ?\d+\.\d)?(?: / \d+\.\d)?(?: \(\d+\))?(?: ★(?:\d/\d)?)?", line):
            assert figure.strip() in shown


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_study_has_a_page_whose_parts_say_what_they_show(folders: dict[str, Path], kind: str) -> None:
    text = write_report(folders[kind]).read_text(encoding="utf-8")
    sections = re.findall(r'<section id="(\w+)">(.*?)</section>', text, re.DOTALL)
    assert len(sections) >= 6
    for name, section in sections:
        if ("<table" in section or "<svg" in section) and name != "reproduce":
            remark = re.search(r'<p class="remark">([^<]+)</p>', section)
            assert remark and remark[1].strip().endswith("."), name
    assert "None" not in re.sub(r"<title>.*?</title>", "", text) and "nan" not in text
    shown = Page(text)
    pictures = [attributes for tag, attributes in shown.tags if tag == "svg"]
    for given in pictures:
        assert given.get("aria-hidden") or (given.get("role") == "img" and given.get("aria-label"))
    assert [attributes["href"] for tag, attributes in shown.tags if tag == "a"] == [f"#{name}" for name, _ in sections]


@pytest.mark.slow
def test_of_several_repeats_a_cell_shows_mean_and_spread_and_how_often_it_was_selected(
    folders: dict[str, Path],
) -> None:
    rows = json.loads((folders["repeats"] / "results.json").read_text())["rows"]
    drawn: dict[str, str] = {}
    for line in text_lines(read_results(folders["repeats"])):
        drawn.setdefault(line[:26].strip(), line)  # the table comes first, the spread over folds after it
    for target in "ABC":
        for route in {tuple(row["route"]) for row in rows if row["method"] == "sequential" and row["target"] == target}:
            of_route = [row for row in rows if row["method"] == "sequential" and row["target"] == target]
            selected = [row for row in of_route if row["selected"] and tuple(row["route"]) == route]
            dices, ious = [row["dice"] for row in selected], [row["iou"] for row in selected]
            expected = f"{fmean(dices):.1f}±{stdev(dices):.1f} / {fmean(ious):.1f}"
            stars = sum(row["headline"] for row in selected)
            line = drawn[" → ".join(route[:-1]) + " →"]
            assert expected + (f" ★{stars}/3" if stars else "") in line
    for target in "ABC":
        dices = [row["dice"] for row in rows if row["headline"] and row["target"] == target]
        assert f"{fmean(dices):.1f}±{stdev(dices):.1f}" in drawn["Route by validation"]


@pytest.mark.slow
def test_beside_the_selected_fold_stands_the_spread_over_all_folds_and_repeats(folders: dict[str, Path]) -> None:
    for kind in ("three sites", "repeats", "validation"):
        results = json.loads((folders[kind] / "results.json").read_text())
        name = "validation_dice" if kind == "validation" else "dice"
        cells = [cell for line in page_of(folders[kind]).grids[0] for cell in line]
        lines = text_lines(read_results(folders[kind]))
        for method in ("baseline", "fedavg"):
            values = [row[name] for row in results["rows"] if row["method"] == method and row["target"] == "B"]
            assert len(values) == 2 * (3 if kind == "repeats" else 1)
            expected = f"{fmean(values):.1f} ± {stdev(values):.1f}"
            assert any(expected in cell for cell in cells)
            assert any(expected in line for line in lines)


def test_a_study_of_validation_patients_shows_theirs_and_no_test_figure(folders: dict[str, Path]) -> None:
    rows = json.loads((folders["validation"] / "results.json").read_text())["rows"]
    assert not any("dice" in row for row in rows)
    page = page_of(folders["validation"])
    row = next(row for row in rows if row["method"] == "fedavg" and row["target"] == "A" and row["selected"])
    line = next(line for line in page.grids[0] if line[0] == "FedAvg")
    assert line[1].startswith(f"{row['validation_dice']:.1f} / {row['validation_iou']:.1f}")
    assert "no test patient was looked at" in page.text
    for word in ("test Dice", "test patients", "held-out", "95 % interval"):
        assert word not in page.text.replace("no test patients", "")


def test_a_route_that_grew_is_named_in_its_cell(folders: dict[str, Path]) -> None:
    results = json.loads((folders["greedy"] / "results.json").read_text())
    line = next(line for line in page_of(folders["greedy"]).grids[0] if line[0] == "Growing route")
    said = next(line for line in text_lines(read_results(folders["greedy"])) if line.startswith("Routes found"))
    for target, cell in zip("ABC", line[1:], strict=True):
        for row in results["rows"]:
            if row["headline"] and row["target"] == target:
                assert " → ".join(row["route"]) in cell
    assert said.count(";") == 2
