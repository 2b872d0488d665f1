"""What the fork server imports before it forks: everything that a worker needs, and nothing is run."""

import client.imports
import deploy.simulation.local_grid

__all__ = ["client", "deploy"]
