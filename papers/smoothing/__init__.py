"""Randomized smoothing on MNIST: `paper` runs it."""
