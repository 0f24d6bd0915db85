"""An epoch of PGD-7 training beside loops written by hand, and of every recipe beside a standard epoch.

The loops do the same work with eager torch: "eager" as in bench/gpu/training.py; "robustness" in the order of
the package of that name (github.com/MadryLab/robustness 1.2.1), which does not install beside today's
torchvision: it keeps the strongest point of each attack, which costs a forward at the end.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fastadv as fa
from bench.gpu.training import (
    DECAY,
    LEARNING_RATE,
    MOMENTUM,
    RADIUS,
    STEP,
    STEPS,
    eager,
    fastadv,
    random_images,
)
from bench.timing import quantiles, ratio, times

# name, arguments of fa.models.create, batch size, batches of an epoch
NETS: tuple[tuple[str, dict[str, Any], int, int], ...] = (
    ("small_cnn", {"shape": (3, 32, 32), "width": 32}, 128, 4),
    ("resnet18", {}, 64, 2),
)
THREAT = fa.Linf(RADIUS)
STRONG = {"steps": STEPS, "step_size": STEP}
RECIPES: dict[str, Any] = {
    "Standard": fa.train.Standard(),
    "FGSMTraining": fa.train.FGSMTraining(THREAT),
    "FastTraining rs": fa.train.FastTraining(THREAT),
    "FastTraining n-fgsm": fa.train.FastTraining(THREAT, method="n-fgsm"),
    "PriorGuidedTraining": fa.train.PriorGuidedTraining(THREAT),
    "FreeTraining": fa.train.FreeTraining(THREAT, replays=4),
    "PGDTraining": fa.train.PGDTraining(THREAT, **STRONG),
    "TRADES": fa.train.TRADES(THREAT, **STRONG),
    "MART": fa.train.MART(THREAT, **STRONG),
    "AWP of TRADES": fa.train.AWP(fa.train.TRADES(THREAT, **STRONG)),
}


def crafted(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The strongest of the points of PGD from a random start."""
    model.eval()
    best, highest = x.clone(), torch.full((len(x),), -torch.inf)
    z = (x + RADIUS * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for step in range(STEPS + 1):
        z = z.clone().detach().requires_grad_(step < STEPS)
        losses = cross_entropy(model(z), y, reduction="none")
        loss = losses.detach()
        best = torch.where((loss > highest).view(-1, 1, 1, 1), z.detach(), best)
        highest = loss.maximum(highest)
        if step < STEPS:
            (grad,) = torch.autograd.grad(losses.mean(), [z])
            with torch.no_grad():
                z = z + STEP * grad.sign()
                z = (x + (z - x).clamp(-RADIUS, RADIUS)).clamp(0, 1)
    model.train()
    return best


def robustness(model: nn.Module, data: fa.data.ImageSet, batch: int) -> float:
    """One epoch; the mean loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=DECAY)
    total = 0.0
    for ids in torch.randperm(len(data)).split(batch):
        x, y = data.x[ids].float() / 255, data.y[ids]
        loss = cross_entropy(model(crafted(model, x, y)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(x)
    return total / len(data)


def by_recipe(model: nn.Module, data: fa.data.ImageSet, recipe: Any, batch: int) -> float:
    (report,) = fa.train.fit(model, data, recipe, epochs=1, batch_size=batch)
    loss: float = report.loss
    return loss


def rows(seconds: float) -> Iterator[dict[str, Any]]:
    """One row for each provider on each net, then one for each recipe on the first net."""
    for name, arguments, batch, batches in NETS:
        net = fa.models.create(name, **arguments).train()
        data = random_images(batch * batches, arguments.get("shape", (3, 32, 32)))

        def on(epoch: Callable[..., float], *rest: Any, net: nn.Module = net, data: Any = data) -> Any:
            return lambda: epoch(copy.deepcopy(net), data, *rest)

        ways = {
            "eager": on(eager, batch, False),
            "robustness loop": on(robustness, batch),
            "fastadv fp32": on(fastadv, batch, "fp32"),
            "fastadv bf16": on(fastadv, batch, "bf16"),
        }
        what = f"PGD-{STEPS} training, {name}, {len(data)} images, batch {batch}"
        yield from _timed(what, ways, seconds, "eager", "times_eager")
        if name == NETS[0][0]:
            recipes = {label: on(by_recipe, recipe, batch) for label, recipe in RECIPES.items()}
            what = f"an epoch by recipe, {name}, {len(data)} images, batch {batch}"
            yield from _timed(what, recipes, seconds, "Standard", "times_standard")


def _timed(
    what: str, ways: dict[str, Callable[[], object]], seconds: float, base: str, column: str
) -> Iterator[dict[str, Any]]:
    taken = times(ways, seconds, least=3)
    for provider, values in taken.items():
        faster = round(ratio(taken[base], values), 2)
        yield {"what": what, "provider": provider, **quantiles(values), column: faster}
