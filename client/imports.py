"""Import all modules that an order needs before the first order arrives.

The imports take a second or more, which the first order would otherwise spend. Importing this module runs no stage.
"""

import monai.metrics

import client.app
import client.data.layouts
import common.networks.smp

common.networks.smp.segmentation_models()
client.data.layouts.known()  # imports every layout, and with the layouts SimpleITK

__all__ = ["client", "monai"]
