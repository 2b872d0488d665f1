"""Run what belongs to a hospital: keys, approval, connection, audit, and what it receives."""
