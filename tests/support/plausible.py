"""Results as the real scheduler writes them, of sites whose figures are drawn instead of trained for.

A site's Dice rises with every epoch there and sinks a little with every epoch elsewhere; a patient is harder or
easier than others whatever the method. So routes, averages and folds differ in the way that a report has to show.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from common.config.study import Study
from common.digest import digest_of
from common.model.weights import Weights, serialised
from common.plan import Plan, batches_per_epoch, plan
from common.plan.graph import Average, Best, Completed, Ensemble, Evaluate, FineTune, Node
from common.protocol.messages import (
    Description,
    EvaluateOrder,
    EvaluateReply,
    FineTuneOrder,
    FineTuneReply,
    WireMessage,
)
from common.seeds import seed_of
from server.results.rows import results_of, write_json
from server.results.schema import dump
from tests.support.fake_sites import Answer, FakeGrid, go, make_quick

PATIENTS = {"A": 30, "B": 30, "C": 19}
"""As in the paper."""


class PlausibleGrid(FakeGrid):
    """Sites with test patients of their own, numbered alike in every repeat."""

    def __init__(self, study: Study, patients: dict[str, int], *, scores_leave: bool = True) -> None:
        super().__init__(study)
        self.patients, self.scores_leave = {**patients, "pooled": sum(patients.values())}, scores_leave
        if study.methods.pooled:
            self.sites[len(self.sites) + 1] = "pooled"

    def _slices(self, site: str) -> tuple[int, ...]:
        return tuple(10 * self.patients[site] + fold for fold in range(self.study.split.folds))

    def planned(self, choices: str) -> Plan:
        if choices not in self._plans:
            census = {site: self._slices(site) for site in self.patients}
            hops = {target: tuple(selected) for target, selected in json.loads(choices).items()}
            self._plans[choices] = plan(self.study, census, hops)
        return self._plans[choices]

    @property
    def _zones(self) -> bool:
        """Whether the study is of the zones, which all sites but C have drawn."""
        return bool(self.study.model.segments.zones)

    @property
    def _turn(self) -> tuple[int, ...]:
        """The rotation, whose patients differ from those of the others."""
        return () if self.study.split.rotation is None else (self.study.split.rotation,)

    def _held_out(self, site: str) -> list[int]:
        """The test patients of this repeat or rotation, by the numbers that stay the same in all."""
        everybody = range(1, self.patients[site] + 1)
        part = self.study.split
        draw = random.Random(seed_of(part.seed, site))
        if part.rotation is not None:
            shuffled = draw.sample(everybody, len(everybody))
            return sorted(shuffled[part.rotation :: part.rotations])
        return sorted(draw.sample(everybody, math.floor(self.patients[site] * part.test_fraction + 0.5)))

    def describe(self, site: str) -> Description:
        folds, test = self.study.split.folds, self._held_out(site)
        rest = self.patients[site] - len(test)
        validation = tuple(rest // folds + (k < rest % folds) for k in range(folds))
        return (
            super()
            .describe("A")
            .model_copy(
                update={
                    "site": site,
                    "patients_found": self.patients[site],
                    "prepared": self.patients[site],
                    "patients": self.patients[site],
                    "test_patients": len(test),
                    "test_slices": sum(slices_of(site, case) for case in test),
                    "slices": 13 * self.patients[site],
                    "train_slices": self._slices(site),
                    "below": 3,
                    "cut_patients": int(site == "B"),
                    "ceiling": 0.97,
                    "zoned_patients": (0 if site == "C" else self.patients[site] - 1) if self._zones else None,
                    "validation_patients": validation,
                    "train_patients": tuple(rest - number for number in validation),
                    "fingerprint": f"{seed_of(site, self.study.split.seed):064x}",
                }
            )
        )

    def train(self, node: FineTune, order: WireMessage, weights: Weights) -> Answer:
        assert isinstance(order, FineTuneOrder)
        weights = {**weights, **self.kept[node.site].get(order.own, {})}
        moved = {
            "count": weights["count"] + node.trains,
            "layer": weights["layer"] / 2 + seed_of(node.site, node.fold, str(node.schedule)) / 2**63,
        }
        leaving, own = self.divided(node, moved)
        self.held[node.site][order.key] = leaving
        epochs, slices = node.schedule.epochs, self._slices(node.site)[node.fold]
        digest = digest_of(serialised(moved))
        noise = random.Random(seed_of(digest, node.fold, "epochs", *self._turn))
        network = hardness(self.study.model.architecture, 0) + hardness(self.study.model.encoder, 0)
        start, end = skill(node.parent, node.site) + network, skill(node, node.site) + network
        dices = tuple(
            min(1.0, max(0.0, start + (end - start) * (1 - 0.4 ** (k + 1)) + noise.gauss(0, 0.004)))
            for k in range(epochs)
        )
        best = max(range(epochs), key=lambda k: dices[k], default=0)
        kept = dices[best] if epochs else min(1.0, max(0.0, end + noise.gauss(0, 0.004)))
        cases = self._validation(node, kept)
        reply = FineTuneReply(
            study=order.study,
            key=order.key,
            state="done",
            epoch=epochs,
            losses=tuple(1 - value for value in dices),
            learning_rates=(1e-3,) * epochs,
            dices=dices,
            kept_epoch=best + 1 if epochs and node.schedule.keep == "best" else epochs,
            gradient_steps=epochs * batches_per_epoch(slices, self.study.training.batch),
            train_slices=slices,
            train_patients=4,
            weights=digest_of(serialised(leaving)) if leaving else "",
            own=own,
            validation_dice=kept,
            validation_iou=kept / (2 - kept),
            # now and then another order than that of the slices, or nobody would miss who selects by which
            validation_dice_volume=max(0.0, kept - 0.08 * noise.random()),
            validation_patients=3,
            **(cases if self.scores_leave and len(cases["case_numbers"]) else {}),
        )
        return reply, leaving or None

    def _validation(self, node: FineTune, mean: float) -> dict[str, Any]:
        """Scores of the fold's validation patients, about a mean."""
        held = self._held_out(node.site)
        rest = [case for case in range(1, self.patients[node.site] + 1) if case not in held]
        numbers = rest[node.fold :: self.study.split.folds]
        noise = random.Random(seed_of(str(node), "cases"))
        around = [hardness(node.site, case) + noise.gauss(0, 0.01) for case in numbers]
        slices = [slices_of(node.site, case) for case in numbers]
        middle = sum(a * s for a, s in zip(around, slices, strict=True)) / max(sum(slices), 1)
        dices = tuple(min(1.0, max(0.0, mean + value - middle)) for value in around)
        return {
            "case_numbers": tuple(numbers),
            "case_slices": tuple(slices),
            "case_dices": dices,
            "case_ious": tuple(dice / (2 - dice) for dice in dices),
            "case_volume_dices": dices,
        }

    def evaluate(self, node: Any, order: WireMessage) -> Answer:
        assert isinstance(node, Evaluate) and isinstance(order, EvaluateOrder)
        cases = self._held_out(node.site)
        draw = random.Random(seed_of(order.weights, node.site, node.split))
        level = skill(node.weights, node.site) + draw.gauss(0, 0.004)
        dices = [min(0.99, max(0.0, level + hardness(node.site, case) + draw.gauss(0, 0.012))) for case in cases]
        slices = [slices_of(node.site, case) for case in cases]
        volumes = [max(0.0, dice - 0.01 - draw.random() / 50) for dice in dices]
        mean = sum(d * s for d, s in zip(dices, slices, strict=True)) / sum(slices)
        test = node.split == "test"
        named = test and self.scores_leave
        reply = EvaluateReply(
            study=order.study,
            key=order.key,
            state="done",
            dice=mean,
            iou=mean / (2 - mean) - 0.005,
            dice_volume=sum(volumes) / len(volumes),
            false_slices=len(cases) if test else 0,
            empty_slices=4 * len(cases),
            patients=len(cases),
            slices=sum(slices),
            hd95_mm=40 * (1 - mean) if test else 0.0,
            assd_mm=9 * (1 - mean) if test else 0.0,
            surface_patients=len(cases) if test else 0,
            **(gland_of(mean, len(cases), draw) if test else {}),
            **(zones_of(mean, len(cases) if test and node.site != "C" else 0) if self._zones else {}),
            case_numbers=tuple(cases) if named else (),
            case_slices=tuple(slices) if named else (),
            case_dices=tuple(dices) if named else (),
            case_ious=tuple(d / (2 - d) for d in dices) if named else (),
            case_volume_dices=tuple(volumes) if named else (),
        )
        return reply, None


