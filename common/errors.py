"""Errors for a user to correct: a sentence with the fault, its place and the remedy, and a code for scripts.

A code names a kind of mistake and never changes, while sentences may. `docs/reference/error-codes.md` lists the codes.
"""

from __future__ import annotations

from typing import ClassVar

GO_ON = "start again to go on"
"""Placeholder in a sentence for "the same command continues"; the command line inserts the command itself instead."""


class RelayError(Exception):
    """An error for a user to correct; the sentence gives the remedy."""

    # The command line prints the text as it is, without a traceback, and exits with code 1.
    code: ClassVar[str] = "error"


class BadConfiguration(RelayError):
    """A study file, a site file or another TOML file is missing, cannot be read, or has a forbidden key or value."""

    code = "configuration"


class BadData(RelayError):
    """A site has no usable patients, or too few."""

    code = "data"


class BadPatient(RelayError):
    """A patient cannot be used."""

    code = "patient"

    def __init__(self, patient: str, sentence: str) -> None:
        """Make the error of a patient.

        Args:
            patient: the patient's name at the site.
            sentence: the fault; the sentence may name files, so it must not leave the site.
        """
        super().__init__(sentence)
        self.patient = patient


class Damaged(RelayError):
    """A file of relay's own could not be read any more and was removed; the next try makes the file again."""

    code = "damaged"


class DiskFull(RelayError):
    """A disk has no room left, or not enough; earlier files are kept."""

    code = "disk-full"


class Expired(RelayError):
    """A certificate of the coordinator or of a site has expired."""

    code = "expired"


class FaultsFound(RelayError):
    """An inspection (`relay study verify`, `relay site audit`, `relay site check`) has found faults."""

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
    """A part of the study or command could not be completed; the finished part is kept and can be shown."""

    code = "unfinished"


class Unreachable(RelayError):
    """The SuperLink, or a server on the internet, does not answer; a later try may succeed."""

    code = "unreachable"
