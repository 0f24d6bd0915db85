"""README's table of speed, that of the benchmarks page, and their figures, from stored rows."""
