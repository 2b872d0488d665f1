"""What a hospital gets out of a study: weights with a model card, a comparison with its own model, and a letter."""
