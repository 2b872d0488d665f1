"""Put the parts to run: command line, simulation, coordinator, hospital, keys and synthetic data."""
