"""From patients' images to slices on the study's grid: bias field, resampling, cache, and the division into cohorts."""
