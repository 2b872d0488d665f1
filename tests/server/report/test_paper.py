"""The paper's figures beside ours, and the table of networks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from server.report import read_results, text_lines
from server.report.colours import SCALE
from server.report.networks import best_network
from server.report.paper import TABLE_2, TABLE_3
from tests.support.hospitals import small_study
from tests.support.pages import page_of, put
from tests.support.plausible import plausible

ENCODERS = ("efficientnet-b3", "resnet18")
ARCHITECTURES = ("UnetPlusPlus", "Unet", "DeepLabV3")


def table_2(folder: Path, **changes: Any) -> Path:
    study = small_study(
        sites=("A",),
        paper="table-2",
        split={"folds": 3},
        methods={"baseline": True, "scored_on": "validation"},
        **{"models": {"encoders": ENCODERS, "architectures": ARCHITECTURES}, **changes},
    )
    return put(folder / "results", plausible(study, folder / "run"))


def table_3(folder: Path, **changes: Any) -> Path:
    methods = {"baseline": True, "pooled": True, "sequential": {"routes": "all", "max_hops": 2}}
    study = small_study(**{"paper": "table-3", "methods": methods, **changes})
    return put(folder / "results", plausible(study, folder / "run"))


def test_table_ii_is_the_papers() -> None:
    """Against sums over the printed table, and what the paper's text says of it."""
    assert len(TABLE_2) == 28
    assert sum(mean for mean, _ in TABLE_2.values()) == pytest.approx(2461.55)
    assert sum(std for _, std in TABLE_2.values()) == pytest.approx(28.68)
    assert max(TABLE_2, key=TABLE_2.__getitem__) == ("efficientnet-b3", "UnetPlusPlus")
    assert TABLE_2["efficientnet-b3", "UnetPlusPlus"] == (89.27, 1.62)


def test_table_iii_is_the_papers() -> None:
    """Against sums over the printed columns, and the mean gains that the paper's text gives."""
    for target, dice, iou in (("A", 546.59, 509.04), ("B", 544.66, 504.60), ("C", 532.84, 488.85)):
        column = [value for (_, at), value in TABLE_3.items() if at == target]
        assert len(column) == 6
        assert [sum(values) for values in zip(*column, strict=True)] == pytest.approx([dice, iou])
    for target, index, gain in (("A", 0, 2.5), ("B", 0, 2.6), ("B", 1, 3.4), ("C", 1, 1.6)):
        one_hop = [
            value[index]
            for (way, at), value in TABLE_3.items()
            if at == target and len(way) == 1 and way != ("pooled",)
        ]
        assert len(one_hop) == 2
        assert fmean(one_hop) - TABLE_3[(), target][index] == pytest.approx(gain, abs=0.06)


def test_every_cell_of_table_iii_stands_beneath_ours(tmp_path: Path) -> None:
    folder = table_3(tmp_path)
    rows = json.loads((folder / "results.json").read_text())["rows"]
    grid = next(grid for grid in page_of(folder).grids if any("paper" in cell for line in grid for cell in line))
    lines = {line[0]: line[1:] for line in grid[1:]}
    assert list(lines) == ["A", "B", "C", "B → C", "C → B", "A → C", "C → A", "A → B", "B → A", "All data"]
    seen = 0
    for label, cells in lines.items():
        for target, cell in zip("ABC", cells, strict=True):
            sources = ["pooled"] if label == "All data" else label.split(" → ")
            if target in sources and label != target:
                assert cell == "–"
                continue
            method = "pooled" if label == "All data" else "baseline" if label == target else "sequential"
            route = [target] if label == target else sources if method == "pooled" else [*sources, target]
            (ours,) = [
                row
                for row in rows
                if row["selected"] and (row["method"], row["target"], row["route"]) == (method, target, route)
            ]
            dice, iou = TABLE_3[() if label == target else tuple(sources), target]
            assert cell == f"{ours['dice']:.1f} / {ours['iou']:.1f}paper {dice:.2f} / {iou:.2f}"
            seen += 1
    assert seen == 18


def test_the_order_of_the_methods_is_counted_in_the_paper_and_here(tmp_path: Path) -> None:
    folder = table_3(tmp_path)
    rows = [row for row in json.loads((folder / "results.json").read_text())["rows"] if row["selected"]]
    alone = {row["target"]: row["dice"] for row in rows if row["method"] == "baseline"}
    above = sum(row["dice"] > alone[row["target"]] for row in rows if len(row["route"]) == 2)
    lines = {line[0]: line[1:] for grid in page_of(folder).grids for line in grid}
    assert lines["a route of one hop above the target alone"] == ["6 of 6", f"{above} of 6"]
    # the paper: every route of one hop above all data but B → A
    assert lines["a route of one hop above all data"][0] == "5 of 6"


