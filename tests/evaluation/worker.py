"""What each process of a test does with an evaluation; what it returned lies in files, without times."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks.methods.flags import Cost
from fastadv.data import ImageSet
from fastadv.evaluation import Table, accuracy_against_radius, evaluate
from fastadv.runs import processes
from fastadv.runs.files import save_tensors
from tests.evaluation.nets import contents, timeless
from tests.kills import die, loss_told
from tests.processes import tell

THREAT = fa.Linf(0.17)


class Net(nn.Module):
    """Convolution and BatchNorm, which the search copy folds; no finite logits for very dark images."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.norm, self.last = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, 3)
            self.norm.running_mean.uniform_(-0.3, 0.3)
            self.norm.running_var.uniform_(0.2, 0.5)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.norm(self.conv(x)).relu().flatten(1))
        return torch.where(x.flatten(1).amax(1, keepdim=True) < 0.2, torch.nan, logits)


class Noisy(Net):
    """Logits with noise, in every pass."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits + 0.1 * torch.randn_like(logits)


def images(seed: int = 0) -> ImageSet:
    """27 images; the first five have no finite logits, and of the others every sixth has another label."""
    x = torch.rand(27, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    x[:5] *= 0.1
    y = Net()(x).argmax(1)
    y[::6] = (y[::6] + 1) % 3
    return ImageSet(x, y, ("a", "b", "c"), "noise")


def to_the_next(model: Any, x: Tensor, y: Tensor, *, ids: Tensor) -> Any:
    """An attack with targets."""
    return fa.attacks.bim(model, x, y, THREAT, steps=3, step_size=0.08, targets=(y + 1) % 3, ids=ids)


def staged(model: Any, x: Tensor, y: Tensor, *, ids: Tensor) -> fa.attacks.AutoAttackResult:
    """PGD as if two components had made its examples; the second runs on what is not already wrong."""
    out = BOUNDED["pgd"](model, x, y, ids=ids)
    left = out.status != fa.attacks.Status.ALREADY_WRONG
    by = ["square" if late else "pgd" for late in (ids % 3 == 0).tolist()]
    names = [name if broken else "" for name, broken in zip(by, (out.success & left).tolist(), strict=True)]
    costs = {name: Cost(int(left.sum()), names.count(name), 5, 2, 0.5) for name in dict.fromkeys(by)}
    return fa.attacks.AutoAttackResult(**vars(out), by=tuple(names), costs=costs, notes=("two stages",))


BOUNDED: dict[str, Any] = {
    "pgd": partial(fa.attacks.pgd, threat=THREAT, steps=3, step_size=0.08, restarts=2, seed=4),
    "square": partial(fa.attacks.square, threat=fa.Linf(0.5), queries=20),
    "targeted": to_the_next,
    "confident": partial(
        fa.attacks.apgd, threat=THREAT, criterion=fa.attacks.ConfidentlyWrong(0.4), restarts=2, steps=5
    ),
    "staged": staged,
}
LEAST: dict[str, Any] = {
    "ddn": partial(fa.attacks.ddn, threat=fa.L2(math.inf), steps=10),
    "noise": partial(fa.attacks.gaussian_noise, threat=fa.L2(math.inf), levels=20, repetitions=4, seed=3),
}
# 23 images are six batches: with four processes two have none in the last turn
SETTINGS = {"batch_size": 4, "limit": 23, "keep_samples": True}


def write(table: Table, path: Path) -> None:
    """All that a table holds, in a file that is equal for equal tables."""
    tensors, told = contents(table)
    save_tensors(path, tensors, {"table": json.dumps(told)})


def whole(folder: Path, rank: int = 0) -> None:
    """Every attack at once, in a folder; and the curves."""
    name = f"{processes.world()}-{rank}"
    told: list[Any] = []
    options = {**SETTINGS, "run_dir": folder / name[0], "on_event": told.append}
    table = evaluate(Net(), images(), BOUNDED | LEAST, **options)
    write(table, folder / f"table-{name}")
    (folder / f"events-{name}").write_text(json.dumps(timeless(told)))
    (folder / f"seconds-{name}").write_text(str([table.seconds, *(row.seconds for row in table.rows)]))
    settings = {"batch_size": 4, "limit": 23}
    curves = [
        accuracy_against_radius(Net(), images(), at_radius, [0, 0.1, 0.14, 0.2], **settings),
        accuracy_against_radius(Net(), images(), minimum_norm=LEAST["ddn"], **settings),
    ]
    drawn = evaluate(Noisy(), images(), {"pgd": BOUNDED["pgd"]}, draws=3, **SETTINGS)
    write(drawn, folder / f"draws-{name}")
    (folder / f"curves-{name}").write_text(str([[part.tolist() for part in curve] for curve in curves]))


def at_radius(radius: float) -> Callable[..., Any]:
    return partial(fa.attacks.pgd, threat=fa.Linf(radius), steps=3, step_size=radius / 2)


class Stop(Exception):
    """Raised in the middle of an evaluation."""


class Ending:
    """PGD, and what else is done at the second call in the second process."""

    def __init__(self, end: Callable[[], None]) -> None:
        self.calls, self.end = 0, end

    def describe(self) -> str:
        return "pgd"

    def __call__(self, model: Any, x: Tensor, y: Tensor, *, ids: Tensor) -> Any:
        self.calls += 1
        if self.calls == 2 and processes.rank() == 1:
            self.end()
        return BOUNDED["pgd"](model, x, y, ids=ids)


def resumed(folder: Path, end: Callable[[], None] = lambda: None, **options: Any) -> Table:
    attacks = {"noise": LEAST["noise"], "pgd": Ending(end)}
    return evaluate(Net(), images(), attacks, run_dir=folder, **SETTINGS, **options)


def _stop() -> None:
    raise Stop("in the middle")


def stopped(folder: Path, rank: int) -> None:
    try:
        resumed(folder / "run", _stop)
    except (Stop, RuntimeError) as error:
        (folder / f"stopped-{rank}").write_text(f"{type(error).__name__}: {error}")


def killed(folder: Path, rank: int) -> None:
    with loss_told(folder):
        resumed(folder / "run", die)


def go_on(folder: Path, rank: int = 0) -> None:
    name = f"{processes.world()}-{rank}"
    write(resumed(folder / f"run-{name[0]}", resume=True), folder / f"resumed-{name}")


def faults(folder: Path, rank: int) -> None:
    """What each process says of an evaluation that goes wrong in one of them."""
    (folder / "file").write_text("")
    evaluate(Net(), images(), run_dir=folder / "done")
    other = Net()
    other.last.weight.data[0, 0] += 1e-6 * rank
    labels = images()
    labels.y[17] = 3

    def odd(model: Any, x: Tensor, y: Tensor, *, ids: Tensor) -> Any:
        return "no result" if processes.rank() == 1 else BOUNDED["pgd"](model, x, y, ids=ids)

    steps = partial(fa.attacks.pgd, threat=THREAT, steps=3 + rank, step_size=0.08)
    wrong: dict[str, dict[str, Any]] = {
        "data": {"dataset": images(rank)},
        "model": {"model": other},
        "attacks": {"attacks": {"pgd": steps}},
        "batch_size": {"batch_size": 4 + rank},
        "resume": {"run_dir": folder / "done", "resume": rank == 1},
        "keep_samples": {"keep_samples": rank == 1},
        "argument": {"limit": 1 - rank},
        "folder": {"run_dir": folder / "file"},
        "done": {"run_dir": folder / "done"},
        "label": {"dataset": ImageSet(labels.x, labels.y, 4, "of four")},
        "attack": {"attacks": {"odd": odd}},
        "nan": {"limit": 5},
    }
    given = {"model": Net(), "dataset": images(), "attacks": BOUNDED, "batch_size": 4}
    calls = {name: partial(evaluate, **(given | options)) for name, options in wrong.items()}
    curve = partial(accuracy_against_radius, Net(), images(), at_radius)
    calls["radii"] = partial(curve, radii=[0.01 * (rank + 1)])
    calls["curve"] = partial(curve, radii=[0.01], batch_size=4 + rank)
    tell(folder, rank, calls)
