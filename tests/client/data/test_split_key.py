"""A split by the site's secret: always the same at the site, another elsewhere, the same wherever it is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.data.survey import survey
from client.preprocessing.cohort import gather
from client.preprocessing.pipeline import prepare
from client.site_config import SiteConfig, load_site
from client.stages.describe import describe_patients
from common.config.study import Study
from deploy.site.template import site_template
from tests.support.hospitals import small_study, write_hospitals, write_pooled, write_site

STUDY: Study = small_study(sites=("A", "B"))


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hospitals")
    return {
        name: write_site(path.parent, name, split_key="site")
        for name, path in write_hospitals(folder, {"A": 12, "B": 11}, slices=6).items()
    }


def held_out(site: SiteConfig) -> tuple[str, ...]:
    return gather(prepare(site, STUDY.preprocessing).records, site, STUDY.split).split.test


def test_two_secrets_divide_differently_and_one_always_alike(hospitals: dict[str, Path], tmp_path: Path) -> None:
    site = load_site(hospitals["A"])
    found = {held_out(site.model_copy(update={"folder": tmp_path / str(k)})) for k in range(4)}
    assert len(found) > 1, "by chance all alike once in three hundred thousand times"
    assert held_out(site) == held_out(load_site(hospitals["A"]))


def test_what_is_counted_before_a_study_is_what_the_study_has(hospitals: dict[str, Path]) -> None:
    site = load_site(hospitals["A"])
    counted, (described, behind) = survey(site, STUDY), describe_patients(site, STUDY)
    assert (counted.test_slices, counted.train_slices) == (described.test_slices, described.train_slices)
    assert {len(one) for one in behind.sets} == {12, counted.test_patients, *counted.train_patients}


def test_pooled_data_are_divided_as_their_members(hospitals: dict[str, Path], tmp_path: Path) -> None:
    pooled = load_site(write_pooled(tmp_path, hospitals))
    members = {f"{name}/{patient}" for name, path in hospitals.items() for patient in held_out(load_site(path))}
    assert set(held_out(pooled)) == members


def test_the_key_is_part_of_the_fingerprint_and_a_public_key_is_not(hospitals: dict[str, Path]) -> None:
    site = load_site(hospitals["A"])
    secret, _ = describe_patients(site, STUDY)
    public, _ = describe_patients(site.model_copy(update={"split_key": "public"}), STUDY)
    assert secret.fingerprint != public.fingerprint


def test_a_new_hospital_has_a_secret_and_a_floor(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(site_template("A"), encoding="utf-8")
    site = load_site(tmp_path / "site.toml")
    assert site.split_key == "site" and site.scoring_floor == 0.05
