"""How often a hospital's test patients have been looked at, over all its studies.

Whoever tries many models on the same patients finds one that does well on them by chance. Every scoring on test
patients
is a line of a log at the site, which no study ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from client.governance import audit_log
from client.site_config import SiteConfig

LOG = "looks.jsonl"


@dataclass(frozen=True)
class Looks:
    """The scorings on a site's test patients."""

    models: int
    """Scorings of different models, of whatever study; the same model scored again counts once in each study."""
    studies: int
    """Studies with such a scoring. Each repeat and network of a study is a study by itself."""


def note(site: SiteConfig, study: str, key: str) -> None:
    """Note a scoring on the site's test patients; the line is on the disk at the return.

    Args:
        site: the site.
        study: the digest of the study.
        key: the key of the scoring.

    Raises:
        RelayError: the site's folder is on a file system without locks.
        OSError: the log cannot be written.
    """
    entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "study": study, "stage": key}
    audit_log.append(site.private() / LOG, entry)


def looks(site: SiteConfig) -> Looks:
    """Return how often the site's test patients have been looked at, as far as the site's log goes.

    Raises:
        OSError: the log cannot be read.
    """
    found = {(line.get("study"), line.get("stage")) for line in audit_log.read(site.private() / LOG).lines}
    found.discard((None, None))  # a line that cannot be read
    return Looks(len(found), len({study for study, _ in found}))
