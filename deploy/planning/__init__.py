"""Say what a study will cost before it runs: `relay study plan`."""
