"""The recipes for trackers run as they stand, on a stand-in where the package is not installed."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fastadv as fa

PAGE = Path(__file__).parents[2] / "docs" / "trackers.md"
BLOCKS = dict(re.findall(r"```python ?(\w*)\n(.*?)```", PAGE.read_text(), re.S))


def stand_in(package: str, logged: list[tuple[Any, Any]]) -> dict[str, Any]:
    """The modules of a tracker that keeps what it is given, as (numbers, place)."""

    def log(figures: dict[str, float], step: int) -> None:
        logged.append((figures, step))

    writer = SimpleNamespace(add_scalar=lambda name, value, place: log({name: value}, place), flush=bool)
    nothing = SimpleNamespace(
        log_metrics=log, start_run=lambda **options: None, log_params=lambda given: None,
        init=lambda **options: SimpleNamespace(log=log), SummaryWriter=lambda folder: writer,
    )  # fmt: skip
    return {"torch.utils.tensorboard" if package == "tensorboard" else package: nothing}


@pytest.mark.slow
@pytest.mark.parametrize("package", ["tensorboard", "wandb", "mlflow", "file"])
def test_a_recipe_logs_epochs_and_batches(package, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    assert BLOCKS.keys() == {"", "file", "tensorboard", "wandb", "mlflow", "use"}
    logged: list[tuple[Any, Any]] = []
    installed = package == "file" or importlib.util.find_spec(package) is not None
    if not installed:
        for name, module in stand_in(package, logged).items():
            monkeypatch.setitem(sys.modules, name, module)
    data = fa.data.ImageSet(torch.rand(8, 1, 2, 2), torch.arange(8) % 2, 2, "random")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    names: dict[str, Any] = {"fa": fa, "model": model, "train": data, "test": data}
    for block in ("", package, "use"):
        exec(compile(BLOCKS[block], f"{PAGE} {block}", "exec"), names)
    if package == "file":
        lines = (tmp_path / "log.jsonl").read_text().splitlines()
        logged = [(names["numbers"](json.loads(line)), None) for line in lines]
    elif installed:
        return
    figures = {name: value for numbers, _ in logged for name, value in numbers.items()}
    assert figures.keys() >= {"epoch", "loss", "step", "clean_accuracy", "robust_accuracy/PGD", "seconds/PGD"}
    assert (figures["epoch"], figures["step"]) == (2, 8)
    assert package == "file" or {place for _, place in logged} == {1, 2, 8}
