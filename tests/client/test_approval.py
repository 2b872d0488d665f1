"""A site runs what it approved, and growing routes grow in one way only."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.approval import approve, approved, hold_to
from client.site import SiteConfig, load_site
from common.messages import Refusal, Refused
from common.plan import Choices
from common.study import Study
from tests.hospitals import small_study, write_site


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    (tmp_path / "images").mkdir()
    return load_site(write_site(tmp_path, "A"))


GREEDY = small_study(methods={"sequential": {"routes": "greedy"}})


def refused(site: SiteConfig, study: Study, choices: Choices) -> bool:
    try:
        hold_to(site, study, choices)
    except Refused as refusal:
        return refusal.code == Refusal.ANSWERED
    return False


def test_every_repeat_and_network_of_an_approved_study_is_approved(site: SiteConfig) -> None:
    study = small_study(repeats=2, models={"encoders": ("resnet18", "mobilenet_v2")})
    assert approve(site, study).study == study.digest
    assert len(study.variants) == 4
    for variant in study.variants:
        assert approved(site, variant.digest) == variant
    with pytest.raises(Refused):
        approved(site, small_study(seed=study.seed + 2).digest)


def test_hops_are_added_and_never_taken_back(site: SiteConfig) -> None:
    approve(site, GREEDY)
    for choices in ({}, {"A": ("B",)}, {"A": ("B",), "B": ("C",)}, {"A": ("B", "C", "A"), "B": ("C", "B")}):
        assert not refused(site, GREEDY, choices)
    # An order that was under way for long may know less than a later one.
    for choices in ({}, {"A": ("B",)}, {"B": ("C",)}):
        assert not refused(site, GREEDY, choices)
    for choices in ({"A": ("C",)}, {"A": ("B", "A")}, {"B": ("A",)}, {"A": ("B", "C"), "B": ("A",)}):
        assert refused(site, GREEDY, choices)
    # A refusal changes nothing.
    assert not refused(site, GREEDY, {"A": ("B", "C", "A"), "C": ("A",)})


def test_hops_of_one_study_are_nothing_to_another(site: SiteConfig) -> None:
    assert not refused(site, GREEDY, {"A": ("B",)})
    assert not refused(site, small_study(seed=9, methods={"sequential": {"routes": "greedy"}}), {"A": ("C",)})


def test_approving_again_lets_a_route_grow_anew(site: SiteConfig) -> None:
    approve(site, GREEDY)
    assert not refused(site, GREEDY, {"A": ("B",)})
    assert refused(site, GREEDY, {"A": ("C",)})
    approve(site, GREEDY)
    assert not refused(site, GREEDY, {"A": ("C",)})
