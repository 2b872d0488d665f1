"""What answering an order needs, imported before the order comes: a second or more of its time. Nothing is run."""

import monai.metrics

import client.app
import client.data.layouts
import common.model.network

common.model.network.segmentation_models()
client.data.layouts.known()  # SimpleITK with them

__all__ = ["client", "monai"]
