"""The answers to the coordinator's orders: describe, fine-tune, evaluate, each checked against the approved study."""
