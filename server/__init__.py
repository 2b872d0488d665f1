"""All that orchestrates a study at the coordinator: scheduling, transport, ledger, results and report."""
