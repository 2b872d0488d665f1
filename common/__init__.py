"""The code that hospitals and the coordinator share: studies, plans, messages, weights and scores."""
