"""README's line of speed, the table of the benchmarks page, and their figure, from stored rows."""
