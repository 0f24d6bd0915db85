"""Adversarial training on CIFAR-10 by three recipes: `paper` runs it."""
