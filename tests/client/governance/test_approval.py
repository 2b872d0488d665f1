"""A site runs what it approved, and nothing else."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from client.governance import audit_log
from client.governance.approval import LOG, approvals, approve, approved, leave, study_of
from client.governance.commitments import bind_stage, check_limits, check_routes_extend
from client.governance.simulation_mode import simulation_mode
from client.site_config import SiteConfig, load_site
from common.config.study import Study, study_toml
from common.plan import Choices, plan
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


def test_every_repeat_and_network_of_an_approved_study_is_approved(site: SiteConfig) -> None:
    study = small_study(repeats=2, models={"encoders": ("resnet18", "mobilenet_v2")})
    assert approve(site, study).study == study.digest
    assert len(study.variants) == 4
    for variant in study.variants:
        assert approved(site, variant.digest) == variant
    with pytest.raises(Refused):
        approved(site, small_study(seed=study.seed + 2).digest)


@pytest.mark.parametrize("state", ["never approved", "approved", "left"])
def test_a_simulation_makes_and_changes_nothing_that_a_coordinator_is_served_under(
    site: SiteConfig, state: str
) -> None:
    node = plan(GREEDY, dict.fromkeys(GREEDY.sites, (4, 4)), {}).nodes[0]
    if state != "never approved":
        record = approve(site, GREEDY, largest_elsewhere=500)
        bind_stage(site, GREEDY, node, "a" * 64)
        assert not refused(site, GREEDY, {"A": ("B",)})
        if state == "left":
            leave(site, record)
    standing = approvals(site)
    for _ in range(2):  # the second time it goes on
        with simulation_mode():
            approve(site, GREEDY)
            assert approved(site, GREEDY.digest)
            bind_stage(site, GREEDY, node, "b" * 64)
            assert not refused(site, GREEDY, {"A": ("C",)})
            check_limits(site, GREEDY, {"A": (1,), "B": (10**6,)})
    assert approvals(site) == standing
    (simulated,) = approvals(site, simulation=True)
    assert simulated.simulation and study_of(site, simulated) == GREEDY
    if state == "approved":
        assert approved(site, GREEDY.digest)
        with pytest.raises(Refused):
            check_limits(site, GREEDY, {"A": (1,), "B": (501,)})
        with pytest.raises(Refused):
            bind_stage(site, GREEDY, node, "b" * 64)
        assert refused(site, GREEDY, {"A": ("C",)})
    else:
        assert code_of(site, GREEDY.digest) == (Refusal.LEFT if state == "left" else Refusal.UNKNOWN_STUDY)
    actions = [line["action"] for line in audit_log.read(site.private() / LOG).lines]
    assert actions[-2:] == ["simulated", "simulated"]


def code_of(site: SiteConfig, digest: str) -> Refusal:
    with pytest.raises(Refused) as refusal:
        approved(site, digest)
    return refusal.value.refusal


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2},
        {"name": "studz"},
        {"about": "."},
        {"repeats": 2},
        {"training": {"epochs": 3}},
        {"training": {"leg_minutes": 31.0}},
        {"split": {"seed": 2}},
        {"methods": {"baseline": True}},
        {"preprocessing": {"minimum_mask_pixels": 201}},
    ],
)
def test_a_study_that_differs_in_anything_is_not_approved(site: SiteConfig, changes: dict[str, object]) -> None:
    study = small_study()
    approve(site, study)
    other = small_study(**changes)
    assert other.digest != study.digest
    assert code_of(site, other.digest) == Refusal.UNKNOWN_STUDY or other.digest in {
        variant.digest for variant in study.variants
    }
    assert approved(site, study.variants[0].digest)


def test_an_approval_whose_study_was_changed_by_one_byte_counts_for_nothing(site: SiteConfig) -> None:
    record = approve(site, small_study())
    (path,) = (site.private() / "approved").glob("*.toml")
    content = path.read_bytes()
    refusals = 0
    for place in range(0, len(content), 5):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        try:
            # A blank may have become another one: then it is the same study still, and never another.
            assert approved(site, record.variants[0]) == small_study()
        except Refused as refusal:
            refusals += refusal.refusal == Refusal.UNKNOWN_STUDY
    assert refusals > len(content) / 5 * 0.9
    path.write_bytes(content)
    assert approved(site, record.variants[0])
    path.unlink()
    assert code_of(site, record.variants[0]) == Refusal.UNKNOWN_STUDY


@pytest.mark.parametrize("content", ["", "{", "[]", '{"study": "../../etc"}', "\0"])
def test_an_approval_that_cannot_be_read_counts_for_nothing_and_stops_no_other(site: SiteConfig, content: str) -> None:
    record, other = approve(site, small_study()), approve(site, GREEDY)
    (site.private() / "approved" / f"{record.study}.json").write_text(content, encoding="utf-8")
    assert code_of(site, record.variants[0]) == Refusal.UNKNOWN_STUDY
    assert approvals(site) == [other]
    assert approved(site, other.variants[0])


def test_an_approval_says_who_and_when_and_is_its_owners_alone(site: SiteConfig) -> None:
    study = small_study(repeats=2)
    record = approve(site, study, largest_elsewhere=500)
    assert approvals(site) == [record]
    assert record.by and record.at.endswith("+00:00") and record.largest_elsewhere == 500
    assert study_of(site, record) == study
    path = site.private() / "approved" / f"{record.study}.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    left = leave(site, record)
    log = audit_log.read(site.private() / LOG)
    assert log.fault == ""
    assert [(line["action"], line["study"], line["by"]) for line in log.lines] == [
        ("approved", record.study, record.by),
        ("left", record.study, left.left_by),
    ]


def test_a_study_that_was_left_is_refused_until_it_is_approved_again(site: SiteConfig) -> None:
    study = small_study(repeats=2)
    record, other = approve(site, study), approve(site, GREEDY)
    leave(site, record)
    for variant in study.variants:
        assert code_of(site, variant.digest) == Refusal.LEFT
    assert approved(site, other.variants[0]), "another study is not touched"
    approve(site, study)
    for variant in study.variants:
        assert approved(site, variant.digest) == variant


def test_a_variant_of_two_studies_is_approved_as_long_as_one_of_them_is(site: SiteConfig) -> None:
    once, twice = approve(site, small_study(seed=1)), approve(site, small_study(seed=1, repeats=2))
    (shared,) = set(once.variants) & set(twice.variants)
    leave(site, once)
    assert approved(site, shared)
    leave(site, twice)
    assert code_of(site, shared) == Refusal.LEFT


def test_the_copy_is_the_study(site: SiteConfig) -> None:
    study = small_study(about="Ü → ß")
    approve(site, study)
    (path,) = (site.private() / "approved").glob("*.toml")
    assert path.read_text(encoding="utf-8") == study_toml(study)
