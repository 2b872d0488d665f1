"""The progress of a study: events, their wording, and the file that shows them."""
