"""A model whose nearest adversarial examples are known; run as a program, evaluations that are killed."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import fastadv as fa
from fastadv.attacks import AttackResult, Status
from fastadv.data import ImageSet
from fastadv.evaluation import Table, evaluate


class Threshold(nn.Module):
    """Class 1 where the first pixel is above one half: an L∞ radius above |x - 0.5| breaks a sample."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([-1.0, 1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.flatten(1)[:, :1] - 0.5) * self.weight


def pixels(values: list[float], y: list[int]) -> ImageSet:
    return ImageSet(torch.tensor(values).reshape(-1, 1, 1, 1), torch.tensor(y), ("dark", "light"), "pixels")


# distances to the boundary 0.1 0.2 0.3 0.4, then two that the model has wrong
DATA = pixels([0.4, 0.7, 0.2, 0.9, 0.3, 0.6], [0, 1, 0, 1, 1, 0])


def nearest(model, x, y, *, ids, past=0.01, spare=(), sick=()) -> AttackResult:
    """The nearest point `past` the boundary; samples in `spare` hold, those in `sick` fail."""
    wrong = getattr(model, "classifier", model)(x).argmax(1) != y
    end = torch.where(x.flatten(1)[:, 0] > 0.5, 0.5 - past, 0.5 + past)
    held = torch.isin(ids, torch.tensor([*spare, *sick], dtype=torch.int64)) & ~wrong
    x_adv = torch.where((wrong | held)[:, None, None, None], x, end[:, None, None, None])
    distance = (x_adv - x).abs().flatten(1).amax(1).masked_fill(held, math.inf)
    status = torch.where(
        wrong, int(Status.ALREADY_WRONG), torch.where(held, int(Status.HELD), int(Status.BROKEN))
    )
    status[torch.isin(ids, torch.tensor(sick, dtype=torch.int64)) & ~wrong] = int(Status.FAILED)
    return AttackResult(
        x_adv, ~held, status, distance * 0, distance, 2 * len(x), len(x), torch.zeros_like(held)
    )


def pgd(radius: float) -> partial:
    return partial(fa.attacks.pgd, threat=fa.Linf(radius), steps=5, step_size=radius / 2)


def run(folder: Path | None, **options: Any) -> Table:
    """The evaluation that is killed: three batches, two attacks."""
    settings = {"model": Threshold(), "dataset": DATA, "attacks": {"near": nearest, "pgd": pgd(0.25)}}
    settings |= {"batch_size": 2, "keep_samples": True}
    return evaluate(run_dir=folder, **settings | options)


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key != "seconds"}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def contents(table: Table) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """All that a table with samples holds but times: its tensors by name, and the rest."""
    tensors = {name: getattr(table, name) for name in ("correct", "failed", "ids")}
    tensors |= {f"samples.{name}": value for name, value in vars(table.samples).items()}
    for row in table.rows:
        tensors |= {f"{row.name}.{key}": getattr(row, key) for key in ("broken", "distance")}
        if row.draws is not None:
            tensors |= {f"{row.name}.draws.{key}": getattr(row.draws, key) for key in ("right", "voted")}
        if row.components is not None:
            tensors[f"{row.name}.by"] = row.components.by
    return tensors, timeless(table.to_dict())


def assert_same(table: Table, other: Table) -> None:
    (tensors, texts), (others, wanted) = contents(table), contents(other)
    torch.testing.assert_close(tensors, others, rtol=0, atol=0, equal_nan=True)
    assert texts == wanted


if __name__ == "__main__":
    from tests.evaluation.nets import run  # the names of functions count: not those of __main__
    from tests.kills import kill_at_each_moment

    torch.set_num_threads(1)
    run(None)  # what is slow the first time is done before the process multiplies
    kill_at_each_moment(run)
