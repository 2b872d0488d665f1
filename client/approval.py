"""The studies that a site has approved. It runs nothing else."""

from __future__ import annotations

from client.site import SiteConfig
from common.errors import RelayError
from common.messages import Refusal, Refused
from common.study import Study, load_study, study_toml
from common.weights import write_atomically

FOLDER = "approved"


def approve(site: SiteConfig, study: Study) -> str:
    """Keep a copy of the study in the site's private folder; returns its digest."""
    folder = site.private() / FOLDER
    folder.mkdir(exist_ok=True)
    write_atomically(folder / f"{study.digest}.toml", study_toml(study).encode())
    return study.digest


def approved(site: SiteConfig, digest: str) -> Study:
    """The approved study of that digest.

    Raises:
        Refused: the site has approved none such.
    """
    # Looked for among what is there: no file name is made of what was sent.
    for path in sorted((site.private() / FOLDER).glob("*.toml")):
        if path.stem == digest:
            try:
                study = load_study(path)
            except RelayError:
                break
            if study.digest == digest:
                return study
    raise Refused(Refusal.UNKNOWN_STUDY)
