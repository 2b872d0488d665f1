"""Run a hospital's side: keys, approval, connection, audit, and receipt of results."""
