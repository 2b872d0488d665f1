"""Import all modules that an order needs before the first order arrives.

The imports take a second or more, which the first order would otherwise spend. Importing this module runs no stage.
"""

import gc

import monai.metrics

import client.app
import client.data.layouts
import common.networks.smp

common.networks.smp.segmentation_models()
client.data.layouts.known()  # imports every layout, and with the layouts SimpleITK

# What was imported stays as long as the process. A process that is forked for an order need not look through half a
# million objects for garbage (0.2 s each time), nor get pages of its own for those that it would mark.
gc.collect()
gc.freeze()

__all__ = ["client", "monai"]
