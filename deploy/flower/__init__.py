"""Start and control Flower's programs, and keep every private name of Flower's in one file."""
