"""`fastadv demo`: robust and non-robust features, and ABS, on the embedded digits."""
