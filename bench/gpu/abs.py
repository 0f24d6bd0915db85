"""`make gpu`, stage abs: Analysis by Synthesis, its inference, bounds and training.

Speed does not depend on the weights; the authors' are taken where they are given, else random ones.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import fastadv as fa
from bench.gpu.session import Case, Row, Session, median
from bench.timing import quantiles
from fastadv.ops._decoders import forward
from fastadv.ops._samples import MNIST, random_decoder
from fastadv.ops.registration.library import CARDS

CLASSES = 10
CHUNK = 250  # images that the eager descent holds at once, as ABS does


def cases(session: Session) -> Iterator[Case]:
    yield Case("bank", lambda: bank(session))
    for batch in session.size((1, 100, 1000), (1, 2)):
        yield Case(f"inference {batch}", lambda batch=batch: inference(session, batch), needs=20)
    yield Case("inference of a test set", lambda: whole(session), needs=30)
    for norm in ("l2", "linf"):
        yield Case(f"bound {norm}", lambda norm=norm: bound(session, norm), needs=20)
    for precision in ("fp32", "bf16"):
        yield Case(f"training {precision}", lambda p=precision: training(session, p), needs=60)


def model(session: Session) -> "fa.models.ABS":
    if session.official is not None:
        return fa.models.ABS.from_official(session.official).to(session.device)
    session.note("no --official: ABS has random weights")
    draw = torch.Generator().manual_seed(0)
    weights, biases = random_decoder(draw, CLASSES, MNIST, session.device, torch.float32)
    made = fa.models.ABS(
        weights, biases, [layer[3] for layer in MNIST], prior_samples=session.size(8000, 20),
        steps=session.size(50, 2),
    )  # fmt: skip
    return made.to(session.device)


def bank(session: Session) -> Iterator[Row]:
    """The images of the prior samples, decoded once for each model."""
    net = model(session)

    def decode() -> None:
        net.prior_latents = net.prior_latents.clone()
        net.bank()

    for name, figures, _ in session.compare({"fastadv": decode}, "eager"):
        yield {"provider": name, "images": len(net.prior_latents) * CLASSES, **figures}


def eager(net: "fa.models.ABS", x: Tensor, prior: Tensor, square: Tensor, bias: Tensor) -> Tensor:
    """ABS in plain torch, all classes and many images at once: a matrix product and autograd with Adam."""
    losses, strides, size = [], net.shape.strides, x[0].numel()
    for part in x.split(CHUNK):
        rows = part.flatten(1)
        nearest = [(square[k] + bias - 2 * rows @ prior[k].T).argmin(1) for k in range(len(prior))]
        z = net.prior_latents[torch.stack(nearest, dim=1)].requires_grad_()
        optimizer = torch.optim.Adam([z], lr=net.step_size)
        for step in range(net.steps):
            images = forward(z, net.weights, net.biases, strides)[-1].view(len(z), CLASSES, -1)
            misfit = (images - rows[:, None]).square().sum(2)
            loss = (misfit + net.beta / 2 * z.square().sum(2)) / size
            if step < net.steps - 1:
                optimizer.zero_grad()
                loss.sum().backward()
                optimizer.step()
                with torch.no_grad():
                    z.mul_((net.max_norm / z.norm(dim=2, keepdim=True)).clamp(max=1))
        losses.append(loss.detach())
    return torch.cat(losses)


def inference(session: Session, batch: int) -> Iterator[Row]:
    """Class losses of random images, against the batched eager equivalent."""
    net = model(session)
    x = session.rand(batch, 1, 28, 28)
    prior = net.bank()
    square, bias = prior.square().sum(2), net.beta / 2 * net.prior_latents.square().sum(1)
    options: dict[str, dict[str, Any]] = {
        "fp32": {}, "bf16": {"precision": "bf16"}, "prune": {"prune": True}, "binary": {"binary": True},
    }  # fmt: skip
    nets = {name: net.with_options(**given) for name, given in options.items()}
    ways: dict[str, Any] = {"eager": lambda: eager(net, x, prior, square, bias)}
    ways |= {f"fastadv {name}": lambda made=made: made(x) for name, made in nets.items()}
    z = net.prior_latents[:CLASSES].expand(batch, -1, -1)
    fit = CARDS["latent_fit"].flops(
        x, z, net.weights, net.biases, list(net.shape.strides), net.beta, net.steps
    )
    decided = net(x).argmax(1)
    for name, figures, values in session.compare(ways, "eager"):
        row = {"provider": name, "images": batch, **figures}
        if values:
            row["ms_per_image"] = round(median(values) / batch, 5)
        if values and name in ("fastadv fp32", "fastadv bf16"):
            row |= session.ceilings.share_of_products(fit, median(values), name.split()[1])
        if name.startswith("fastadv") and "binary" not in name and values:
            row["same_class"] = round(
                float((nets[name.split()[1]](x).argmax(1) == decided).float().mean()), 4
            )
        elif values and name == "eager":
            same = (-eager(net, x, prior, square, bias)).argmax(1) == decided
            row["same_class"] = round(float(same.float().mean()), 4)
        yield row


def whole(session: Session) -> Iterator[Row]:
    """10,000 images in batches of 1,000, once after a warm-up; on MNIST's test set where it is given."""
    net, count, batch = model(session), session.size(10_000, 4), session.size(1000, 2)
    labels = None
    if session.official is not None and session.data_dir is not None:
        test = fa.data.load("mnist", "test", data_dir=session.data_dir, limit=count)
        x, labels, _ = next(iter(fa.data.batches(test, count)))
        x, labels = x.to(session.device), labels.to(session.device)
    else:
        x = session.rand(count, 1, 28, 28)
    for precision in ("fp32", "bf16"):
        made = net.with_options(precision=precision)
        for _ in range(3):  # an op captures its CUDA graph at the second call
            made(x[:batch])
        decided: list[Tensor] = []

        def run(made: Any = made, decided: list[Tensor] = decided) -> None:
            decided[:] = [made(part).argmax(1) for part in x.split(batch)]

        values = session.times({"": run}, least=3)[""]
        row = {"provider": f"fastadv {precision}", "images": count, "batch": batch, **quantiles(values)}
        if labels is not None:
            row["accuracy"] = round(float((torch.cat(decided) == labels).float().mean()), 4)
        yield row | {"seconds": round(median(values) / 1000, 4), "turns": len(values)}


