"""What each process of a test does: the cases by name, and the results of the first one in a file."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastadv.attacks import pgd
from fastadv.threat import L2, Linf
from fastadv.train import AWP, MART, TRADES, Aligned, FreeTraining, PGDTraining, Standard, fit
from tests.kills import die, loss_told
from tests.processes import tell
from tests.train.nets import grouped, images
from tests.train.test_recipes import own

THREAT = Linf(0.1)


def net() -> nn.Module:
    """A net with a weight that no loss reaches, in double precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Softplus(), nn.Flatten(), nn.Dropout(0.0),
            nn.Linear(144, 6), nn.LayerNorm(6), nn.Softplus(), nn.Linear(6, 3),
        ).double()  # fmt: skip
    model.unused = nn.Parameter(torch.ones(3, dtype=torch.float64))
    return Doubled(model)


class Doubled(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.double())


# 300 images are two batches, one for each of two processes
TEST = {
    "test_set": images(300, seed=1),
    "test_attacks": {"pgd": partial(pgd, threat=THREAT, steps=2, step_size=0.05)},
}
CASES: dict[str, dict[str, Any]] = {
    # 26 = 3 * 8 + 2: with three processes the last one has none of the last batch
    "standard": {"recipe": Standard(), "ema": 0.9, "schedule": "cosine", **TEST},
    "pgd": {"recipe": PGDTraining(THREAT, 2, weight=0.5), "augment": "shift", "clip_norm": 0.1},
    "mart": {"recipe": MART(THREAT, 2, label_smoothing=0.1), "max_norm": 0.5},
    "free": {"recipe": FreeTraining(L2(0.5), 2), "ema": 0.9},
    "awp": {"recipe": AWP(TRADES(THREAT, 2), 0.01), "augment": "shift", "optimizer": "adam"},
    "harder": {"recipe": PGDTraining([THREAT, L2(0.5)], 2, choose="harder")},
    "harder by far": {
        "recipe": PGDTraining([Linf(0.02), L2(3.0)], 2, choose="harder"),
        "learning_rate": 0.3,
        "epochs": 5,
        "batch_size": 3,
    },
    "aligned": {"recipe": Aligned(THREAT, steps=2), "batch_size": 7},
    "own": {"recipe": own, "ema": 0.9},
}
SETTINGS = {"batch_size": 8, "epochs": 2, "learning_rate": 0.05}


def train(name: str, wrap: Callable[[nn.Module], nn.Module] | None = None, **options: Any) -> dict[str, Any]:
    model, settings = net(), grouped(**SETTINGS | CASES[name] | options)
    past = fit(wrap(model) if wrap else model, images(26), **settings)
    kinds = "clean", "robust", "ema_clean", "ema_robust"
    accuracies = [[getattr(one, f"{kind}_accuracy") for kind in kinds] for one in past]
    return {"weights": model.state_dict(), "losses": [one.loss for one in past], "accuracies": accuracies}


def every_case(folder: Path, rank: int) -> None:
    torch.save({name: train(name) for name in CASES}, folder / f"cases-{rank}.pt")


ROBUST = {
    "epochs": 3, "schedule": "cosine", "ema": 0.9, "clip_norm": 0.5, "patience": 3,
    "validation_set": images(9, seed=1), "test_attacks": TEST["test_attacks"],
}  # fmt: skip


class Stop(Exception):
    """Raised in the middle of a run."""


def resumed(folder: Path | None, stop: int | None = None, resume: bool = False, kill: bool = False) -> Any:
    """A run of a recipe that keeps something for each place; `stop`: after so many steps."""

    def progress(done: int, total: int) -> None:
        if done == stop and not kill:
            raise Stop
        if done == stop and dist.get_rank() == 1:
            die()

    try:
        often = {"checkpoint_every": None if folder is None else 2}
        return train("free", **ROBUST, **often, run_dir=folder, resume=resume, progress=progress)
    except Stop:
        return None


def stopped(folder: Path, rank: int) -> None:
    resumed(folder / "from-two", stop=6)


def go_on(folder: Path, rank: int) -> None:
    for start in ("from-one", "from-two"):
        torch.save(resumed(folder / start, resume=True), folder / f"{start}-{rank}.pt")
    torch.save(resumed(None), folder / f"never-{rank}.pt")


def killed(folder: Path, rank: int) -> None:
    with loss_told(folder):
        resumed(folder / "run", stop=7, kill=True)


class Spoiled(Standard):
    def __call__(self, model, x, y, *, ids=None, seed=0):  # type: ignore[no-untyped-def]
        return super().__call__(model, x, y) / (ids != 5).all()


def faults(folder: Path, rank: int) -> None:
    (folder / "file").write_text("")
    other = net()
    next(other.parameters()).data[0] += 1e-9 * rank
    wrong: dict[str, dict[str, Any]] = {
        "data": {"train_set": images(26, seed=rank)},
        "weights": {"model": other},
        "argument": {"learning_rate": 0.1 - rank},
        "test": {**TEST, "test_attacks": {"pgd": partial(pgd, threat=THREAT, steps=2 + rank)}},
        "folder": {"run_dir": folder / "file"},
        "batch": {"batch_size": 1},
        "norm": {"model": nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3))},
    }
    given = {"model": net(), "train_set": images(26), "recipe": Standard(), **SETTINGS}
    tell(folder, rank, {name: partial(fit, **(given | options)) for name, options in wrong.items()})
    try:
        fit(**given | {"recipe": Spoiled()})
    except FloatingPointError as error:
        (folder / f"infinite-{rank}.txt").write_text(str(error))


def wrapped(folder: Path, rank: int) -> None:
    """What comes of models that are wrapped, and why others are refused."""
    from torch.distributed.fsdp import FullyShardedDataParallel  # takes a second

    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:  # before PyTorch 2.6
        from torch.distributed._composable.fsdp import fully_shard

    ways = {"plain": None, "ddp": DistributedDataParallel}
    results = {way: train("awp", wrap, epochs=1)["weights"] for way, wrap in ways.items()}
    torch.save(results, folder / f"wrapped-{rank}.pt")

    def of(model: nn.Module) -> Callable[[], object]:
        return lambda: fit(model, images(26), Standard(), **SETTINGS)

    part = net()
    fully_shard(part.inner[5])
    whole = FullyShardedDataParallel(net(), use_orig_params=True, device_id=torch.device("cpu"))
    inside = nn.Sequential(DistributedDataParallel(net()))
    tell(folder, rank, {"part": of(part), "whole": of(whole), "inside": of(inside)})
