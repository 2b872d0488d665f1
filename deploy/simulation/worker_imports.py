"""Import all modules of a worker, and run nothing: the fork server preloads this module before forking."""

import client.imports
import deploy.simulation.local_grid

__all__ = ["client", "deploy"]
