"""The network of a study, and its weights as a file with a digest."""