def gland_of(mean: float, patients: int, draw: random.Random) -> dict[str, Any]:
    """Apex and base are harder than the middle, and a poor model draws too little."""
    error = 30 * (1 - mean) * draw.uniform(0.5, 1)
    return {
        "volume_error_ml": -error,
        "absolute_volume_error_ml": error + draw.random(),
        "volume_patients": patients,
        "dice_apex": mean * draw.uniform(0.7, 0.9),
        "dice_middle": min(1.0, mean * draw.uniform(0.99, 1.05)),
        "dice_base": mean * draw.uniform(0.75, 0.95),
        "thirds_patients": patients,
        "calibration_error": (1 - mean) * draw.uniform(0.2, 0.5),
        "calibration_patients": patients,
    }


def zones_of(mean: float, patients: int) -> dict[str, Any]:
    """The peripheral zone is thin, and harder than the gland."""
    shares = (0.75, 0.95) if patients else (0.0, 0.0)
    return {"dice_pz": shares[0] * mean, "dice_cg": shares[1] * mean, "zones_patients": patients}


def slices_of(site: str, case: int) -> int:
    return 9 + seed_of(site, case, "slices") % 9


def hardness(site: str, case: int) -> float:
    return random.Random(seed_of(site, case)).gauss(0, 0.02)


