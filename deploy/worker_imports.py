"""What the fork server imports before it forks: everything that a worker needs, and nothing is run."""

import monai.metrics

import client.app
import client.layouts
import common.model
import deploy.local_grid

common.model.segmentation_models()
client.layouts.known()  # SimpleITK with them

__all__ = ["client", "deploy", "monai"]
