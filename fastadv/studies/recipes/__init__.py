"""The recipes of adversarial training side by side: one network, one radius, the same epochs, some seeds.

Every run, every evaluation, the table and the curves lie in one folder, in which a study that was stopped
goes on. `plan` says what is trained on each data set, `work` does it, `tables` and `figures` show it.
"""

from fastadv.studies.recipes.figures import CURVES
from fastadv.studies.recipes.plan import RECIPES, SETS, Settings, lengths
from fastadv.studies.recipes.tables import markdown, notes, table
from fastadv.studies.recipes.work import run

__all__ = ["CURVES", "RECIPES", "SETS", "Settings", "lengths", "markdown", "notes", "run", "table"]
