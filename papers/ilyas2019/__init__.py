"""Ilyas et al. 2019, "Adversarial examples are not bugs, they are features"."""
