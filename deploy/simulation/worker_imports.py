"""Import everything that a worker needs, and run nothing: the fork server preloads this module before it forks."""

import client.imports
import deploy.simulation.local_grid

__all__ = ["client", "deploy"]
