"""Evaluation metrics: distances between image sets, what they depend on,
and the networks they look through."""
