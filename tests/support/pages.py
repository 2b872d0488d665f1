"""Results to make pages of, and pages read as a browser reads them."""

from __future__ import annotations

import hashlib
import json
import random
import re
from html.parser import HTMLParser
from itertools import permutations
from pathlib import Path
from typing import Any

from common.statistics.intervals import case_interval
from server.report import write_report


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
        slices = {case: 9 + 3 * int(case) % 8 for case in scores}  # the expert's, whatever the method
        dice = sum(scores[case] * slices[case] for case in scores) / sum(slices.values())
        rows.append({
            "method": method, "label": " → ".join(route) or method, "route": route, "target": target,
            "fold": fold,
            "selected": fold == folds - 1, "headline": False,
            "validation_dice": round(mean + draw.gauss(0, 1), 3), "dice": round(dice, 3),
            "iou": round(dice - 6.5, 3), "dice_volume": round(dice - 1, 3), "hd95_mm": None,
            "ci95": case_interval(scores, slices, within=(0.0, 100.0)) if scores_leave else None,
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
        routes = [entry for entry in rows if entry["selected"] and entry["method"] == "sequential"
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
