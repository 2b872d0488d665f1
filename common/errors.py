"""Errors that a user can put right: one sentence with what, where and what to do, and a code for scripts.

A code names a kind of mistake and never changes, while sentences may. `docs/reference/error-codes.md` lists the codes.
"""

from __future__ import annotations

from typing import ClassVar

GO_ON = "start again to go on"
"""Placeholder in a sentence for "the same command continues"; the command line replaces it with the command itself."""


class RelayError(Exception):
    """Something that a user can put right; the sentence says how."""

    # The command line prints the text as it is, without a traceback, and exits with code 1.
    code: ClassVar[str] = "error"


class BadConfiguration(RelayError):
    """A study file, a site file or another TOML file is missing, cannot be read, or says what is not allowed."""

    code = "configuration"


class BadData(RelayError):
    """A site has no patient that can be used, or too few."""

    code = "data"


class BadPatient(RelayError):
    """One patient cannot be used."""

    code = "patient"

    def __init__(self, patient: str, sentence: str) -> None:
        """Make the error of one patient.

        Args:
            patient: the patient's name at the site.
            sentence: what is wrong; it may name files, so it stays at the site.
        """
        super().__init__(sentence)
        self.patient = patient


class Damaged(RelayError):
    """A file of relay's own could not be read any more; it was removed, and the next try makes it again."""

    code = "damaged"


class DiskFull(RelayError):
    """A disk has no room left, or not enough; what was written before is kept."""

    code = "disk-full"


class Expired(RelayError):
    """A certificate of the coordinator or of a site has expired."""

    code = "expired"


class FaultsFound(RelayError):
    """An inspection (`relay study verify`, `relay site audit`, `relay site check`) has shown what is wrong."""

    # The command has already printed the list of faults to standard output, with --json as well.
    code = "faults-found"


class Locked(RelayError):
    """Another process works with the folder of a study's results or of a site."""

    code = "locked"


class NotEnrolled(RelayError):
    """A coordinator is not set up, or a site has no keys, no kit or no place among the enrolled sites."""

    code = "not-enrolled"


class SiteAbsent(RelayError):
    """A site of the study is not connected, or cannot take part."""

    code = "site-absent"


class Unfinished(RelayError):
    """Not everything that was asked for could be done; what could be is kept and can be shown."""

    code = "unfinished"


class Unreachable(RelayError):
    """The SuperLink, or a server on the internet, does not answer; it may do so later."""

    code = "unreachable"
