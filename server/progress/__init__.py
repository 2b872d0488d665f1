"""The progress of a study: events, their wording, and the file `progress.json`."""
