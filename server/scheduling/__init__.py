"""The scheduler: the sequence of stages, parked stages, retention of weights, and the rules for an absent site."""