@pytest.mark.slow
def test_on_synthetic_patients_the_page_says_that_the_papers_are_real(tmp_path: Path) -> None:
    said = "The paper’s figures are of real patients, ours of synthetic ones."
    for make in (table_2, table_3):
        assert said in page_of(make(tmp_path / f"{make.__name__}-synthetic", synthetic=True)).text
        assert said not in page_of(make(tmp_path / make.__name__)).text


def test_a_study_that_is_not_the_papers_shows_none_of_its_figures(tmp_path: Path) -> None:
    page = page_of(table_3(tmp_path, paper=""))
    assert "Beside the paper" not in page.text
    assert not any("89.09" in cell for grid in page.grids for line in grid for cell in line)


def test_networks_stand_as_in_table_ii_with_mean_spread_the_papers_and_the_best_in_bold(tmp_path: Path) -> None:
    folder = table_2(tmp_path)
    results = json.loads((folder / "results.json").read_text())
    text = page_of(folder)
    grid = text.grids[0]
    assert grid[0][1:] == ["UNet", "UNet++", "DeepLabV3"]
    assert [line[0] for line in grid[1:]] == ["EfficientNetB3", "ResNet18"]
    means = {}
    for line, encoder in zip(grid[1:], ENCODERS, strict=True):
        for cell, architecture in zip(line[1:], ("Unet", "UnetPlusPlus", "DeepLabV3"), strict=True):
            name = f"{architecture} {encoder}"
            values = [row["validation_dice"] for row in results["rows"] if row["model"] == name]
            assert len(values) == 3
            means[name] = fmean(values)
            paper = "paper {:.2f} ± {:.2f}".format(*TABLE_2[encoder, architecture])
            assert cell == f"{fmean(values):.1f} ± {stdev(values):.1f}{paper}"
    best = max(means, key=means.__getitem__)
    assert best_network(read_results(folder)) == best
    html = (folder / "report.html").read_text(encoding="utf-8")
    bold = re.findall(r'<td class="best"[^>]*>([\d.]+)', html)
    assert bold == [f"{means[best]:.1f}"]
    plain = text_lines(read_results(folder))
    assert sum("★" in line for line in plain if "±" in line and "paper" not in line and "Dice" not in line) == 1


def test_the_best_network_is_the_bluest_and_the_worst_the_palest(tmp_path: Path) -> None:
    folder = table_2(tmp_path)
    page_of(folder)
    html = (
        (folder / "report.html")
        .read_text(encoding="utf-8")
        .split('class="comparison networks"')[1]
        .split("</table>")[0]
    )
    cells = [(float(mean), colour) for colour, mean in re.findall(r'background:#(\w{6})">([\d.]+)', html)]
    hexes = ["".join(f"{part:02x}" for part in colour) for colour in (SCALE[0], SCALE[-1])]
    assert [min(cells)[1], max(cells)[1]] == hexes


def test_networks_with_and_without_imagenet_stand_in_lines_that_name_their_start(tmp_path: Path) -> None:
    networks = {"encoders": ("resnet18",), "encoder_weights": ("imagenet", "none")}
    folder = table_2(tmp_path, models=networks)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    page = page_of(folder)
    assert "an encoder with its first weights a row" in page.text
    lines = {line[0]: line[1] for line in page.grids[0][1:]}
    for start, words in (("imagenet", "from ImageNet"), ("none", "without ImageNet")):
        values = [row["validation_dice"] for row in results["rows"] if row["model"] == f"Unet resnet18 from {start}"]
        assert len(values) == 3
        paper = "paper {:.2f} ± {:.2f}".format(*TABLE_2["resnet18", "Unet"]) if start == "imagenet" else ""
        (cell,) = (cell for name, cell in lines.items() if name.endswith(words))
        assert cell == f"{fmean(values):.1f} ± {stdev(values):.1f}{paper}"
    plain = text_lines(read_results(folder))
    assert any("from ImageNet" in line for line in plain) and any("without ImageNet" in line for line in plain)


@pytest.mark.slow
def test_networks_can_be_compared_outside_of_the_paper(tmp_path: Path) -> None:
    study = small_study(
        sites=("A", "B"),
        repeats=2,
        methods={
            "baseline": True,
            "sequential": {"routes": "all"},
            "federated": ({"strategy": "fedavg", "rounds": 1},),
        },
        models={"encoders": ("mobilenet_v2", "resnet18")},
    )
    folder = put(tmp_path / "results", plausible(study, tmp_path / "run"))
    page = page_of(folder)
    best = best_network(read_results(folder)).split(" ")[1]
    name = {"mobilenet_v2": "MobileNetV2", "resnet18": "ResNet18"}[best]
    assert f"The comparison: UNet, {name}" in page.text
    assert "The other networks" in page.text
    assert "paper 8" not in page.text
