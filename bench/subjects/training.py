"""An epoch of training beside loops by hand and, on a CPU, of every recipe beside a standard one.

On a GPU it is the second epoch of a ResNet-18 on CIFAR-10, batch 128, bfloat16, augmented, standard and
PGD-7, beside a step by hand that is captured whole. Goals, on an H100: standard 1.8 s, PGD-7 8.0 s, compiled
6.0 s. On a CPU smaller nets train on few images. All providers begin at the same weights.
"""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fastadv as fa
from bench import nets
from bench.by_hand import captured_call
from bench.clock import quantiles, wall
from bench.session import Case, Row, Session

Epoch = Callable[..., float]
RADIUS, STEP, STEPS = 8 / 255, 2 / 255, 7
LEARNING_RATE, MOMENTUM, DECAY = 0.05, 0.9, 5e-4
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
    if not session.on_cpu:
        for steps in (0, STEPS):
            label = f"PGD-{steps} training" if steps else "standard training"
            yield Case(f"{label}, resnet18", partial(whole_epochs, session, label, steps), needs=45)
        return
    label, by_pgd = f"PGD-{STEPS} training", dict[str, Epoch](eager=plain)
    for precision in ("fp32", "bf16"):
        by_pgd[f"fastadv {precision}"] = partial(fitted, recipe=RECIPES["PGDTraining"], precision=precision)
    for name in ("small_cnn", "resnet18"):
        yield Case(f"{label}, {name}", partial(compared, session, label, name, by_pgd, "times_eager"))
    label = "an epoch by recipe"
    each = {name: partial(fitted, recipe=recipe, precision="fp32") for name, recipe in RECIPES.items()}
    yield Case(f"{label}, small_cnn", partial(compared, session, label, "small_cnn", each, "times_standard"))


def whole_epochs(session: Session, label: str, steps: int) -> Iterator[Row]:
    """Yield the seconds of a second epoch: the first one captures and compiles."""
    net, data, batch = problem(session, "resnet18")
    recipe = fa.train.PGDTraining(THREAT, steps=steps, step_size=STEP) if steps else fa.train.Standard()

    def epoch(compile: bool, cuda_graph: bool | None = None) -> float:
        reports = fa.train.fit(
            copy.deepcopy(net).train(), data, recipe, epochs=2, batch_size=batch, augment="crop_flip",
            learning_rate=LEARNING_RATE, optimization=fa.train.Optimization(schedule="constant"),
            execution=fa.train.Execution(precision="bf16", compile=compile, cuda_graph=cuda_graph),
        )  # fmt: skip
        return reports[1].seconds

    ways: dict[str, Callable[[], float]] = {
        "a step by hand, captured": lambda: captured(copy.deepcopy(net).train(), data, batch, steps),
        "fastadv bf16": lambda: epoch(False),
        "fastadv bf16, compiled": lambda: epoch(True),
        "fastadv bf16, not captured": lambda: epoch(False, False),
    }
    hand = 0.0
    for provider, run in ways.items():
        seconds, failed = session.tried(provider, run)
        if seconds is not None:
            hand = hand or seconds
            each = {"times_by_hand": round(hand / seconds, 2), "images_per_s": round(len(data) / seconds, 1)}
            failed = {"provider": provider, **quantiles([1000 * seconds]), "turns": 1, **each}
        yield {"what": f"{label}, resnet18, {len(data)} images, batch {batch}, bf16", **failed}


def problem(session: Session, name: str) -> tuple[nn.Module, "fa.data.ImageSet", int]:
    if name == "small_cnn":
        net, (batch, count) = nets.small_net(width=session.size(32, 4)), session.size((128, 512), (4, 8))
    else:
        net = nets.resnet18(tiny=session.tiny)
        batch, count = session.size((128, 50_000), (4, 8), (64, 256))
    return net.to(session.device), images(session, count), batch


