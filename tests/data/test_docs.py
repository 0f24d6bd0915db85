"""What docs/data.md says can be run."""

import re
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch

from fastadv import data
from fastadv.cli._recipes import RecipeOptions, parse_augment, parse_recipe
from fastadv.train.augment import AUGMENTS

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text()


@pytest.mark.slow
def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(code, "docs/data.md", "exec"), names)
    (report,) = names["reports"]
    assert report.loss > 0
    assert torch.equal(names["again"].x, names["made"].x)
    assert (tmp_path / "sets" / "d_det.png").stat().st_size > 1000


def test_the_commands_name_augmentations_and_recipes_that_exist() -> None:
    commands = re.findall(r"^fastadv train (.*--augment .*)$", PAGE, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        words = shlex.split(command)
        assert parse_augment(words[words.index("--augment") + 1])
        assert parse_recipe(words[words.index("--recipe") + 1], RecipeOptions(radius=0.1))


@pytest.mark.parametrize(("section", "names"), [("Augmentation", AUGMENTS), ("Sets by name", data.names())])
def test_the_tables_name_all_there_are(section: str, names: Collection[str]) -> None:
    page = PAGE.partition(f"## {section}\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(names)
