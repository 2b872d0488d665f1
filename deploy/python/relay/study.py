"""A study: what is compared, on which hospitals, and how."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.config.study import Study as Settings


class Study:
    """A study: what is compared, on which hospitals, and how."""

    settings: Settings
    """The study's settings, every default filled in; docs/reference/study-toml.md explains each."""
    folder: Path
    """The folder from which a file of encoder weights is taken: of a study file, the folder that the file lies in."""

    def __init__(self, **settings: Any) -> None:
        """Make a study from the keys of a study file.

        Args:
            settings: the keys with their values, such as `name="mine", sites=["A", "B"], training={"epochs": 20}`;
                tables are dictionaries. A file of encoder weights is looked for in the working folder.

        Raises:
            RelayError: an unknown key, a wrong type or a wrong value; the sentence names the key.
        """
        from common.config.study import Study as Settings
        from common.config.toml import from_table

        self.settings = from_table(settings, Settings, "the study")
        self.folder = Path()

    @classmethod
    def load(cls, source: str | os.PathLike[str]) -> Study:
        """Read a study file.

        Args:
            source: the file's path, or the name of a study shipped with relay, such as "demo" or "paper-table3".

        Raises:
            RelayError: the file does not exist, is no TOML, or has an unknown key, a wrong type or a wrong value.
        """
        from common.config.study import load_study
        from deploy.shipped_studies import shipped_study

        path = shipped_study(Path(source))
        study = cls.__new__(cls)
        study.settings = load_study(path)
        study.folder = path.parent
        return study

    @property
    def name(self) -> str:
        """The study's name."""
        return self.settings.name

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of the study's hospitals."""
        return self.settings.sites

    @property
    def digest(self) -> str:
        """The sha256 of the study's content, as `relay study hash` shows it."""
        return self.settings.digest

    def toml(self) -> str:
        """Return the study as the text of a study file, every default written out."""
        from common.config.study import study_toml

        return study_toml(self.settings)

    def __repr__(self) -> str:
        """Return the study's name and hospitals."""
        return f"<relay.Study {self.name!r}, sites {', '.join(self.sites)}>"
