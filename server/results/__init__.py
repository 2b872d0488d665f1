"""The schema of results.json, and the conversion of the ledger's records to results.json."""