def bound(session: Session, norm: Any) -> Iterator[Row]:
    net, count = model(session), session.size(100, 1)
    x = session.rand(count, 1, 28, 28)
    y = net(x).argmax(1)
    radii: list[Tensor] = []

    def run() -> None:
        radii[:] = [net.lower_bound(x, y, norm=norm, starts=session.size(4, 1))]

    for name, figures, values in session.compare({"fastadv": run}, "eager", least=3):
        row = {"provider": name, "images": count, **figures}
        if values:
            row |= {
                "ms_per_image": round(median(values) / count, 4),
                "mean_bound": round(float(radii[0].float().mean()), 4),
            }
        yield row


def training(session: Session, precision: Any) -> Iterator[Row]:
    """One epoch on as many images as MNIST has; the second of two runs is measured."""
    count = session.size(60_000, 40)
    draw = torch.Generator().manual_seed(0)
    data = fa.data.ImageSet(
        torch.rand(count, 1, 28, 28, generator=draw), torch.arange(count) % CLASSES, CLASSES, "random images"
    )

    def fit(images: "fa.data.ImageSet") -> Any:
        return fa.models.ABS.fit(
            images, epochs=1, calibration=0, device=session.device, prior_samples=session.size(8000, 20),
            training_precision=precision,
        )  # fmt: skip

    made: list[Any] = []
    memory = session.warmed(lambda: fit(data.subset(torch.arange(min(count, 1600)))))
    values = session.times({"": lambda: made.append(fit(data))}, least=1)[""]
    yield {
        "provider": f"fastadv {precision}",
        "images": count,
        **quantiles(values),
        **memory,
        "images_per_s": round(1000 * count / median(values), 1),
        "loss": round(made[-1].card["measured"]["loss"], 3),
        "turns": len(values),
    }
