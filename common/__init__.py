"""What hospitals and the coordinator must agree on: studies, plans, messages, weights and scores."""
