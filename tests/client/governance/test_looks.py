"""Every scoring on test patients is counted at the site, over all studies, whatever happens to a study's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.governance.looks import LOG, Looks, looks, note
from client.site_config import SiteConfig, load_site
from tests.support.hospitals import write_site


@pytest.fixture
def site(tmp_path: Path) -> SiteConfig:
    return load_site(write_site(tmp_path, "A"))


def test_a_model_counts_once_in_a_study_and_again_in_another(site: SiteConfig) -> None:
    assert looks(site) == Looks(0, 0)
    for study, key in (("a", "1"), ("a", "2"), ("a", "1"), ("b", "1")):
        note(site, study * 64, key * 64)
    assert looks(site) == Looks(3, 2)


def test_lines_that_were_damaged_do_not_hide_the_others(site: SiteConfig) -> None:
    note(site, "a" * 64, "1" * 64)
    path = site.private() / LOG
    path.write_bytes(path.read_bytes() + b"{damaged\n")
    note(site, "a" * 64, "2" * 64)
    assert looks(site).models == 2
