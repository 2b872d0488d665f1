"""Use relay from Python: run a study, read its results as data frames, draw with the weights that it brought.

Everything is done by the functions behind the commands of `relay`, and every error that a user can correct is a
`RelayError`, whose text is the sentence that the command would print. docs/how-to/use-from-python.md shows each in use.

Importing this package takes foreign packages named client, common, deploy or server off Python's search path, as the
command does (`prostate_relay.use_own_packages`), for this process and the processes that it starts. It imports neither
torch nor pandas; these come when they are first needed.
"""

from __future__ import annotations

from prostate_relay import use_own_packages

try:
    use_own_packages()
except SystemExit as found:  # which would end a notebook
    raise ImportError(str(found)) from None

# Only now are these relay's own.
from common.errors import RelayError, Unfinished
from relay.model import Model
from relay.results import Results, load
from relay.simulation import simulate
from relay.study import Study
from server.progress.events import Event

__all__ = ["Event", "Model", "RelayError", "Results", "Study", "Unfinished", "load", "simulate"]
