"""Functions of torch that a CPU library does slowly, done otherwise."""
