"""A site's prepared patients with their split into training, validation and test patients."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from client.data.site_key import split_key
from client.data.splits import Split, split, unite
from client.preprocessing.pipeline import Record
from client.site_config import SiteConfig
from common.config.study import SplitConfig


@dataclass(frozen=True)
class Cohort:
    """Prepared patients by name, and the split of exactly these patients."""

    records: dict[str, Record]
    split: Split

    def train(self, fold: int, share: float | None = None) -> list[Record]:
        """Return the training patients of a fold, or a share of them; see `Split.train`."""
        return [self.records[name] for name in self.split.train(fold, share)]

    def validation(self, fold: int) -> list[Record]:
        """Return the validation patients of a fold."""
        return [self.records[name] for name in self.split.validation[fold]]

    def test(self) -> list[Record]:
        """Return the test patients."""
        return [self.records[name] for name in self.split.test]


def persons_of(cohort: Cohort) -> dict[str, str]:
    """Return the person of each patient who is one of several visits; the patients of pooled data by site and name."""
    return {name: f"{record.site}/{record.person}" for name, record in cohort.records.items() if record.person}


def gather(records: Iterable[Record], site: SiteConfig, part: SplitConfig) -> Cohort:
    """Return the cohort of a site; the pooled site unites its members' own splits.

    Args:
        records: the site's prepared patients.
        site: the site.
        part: the study's settings for splits.

    Raises:
        RelayError: a site has too few patients for its folds.
    """
    by_name = {record.patient: record for record in records}

    def split_of(plain: SiteConfig, persons: dict[str, str]) -> Split:
        return split(persons, part, site=plain.name, persons=persons, key=split_key(plain))

    if not site.pooled:
        return Cohort(by_name, split_of(site, {name: record.person for name, record in by_name.items()}))
    members = {
        member.name: split_of(
            member,
            {
                name.removeprefix(f"{member.name}/"): record.person
                for name, record in by_name.items()
                if record.site == member.name
            },
        )
        for member in site.member_sites()
    }
    return Cohort(by_name, unite(members))
