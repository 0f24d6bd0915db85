"""A model measured on samples: which attacks, in which order they are read, what each attack did."""
