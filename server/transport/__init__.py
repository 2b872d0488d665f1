"""Orders to sites and their replies: discovery, retries, transfer slots and outcomes."""
