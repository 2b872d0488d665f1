"""results.json: its schema, and how it is made from the ledger's records."""
