"""An epoch of PGD-7 training beside loops by hand and, on a CPU, of every recipe beside a standard one.

On a GPU it is a ResNet-18 on 10,240 images, on a CPU smaller nets on few. All providers begin at the same
weights.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn

import fastadv as fa
from bench import nets
from bench.eager import training as eager
from bench.eager.training import DECAY, LEARNING_RATE, MOMENTUM, RADIUS, STEP, STEPS
from bench.session import Case, Row, Session
from bench.subjects.attacks import searched
from bench.timing import forward_flops

Epoch = Callable[[nn.Module, "fa.data.ImageSet"], float]
THREAT = fa.Linf(RADIUS)
STRONG: dict[str, Any] = {"steps": STEPS, "step_size": STEP}
RECIPES: dict[str, Any] = {
    "Standard": fa.train.Standard(),
    "FGSMTraining": fa.train.FGSMTraining(THREAT),
    "FastTraining rs": fa.train.FastTraining(THREAT),
    "FastTraining n-fgsm": fa.train.FastTraining(THREAT, method="n-fgsm"),
    "FreeTraining": fa.train.FreeTraining(THREAT, replays=4),
    "PGDTraining": fa.train.PGDTraining(THREAT, **STRONG),
    "TRADES": fa.train.TRADES(THREAT, **STRONG),
    "MART": fa.train.MART(THREAT, **STRONG),
    "SCORE": fa.train.SCORE(THREAT, **STRONG),
    "AWP of TRADES": fa.train.AWP(fa.train.TRADES(THREAT, **STRONG)),
}


def cases(session: Session) -> Iterator[Case]:
    for name in ("small_cnn", "resnet18") if session.on_cpu else ("resnet18",):
        yield Case(f"PGD-{STEPS} training, {name}", partial(pgd, session, name), needs=60)
    if session.on_cpu:
        yield Case("an epoch by recipe, small_cnn", partial(recipes, session, "small_cnn"))


def problem(session: Session, name: str) -> tuple[nn.Module, "fa.data.ImageSet", int]:
    """Return the net, its images and the size of a batch."""
    if name == "small_cnn":
        net, (batch, count) = nets.small_net(width=session.size(32, 4)), session.size((128, 512), (4, 8))
    else:
        net = nets.resnet18(tiny=session.tiny)
        batch, count = session.size((512, 10_240), (4, 8), (64, 256))
    return net.to(session.device), images(session, count), batch


def images(session: Session, count: int) -> "fa.data.ImageSet":
    """Load CIFAR-10 on a GPU if its folder is given, else draw random images, on the device."""
    if session.on_cpu:
        return random_images(count)
    if session.data_dir is not None and (session.data_dir / "cifar10").exists():
        train = fa.data.load("cifar10", "train", data_dir=session.data_dir, limit=count)
        x, y, _ = next(iter(fa.data.batches(train, count)))
        return fa.data.ImageSet((x * 255).round().byte(), y, 10, "CIFAR-10").to(session.device)
    session.note("no --data-dir with cifar10: random images and labels")
    return random_images(count).to(session.device)


def random_images(count: int, shape: tuple[int, ...] = (3, 32, 32)) -> "fa.data.ImageSet":
    """Draw random images and labels, on which the time of a step does not depend."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (count, *shape), generator=draw, dtype=torch.uint8)
    return fa.data.ImageSet(x, torch.arange(count) % 10, 10, "random images")


def ours(model: nn.Module, data: "fa.data.ImageSet", batch: int, name: str) -> float:
    recipe = fa.train.PGDTraining(THREAT, **STRONG)
    (report,) = fa.train.fit(
        model, data, recipe, epochs=1, batch_size=batch, learning_rate=LEARNING_RATE,
        optimization=fa.train.Optimization(momentum=MOMENTUM, weight_decay=DECAY, schedule="constant"),
        execution=fa.train.Execution(precision=searched(name), cuda_graph="graph" in name),
    )  # fmt: skip
    return float(report.loss)


def by_recipe(model: nn.Module, data: "fa.data.ImageSet", recipe: Any, batch: int) -> float:
    constant = fa.train.Optimization(schedule="constant")
    return float(fa.train.fit(model, data, recipe, epochs=1, batch_size=batch, optimization=constant)[0].loss)


def pgd(session: Session, name: str) -> Iterator[Row]:
    """Measure the same epoch by each provider."""
    net, data, batch = problem(session, name)
    epochs: dict[str, Epoch] = {"eager": partial(eager.plain, batch=batch)}
    if session.on_cpu:
        epochs["robustness loop"] = partial(eager.robustness, batch=batch)
    else:
        epochs["eager bf16"] = partial(eager.plain, batch=batch, bf16=True)
    names = ["fastadv fp32", "fastadv bf16"]
    names += [f"{name}, graph" for name in names if session.cuda]
    epochs |= {name: partial(ours, batch=batch, name=name) for name in names}
    # an attack step is a forward and an input gradient, the training step a forward and two gradients
    flops = (2 * STEPS + 3) * forward_flops(net, data.x[:1].float()) * len(data)
    what = f"PGD-{STEPS} training, {name}, {len(data)} images, batch {batch}"
    for row, values in compared(session, what, epochs, (net, data, batch), "eager", "times_eager"):
        if values:
            precision = "bf16" if "bf16" in row["provider"] else session.conv_precision
            row |= session.share_of_products(flops, median(values), precision)
        yield row


def recipes(session: Session, name: str) -> Iterator[Row]:
    """Measure an epoch of each recipe."""
    net, data, batch = problem(session, name)
    epochs = {label: partial(by_recipe, recipe=recipe, batch=batch) for label, recipe in RECIPES.items()}
    what = f"an epoch by recipe, {name}, {len(data)} images, batch {batch}"
    given = (net, data, batch)
    for row, _ in compared(session, what, epochs, given, "Standard", "times_standard"):
        yield row


def compared(
    session: Session, what: str, epochs: dict[str, Epoch], given: Any, base: str, column: str
) -> Iterator[tuple[Row, list[float]]]:
    """Measure each epoch from the same weights, after a warm-up on two batches, with its mean loss."""
    net, data, batch = given
    few = data.subset(torch.arange(min(len(data), 2 * batch)))
    losses: dict[str, float] = {}

    def run(name: str, chosen: "fa.data.ImageSet") -> None:
        losses[name] = epochs[name](copy.deepcopy(net).train(), chosen)

    ways, warm = ({name: partial(run, name, each) for name in epochs} for each in (data, few))
    for row, values in session.compare(ways, base, column, least=3, warm=warm):
        if values:
            per_second = round(1000 * len(data) / median(values), 1)
            row |= {"what": what, "images_per_s": per_second, "loss": round(losses[row["provider"]], 4)}
        yield row, values
