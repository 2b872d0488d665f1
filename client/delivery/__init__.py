"""A hospital's results of a study: weights with a model card, a comparison with the hospital's own model, a letter."""
