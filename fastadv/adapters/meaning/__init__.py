"""What the arguments of other packages mean here: one function for each of their classes."""
