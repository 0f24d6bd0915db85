"""Faster replacements for functions of torch that are slow on a CPU."""
