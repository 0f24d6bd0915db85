"""RobustBench's zoo: its table, its files, and its own code beside ours."""
