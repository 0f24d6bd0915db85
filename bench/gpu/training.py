"""`make gpu`, stage training: an epoch of PGD-7 training of a ResNet-18 on 50,000 images.

Eager torch runs the same steps: the attack on the model in eval mode, without weight gradients, then a step
of SGD on the model in train mode.
"""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fastadv as fa
from bench.gpu import nets
from bench.gpu.session import Case, Row, Session, conv_precision, median, said
from bench.timing import quantiles, ratio

RADIUS, STEP, STEPS = 8 / 255, 2 / 255, 7
LEARNING_RATE, MOMENTUM, DECAY = 0.05, 0.9, 5e-4


def cases(session: Session) -> Iterator[Case]:
    yield Case("PGD-7 epoch ResNet-18", lambda: epoch(session), needs=60)


def images(session: Session, count: int) -> "fa.data.ImageSet":
    """CIFAR-10 where its folder is given, else random images, on the device."""
    if session.data_dir is not None and (session.data_dir / "cifar10").exists():
        train = fa.data.load("cifar10", "train", data_dir=session.data_dir, limit=count)
        x, y, _ = next(iter(fa.data.batches(train, count)))
        return fa.data.ImageSet((x * 255).round().byte(), y, 10, "CIFAR-10").to(session.device)
    session.note("no --data-dir with cifar10: random images and labels")
    return random_images(count).to(session.device)


def random_images(count: int, shape: tuple[int, ...] = (3, 32, 32)) -> "fa.data.ImageSet":
    """Random images and labels: the time of a step does not depend on them."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (count, *shape), generator=draw, dtype=torch.uint8)
    return fa.data.ImageSet(x, torch.arange(count) % 10, 10, "random images")


def attacked(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """PGD from a random start, written by hand."""
    model.eval()
    x_adv = (x + RADIUS * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    for _ in range(STEPS):
        x_adv.requires_grad_()
        loss = cross_entropy(model(x_adv), y, reduction="sum")
        (grad,) = torch.autograd.grad(loss, x_adv)
        x_adv = (x_adv.detach() + STEP * grad.sign()).clamp(x - RADIUS, x + RADIUS).clamp(0, 1)
    model.train()
    return x_adv


def eager(model: nn.Module, data: "fa.data.ImageSet", batch: int, bf16: bool) -> float:
    """One epoch; the mean loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=DECAY)
    if bf16:
        model.to(memory_format=torch.channels_last)
    total = torch.zeros((), device=data.x.device)
    order = torch.randperm(len(data), device=data.x.device)
    for ids in order.split(batch):
        x, y = data.x[ids].float() / 255, data.y[ids]
        if bf16:
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            x_adv = attacked(model, x, y)
            loss = cross_entropy(model(x_adv), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(x)
    return float(total) / len(data)


def fastadv(model: nn.Module, data: "fa.data.ImageSet", batch: int, precision: str) -> float:
    recipe = fa.train.PGDTraining(fa.Linf(RADIUS), steps=STEPS, step_size=STEP)
    (report,) = fa.train.fit(
        model, data, recipe, epochs=1, batch_size=batch, learning_rate=LEARNING_RATE,
        optimization=fa.train.Optimization(momentum=MOMENTUM, weight_decay=DECAY),
        execution=fa.train.Execution(precision=precision),
    )  # fmt: skip
    loss: float = report.loss
    return loss


def epoch(session: Session) -> Iterator[Row]:
    """The same epoch by each provider, from the same weights; a warm-up on two batches is not counted."""
    batch = session.size(512, 4)
    data = images(session, session.size(50_000, 8))
    net = (nets.resnet18(width=4) if session.tiny else nets.resnet18()).to(session.device)
    warm = data.subset(torch.arange(min(len(data), 2 * batch)))
    runs: dict[str, Callable[[nn.Module, fa.data.ImageSet], float]] = {
        "eager fp32": lambda model, images: eager(model, images, batch, False),
        "eager bf16": lambda model, images: eager(model, images, batch, True),
        "fastadv fp32": lambda model, images: fastadv(model, images, batch, "fp32"),
        "fastadv bf16": lambda model, images: fastadv(model, images, batch, "bf16"),
    }
    losses: dict[str, float] = {}
    memory: dict[str, Row] = {}

    def run(name: str, images: "fa.data.ImageSet") -> None:
        losses[name] = runs[name](copy.deepcopy(net), images)

    for name in runs:
        try:
            memory[name] = session.warmed(lambda name=name: run(name, warm))
        except Exception as error:
            if session.dead():
                raise
            yield {"provider": name, "error": said(error)}
    taken = session.times({name: lambda name=name: run(name, data) for name in memory}, least=3)
    # an attack step is a forward and an input gradient, the training step a forward and two gradients
    flops = (2 * STEPS + 3) * forward_flops(net, data.x[:1].float()) * len(data)
    for name, values in taken.items():
        precision = "bf16" if "bf16" in name else conv_precision(session)
        seconds = median(values) / 1000
        row = {"provider": name, "images": len(data), "batch": batch, **quantiles(values), **memory[name]}
        row |= {"images_per_s": round(len(data) / seconds, 1), "loss": round(losses[name], 4)}
        row |= session.ceilings.share_of_products(flops, median(values), precision)
        if "eager fp32" in taken:
            row["times_eager"] = round(ratio(taken["eager fp32"], values), 2)
        yield row | {"turns": len(values)}


def forward_flops(net: nn.Module, x: Tensor) -> int:
    """Operations of a forward pass, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x)
    return int(counter.get_total_flops())
