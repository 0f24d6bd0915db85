"""What each process of a test of `deterministic` does."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from fastadv.threat import L2
from fastadv.train import FastTraining, FreeTraining, HiddenFGSM, RubbishTraining, Standard, fit
from tests.train.nets import grouped, images
from tests.train.processes.worker import CASES, SETTINGS, TEST, Stop


def net(dropout: float = 0.2) -> nn.Module:
    """Without BatchNorm, in single precision, with a weight that no loss reaches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(),
            nn.Dropout(dropout), nn.Linear(80, 3),
        )  # fmt: skip
    model.unused = nn.Parameter(torch.ones(3))
    return model


def drawing(x: torch.Tensor, *, ids: torch.Tensor, seed: int) -> torch.Tensor:
    """Noise of torch's own, and a sum whose order may follow the number of rows."""
    return (x + 0.1 * torch.rand(x.shape) + x.mean((1, 2, 3), keepdim=True) / 9).clamp(0, 1)


# 15 = 12 + 3: a last batch of fewer samples than parts
EXACT: dict[str, dict[str, Any]] = {
    **CASES,
    "standard": {"recipe": Standard(), "augment": drawing, "ema": 0.9, **TEST},
    "fast": {"recipe": FastTraining(L2(0.5)), "precision": "bf16"},
    "free": {"recipe": FreeTraining(L2(0.5), 2), "augment": ["shift", drawing]},
    "rubbish": {"recipe": RubbishTraining(HiddenFGSM("7", 0.1), 0.5)},
}


# with four processes the last one has none of the last batch; each start costs seconds
CASES_OF = {2: list(EXACT), 4: ["standard", "awp", "free", "prior"]}


def train(name: str, **options: Any) -> dict[str, Any]:
    model = net()
    settings = {**SETTINGS, "batch_size": 12, "deterministic": True, **EXACT[name], **options}
    past = fit(model, images(15), **grouped(**settings))
    told = [dataclasses.asdict(report) | {"seconds": 0.0, "waiting": 0.0} for report in past]
    return {"weights": model.state_dict(), "reports": told}


def resumed(folder: Path | None, stop: int | None = None, resume: bool = False) -> Any:
    """A run that one number of processes stops, and another goes on with."""

    def progress(done: int, total: int) -> None:
        if done == stop:
            raise Stop

    often = {"checkpoint_every": None if folder is None else 1}
    options = {"epochs": 3, "schedule": "cosine", "ema": 0.9, "progress": progress, **often}
    try:
        return train("prior", run_dir=folder, resume=resume, **options)
    except Stop:
        return None


def halves(folder: Path, rank: int) -> None:
    resumed(folder / "from-many", stop=4)
    result = resumed(folder / "from-one", resume=True)
    torch.save(result, folder / f"from-one-{rank}.pt")


def every_case(folder: Path, rank: int) -> None:
    results = {name: train(name) for name in CASES_OF[dist.get_world_size()]}
    torch.save(results, folder / f"exact-{rank}.pt")
