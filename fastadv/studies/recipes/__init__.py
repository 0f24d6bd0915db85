"""The recipes of adversarial training side by side: one network, one radius, the same epochs, some seeds.

Every run, every evaluation, the table and the curves lie in one folder, in which a study that was stopped
goes on. `plan` says what is trained on each data set, `work` does it, `report` and `figures` show it.
"""
