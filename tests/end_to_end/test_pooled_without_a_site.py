"""All data but one site's, in one place: the plain loop over the other sites' patients, scored at the site unseen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from common.config.values import POOLED
from tests.end_to_end.plain_loop import Patient, PlainLoop, digest
from tests.support.hospitals import run_on_grid, small_study, write_hospitals, write_pooled

pytestmark = pytest.mark.usefixtures("one_thread")


class LoopWithout(PlainLoop):
    """A plain loop that trains on everybody's patients but those of one site, each standardised by its own site."""

    without = ""

    @property
    def others(self) -> list[str]:
        return [site for site in sorted(self.sites) if site != self.without]

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
        loop.without = target
        made = loop.fine_tune(POOLED, 0, loop.start())
        assert row["weights"] == digest(made.weights)
        assert pooled[row["weights"]]["losses"] == pytest.approx(made.losses, rel=1e-6)
        assert row["label"] == f"all data of the other sites, {target} unseen"
        assert row["contributed"] == [POOLED] and row["dice"] is not None and not row["headline"]
        # the other sites' validation patients are asked, each at its own site, and the target's test patients
        asked = [one for one in ledger if one["kind"] == "evaluate" and one["parents"] == [row["weights"]]]
        assert sorted(one["site"] for one in asked) == ["A", "B", "C"]
