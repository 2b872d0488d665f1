"""How well a model segments a site's own patients: scores, surface distances, stored scores and the site's page."""
