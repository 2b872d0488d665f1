"""The study file, and how a TOML file is read into a model."""
