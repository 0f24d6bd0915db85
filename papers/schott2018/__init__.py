"""Schott et al. 2018, on the weights that its authors published: `paper` runs it."""
