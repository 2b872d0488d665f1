"""Training at a site: batches, augmentation, the epoch loop, batch-norm statistics and the choice of the device."""
