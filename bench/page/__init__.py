"""README's speed table and the figures of speed, from the newest rows in bench/results/."""
