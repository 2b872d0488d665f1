"""Hold the files for containers: Dockerfile, the gateway's settings and the set-up of three hospitals."""
