"""Criteria of outputs that are not one class: signs, positions, distances."""
