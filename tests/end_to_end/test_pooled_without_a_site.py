"""Data of some sites in one place: the plain loop over their patients, scored within the union and outside."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from common.config.values import POOLED
from server.report.table import comparison
from server.results.reading import read_results
from tests.end_to_end.plain_loop import Patient, PlainLoop, digest
from tests.support.hospitals import run_on_grid, small_study, write_hospitals, write_pooled

pytestmark = pytest.mark.usefixtures("one_thread")


class LoopWithout(PlainLoop):
    """A plain loop that trains on everybody's patients but those of some sites, each standardised by its own site."""

    without: tuple[str, ...] = ()

    @property
    def others(self) -> list[str]:
        return [site for site in sorted(self.sites) if site not in self.without]

    def members(self, site: str, fold: int) -> tuple[list[Patient], list[Patient]]:
        parts = [super(LoopWithout, self).members(other, fold) for other in self.others]
        return [one for train, _ in parts for one in train], [one for _, validation in parts for one in validation]

    def standardised(self, site: str, fold: int) -> tuple[torch.Tensor, torch.Tensor]:
        loop = PlainLoop(self.study, self.sites)
        parts = [loop.standardised(other, fold) for other in self.others]
        return torch.cat([train for train, _ in parts]), torch.cat([validation for _, validation in parts])


@pytest.mark.slow
def test_a_pool_without_the_target_is_the_plain_loop_over_the_others(tmp_path: Path) -> None:
    sites = write_hospitals(tmp_path / "hospitals", {"A": 6, "B": 7, "C": 6}, slices=7)
    study = small_study(
        split={"use_folds": 1},
        training={"precision": "float32"},
        methods={"pooled": True, "leave_out": True},
    )
    results, _ = run_on_grid(study, sites | {POOLED: write_pooled(tmp_path, sites)}, tmp_path / "out")
    ledger = [json.loads(path.read_text(encoding="utf-8")) for path in (tmp_path / "out" / "ledger").glob("*.json")]
    pooled = {one["weights"]: one for one in ledger if one["kind"] == "fine-tune" and one["site"] == POOLED}
    assert len(pooled) == 4  # everybody, and everybody but each
    rows = {row["target"]: row for row in results["rows"] if row["method"] == "pooled-unseen"}
    assert rows.keys() == {"A", "B", "C"}
    loop = LoopWithout(study, sites)
    for target, row in rows.items():
        loop.without = (target,)
        made = loop.fine_tune(POOLED, 0, loop.start())
        assert row["weights"] == digest(made.weights)
        assert pooled[row["weights"]]["losses"] == pytest.approx(made.losses, rel=1e-6)
        assert row["label"] == f"all data of the other sites, {target} unseen"
        assert row["contributed"] == [POOLED] and row["dice"] is not None and not row["headline"]
        # the other sites' validation patients are asked, each at its own site, and the target's test patients
        asked = [one for one in ledger if one["kind"] == "evaluate" and one["parents"] == [row["weights"]]]
        assert sorted(one["site"] for one in asked) == ["A", "B", "C"]


@pytest.mark.slow
def test_every_union_of_sites_is_the_plain_loop_over_them_and_is_tested_everywhere(tmp_path: Path) -> None:
    sites = write_hospitals(tmp_path / "hospitals", dict.fromkeys("ABCD", 6), slices=5)
    study = small_study(
        sites=tuple("ABCD"),
        split={"use_folds": 1},
        training={"precision": "float32", "epochs": 1},
        methods={"pooled": True, "pooled_subsets": True, "baseline": True},
    )
    results, _ = run_on_grid(study, sites | {POOLED: write_pooled(tmp_path, sites)}, tmp_path / "out")
    unions = [union for size in (2, 3) for union in itertools.combinations("ABCD", size)]
    found = {(tuple(row["route"]), row["target"]): row for row in results["rows"] if "subset" in row["method"]}
    assert set(found) == {(union, target) for union in unions for target in "ABCD"}
    loop = LoopWithout(study, sites)
    for union in unions:
        loop.without = tuple(site for site in "ABCD" if site not in union)
        made = digest(loop.fine_tune(POOLED, 0, loop.start()).weights)
        for target in "ABCD":
            row = found[union, target]
            assert row["weights"] == made and row["dice"] is not None and not row["headline"]
            assert row["method"] == ("pooled-subset" if target in union else "pooled-subset-unseen")
            words = f"{', '.join(union[:-1])} and {union[-1]}"
            of_target = f"All data of {words}" if target in union else f"all data of {words}, {target} unseen"
            assert row["label"] == of_target
    # all data, and each union, once for all targets
    assert sum(stage["site"] == POOLED for stage in results["stages"]) == 1 + len(unions)
    table = comparison(read_results(tmp_path / "out"))
    filled = {
        line.label: "".join(t for t, cell in zip("ABCD", line.cells, strict=True) if cell) for line in table.lines
    }
    assert filled["All data of A and C"] == "AC" and filled["All data of A and C, target unseen"] == "BD"
    assert filled["All data of A, B and D"] == "ABD" and filled["All data of A, B and D, target unseen"] == "C"
    assert ("data of some sites", "every union of two sites or more") in {tuple(one[:2]) for one in results["choices"]}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "All data of B and C, target unseen" in page
