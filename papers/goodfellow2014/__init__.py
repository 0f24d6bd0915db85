"""Goodfellow, Shlens, Szegedy 2014, "Explaining and harnessing adversarial examples": `paper` runs it."""