def images(session: Session, count: int, split: Any = "train") -> "fa.data.ImageSet":
    """Load CIFAR-10 on a GPU if its folder is given, else draw random images, on the device."""
    if session.cuda and session.data_dir is not None and (session.data_dir / "cifar10").exists():
        data = fa.data.load("cifar10", split, data_dir=session.data_dir, limit=count)
        x, y, _ = next(iter(fa.data.batches(data, count)))
        return fa.data.ImageSet((x * 255).round().byte(), y, 10, "CIFAR-10").to(session.device)
    return random_images(count).to(session.device)


def random_images(count: int, shape: tuple[int, ...] = (3, 32, 32)) -> "fa.data.ImageSet":
    """Draw random images and labels, on which the time of a step does not depend."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (count, *shape), generator=draw, dtype=torch.uint8)
    return fa.data.ImageSet(x, torch.arange(count) % 10, 10, "random images")


def fitted(model: nn.Module, data: "fa.data.ImageSet", batch: int, recipe: Any, precision: Any) -> float:
    (report,) = fa.train.fit(
        model, data, recipe, epochs=1, batch_size=batch, learning_rate=LEARNING_RATE,
        optimization=fa.train.Optimization(momentum=MOMENTUM, weight_decay=DECAY, schedule="constant"),
        execution=fa.train.Execution(precision=precision),
    )  # fmt: skip
    return float(report.loss)


def compared(session: Session, label: str, name: str, epochs: dict[str, Epoch], column: str) -> Iterator[Row]:
    """Measure each epoch from the same weights, after a warm-up on two batches, with its mean loss."""
    net, data, batch = problem(session, name)
    few = data.subset(torch.arange(min(len(data), 2 * batch)))
    losses: dict[str, float] = {}

    def run(provider: str, chosen: "fa.data.ImageSet") -> None:
        losses[provider] = epochs[provider](copy.deepcopy(net).train(), chosen, batch)

    ways, warm = ({way: partial(run, way, each) for way in epochs} for each in (data, few))
    for row, values in session.compare(ways, next(iter(epochs)), column, least=3, warm=warm):
        if values:
            row["what"] = f"{label}, {name}, {len(data)} images, batch {batch}"
            row["images_per_s"] = round(1000 * len(data) / median(values), 1)
            row["loss"] = round(losses[row["provider"]], 4)
        yield row


def attacked(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    model.eval()
    x_adv = (x + RADIUS * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(STEPS):
        x_adv.requires_grad_()
        loss = cross_entropy(model(x_adv), y, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x_adv)
        x_adv = (x_adv.detach() + STEP * grad.sign()).clamp(x - RADIUS, x + RADIUS).clamp(0, 1)
    model.train()
    return x_adv


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=DECAY)


def plain(model: nn.Module, data: "fa.data.ImageSet", batch: int) -> float:
    optimizer, total = _optimizer(model), torch.zeros((), device=data.x.device)
    for ids in torch.randperm(len(data), device=data.x.device).split(batch):
        x, y = data.x[ids].float() / 255, data.y[ids]
        loss = cross_entropy(model(attacked(model, x, y)), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(x)
    return float(total) / len(data)


def captured(model: nn.Module, data: "fa.data.ImageSet", batch: int, steps: int = STEPS) -> float:
    """Train in bfloat16 from one CUDA graph of a step on one batch: no gather, no augmentation.

    Returns the seconds that as many steps take as an epoch has. Without a GPU each step runs as it is.
    """
    optimizer = _optimizer(model.to(memory_format=torch.channels_last))
    x = (data.x[:batch].float() / 255).contiguous(memory_format=torch.channels_last)
    y, count = data.y[:batch], len(data) // batch

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, torch.bfloat16):
            cross_entropy(model(attacked(model, x, y) if steps else x), y).backward()
        optimizer.step()

    replay = captured_call(step) if x.is_cuda else step
    return wall(lambda: [replay() for _ in range(count)])[0]
