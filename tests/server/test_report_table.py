"""The comparison's table, on the page and in a terminal."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from common.errors import RelayError
from server.report import comparison, read_results, terminal_table, text_lines, write_report
from tests.server.pages import example, page_of, put, the


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


def test_every_cell_shows_the_chosen_fold_of_its_route_and_target_and_nothing_else(tmp_path: Path) -> None:
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
            row = the(results, method="sequential", route=route, chosen=True)
            assert cell.startswith(f"{row['dice']:.1f} / {row['iou']:.1f}")
            assert ("★" in cell) == row["headline"]
    for label, method in (("Target alone", "baseline"), ("FedAvg", "fedavg"), ("All data", "pooled")):
        for target, cell in zip("ABC", lines[label], strict=True):
            row = the(results, method=method, target=target, chosen=True)
            assert cell.startswith(f"{row['dice']:.1f} / {row['iou']:.1f}")


def test_one_route_a_target_is_the_headline(tmp_path: Path) -> None:
    results = read_results(put(tmp_path, example()))
    for column in range(3):
        cells = [cell for _, cell in comparison(results).column(column)]
        assert sum("★" in cell.marks for cell in cells) == 1


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
    expected = "† not every hospital took part: B → C → A at A without B; FedAvg at A without B."
    assert sum("†" in line for line in lines) == 3
    assert expected in lines
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
