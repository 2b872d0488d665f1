"""Scores of a model on a site's own patients: overlaps, surface distances, stored scores and the site's page."""
