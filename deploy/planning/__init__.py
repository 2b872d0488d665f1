"""Tell a study's cost before the study runs: `relay study plan`."""
