"""Architectures that nobody here designed for: what an attack sees of each is the model itself."""
