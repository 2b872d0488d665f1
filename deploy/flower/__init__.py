"""Start and control Flower's programs, and keep every private name of Flower's in a single file."""
