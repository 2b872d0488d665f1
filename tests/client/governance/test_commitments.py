"""An approved study is run in one way only: one census, routes that only grow, limits that hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.governance.approval import answered_folder, approve
from client.governance.commitments import bind_stage, check_limits, check_routes_extend, pin_census
from client.governance.disclosure import Disclosure
from client.site_config import SiteConfig, load_site
from common.config.study import Study
from common.plan import Choices
from common.plan.graph import Evaluate, Start
from common.protocol.refusals import Refusal, Refused
from tests.support.hospitals import small_study, write_site


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    (tmp_path / "images").mkdir()
    return load_site(write_site(tmp_path, "A"))


GREEDY = small_study(methods={"sequential": {"routes": "greedy"}})


def refused(site: SiteConfig, study: Study, choices: Choices) -> bool:
    try:
        check_routes_extend(site, study, choices)
    except Refused as refusal:
        return refusal.refusal == Refusal.ANSWERED
    return False


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


def test_a_site_elsewhere_may_claim_as_many_slices_as_were_approved(site: SiteConfig) -> None:
    study = small_study()
    approve(site, study, largest_elsewhere=100)
    digest = study.variants[0]
    check_limits(site, digest, {"A": (10**6, 10**6), "B": (100, 99), "C": (1, 1)})  # its own are compared elsewhere
    for count in (101, 10**6, 10**300):
        with pytest.raises(Refused) as refusal:
            check_limits(site, digest, {"A": (10, 10), "B": (1, 1), "C": (1, count)})
        assert refusal.value.refusal == Refusal.BEYOND_APPROVAL
    approve(site, study, largest_elsewhere=101)
    check_limits(site, digest, {"A": (10, 10), "B": (1, 1), "C": (1, 101)})


def test_a_study_is_planned_with_one_census_until_it_is_approved_again(site: SiteConfig) -> None:
    """Else a coordinator would have a longer and a longer baseline trained, one after the other."""
    study = small_study()
    approve(site, study)
    first = {"A": (10, 10), "B": (20, 20), "C": (30, 30)}
    pin_census(site, study, first)
    pin_census(site, study, dict(reversed(first.items())))
    for census in (first | {"C": (30, 31)}, first | {"B": (20,)}):
        with pytest.raises(Refused) as refusal:
            pin_census(site, study, census)
        assert refusal.value.refusal == Refusal.ANSWERED
    approve(site, study)
    pin_census(site, study, first | {"C": (30, 31)})


def one_scoring() -> Disclosure:
    """A disclosure of one scoring and of nothing else."""
    needed = {name: 0 for name, field in Disclosure.model_fields.items() if field.is_required()}
    return Disclosure.model_validate({**needed, "exact": True, "of_epochs": (), "validations": 1})


def test_a_scoring_that_was_cut_off_after_it_was_counted_is_answered(site: SiteConfig) -> None:
    """The process ends between the two files of the last scoring of the approval; the order comes again."""
    study = small_study()
    approve(site, study, disclosure=one_scoring())
    plain = study.variants[0]
    last, other = (Evaluate("A", fold, "validation", Start()) for fold in (0, 1))
    bind_stage(site, plain, last, "a" * 64)
    (answered_folder(site, plain.digest) / last.id).unlink()
    bind_stage(site, plain, last, "a" * 64)
    assert (answered_folder(site, plain.digest) / last.id).read_bytes() == b"a" * 64
    with pytest.raises(Refused) as refusal:
        bind_stage(site, plain, other, "a" * 64)
    assert refusal.value.refusal == Refusal.SCORINGS_SPENT
