"""Warm start: training begins with the weights and moments of a registered model."""
