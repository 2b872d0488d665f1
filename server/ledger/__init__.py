"""Finished stages and their weights on the coordinator's disk."""
