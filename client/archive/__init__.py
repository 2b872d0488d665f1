"""The hospital's image archive, a DICOMweb server: series and labels come from there, and segmentations go back."""
