"""Tests of the networks, their names and plug-ins."""
