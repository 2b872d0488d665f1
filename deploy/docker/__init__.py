"""Hold what containers need: Dockerfile, the gateway's settings and the set-up of three hospitals."""
