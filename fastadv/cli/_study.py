"""`fastadv study`: papers run again; loaded when one of them is asked for."""

import importlib
from typing import Any

import typer
from typer.core import TyperGroup

from fastadv.cli._panels import group


class _Late(TyperGroup):
    """The group of the studies, whose commands are imported when they are needed."""

    @property  # type: ignore[override]
    def commands(self) -> dict[str, Any]:
        studies = importlib.import_module("fastadv.cli._studies")
        made: Any = typer.main.get_command(studies.study_app)
        return dict(made.commands)

    @commands.setter
    def commands(self, given: dict[str, Any]) -> None:
        """Leave those of this group out: it has none of its own."""


study_app = group("Reproduce papers.", cls=_Late)