def skill(node: Node, site: str) -> float:
    """The Dice that weights have at a site, from the epochs that they have seen there and elsewhere."""
    own, other, since = 0.0, 0.0, 0.0
    for place, epochs in _visits(node):
        if place in (site, "pooled"):
            own, since = own + epochs * (0.5 if place == "pooled" else 1), 0.0
            other += epochs * 0.5 * (place == "pooled")
        else:
            other, since = other + epochs, since + epochs
    return (
        0.2 + 0.64 * (1 - math.exp(-own / 2.5)) + 0.09 * (1 - math.exp(-other / 4)) - 0.05 * (1 - math.exp(-since / 3))
    )


def _visits(node: Node) -> list[tuple[str, float]]:
    """Where weights have trained, and for how many epochs, first one first."""
    found: list[tuple[str, float]] = []
    while True:
        if isinstance(node, Best):
            node = node.candidates[len(node.candidates) // 2]
        elif isinstance(node, Completed):
            node = node.weights
        elif isinstance(node, Ensemble):
            node = node.members[0]
        elif isinstance(node, FineTune):
            if node.trains:
                found.append((node.site, float(node.schedule.epochs)))
            node = node.parent
        elif isinstance(node, Average):
            # an average keeps less of each part than the part itself
            found += [(part.site, 0.6 * part.schedule.epochs) for part in node.parts]
            node = node.parts[0].parent
        else:
            return found[::-1]


def plausible(
    study: Study, folder: Path, *, patients: dict[str, int] | None = None, scores_leave: bool = True
) -> dict[str, Any]:
    """What results.json would hold of a study."""
    everybody = patients or PATIENTS
    here = {site: everybody[site] for site in study.sites}
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        runs = [
            go(PlausibleGrid(variant, here, scores_leave=scores_leave), folder / str(number))
            for number, variant in enumerate(study.variants)
        ]
        found = dump(results_of(study, runs))
    return json.loads(write_json(found))
