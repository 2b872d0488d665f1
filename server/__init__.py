"""The coordinator's part of a study: scheduling, transport, ledger, results and report."""
