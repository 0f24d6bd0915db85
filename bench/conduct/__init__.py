"""Fifteen mistakes that attack libraries make: who makes which, and docs/pitfalls.md."""
