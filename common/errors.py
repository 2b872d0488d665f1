"""What a user may be told: one sentence that says what, where, and what to do."""

GO_ON = "start again to go on"
"""How a sentence says that the same command goes on. The command line puts the command itself in its place."""


class RelayError(Exception):
    """Something a user can put right. Its text is shown as it is, without a traceback, with exit code 1."""


class BadPatient(RelayError):
    """One patient cannot be used. The text may name files: it stays at the site."""

    def __init__(self, patient: str, sentence: str) -> None:
        super().__init__(sentence)
        self.patient = patient


class Damaged(RelayError):
    """A file of our own cannot be read any more; it was removed, and the next try makes it again."""


class DiskFull(RelayError):
    """A disk has no room left; what was written before is kept."""


class Unfinished(RelayError):
    """Not everything that was asked for could be done. What could is worked out and can be shown."""
