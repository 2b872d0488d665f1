"""Segmentation of new images with delivered weights (`relay predict`), and masks as DICOM segmentations."""
