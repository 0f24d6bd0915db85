"""Analysis by Synthesis: its bank, inference and training; on a CPU its descent as well.

Speed does not depend on the weights. The authors' are taken where they are given, else random ones, and the
images are MNIST's where both are given. On a CPU the whole model is measured only with both.
"""

import resource
from collections.abc import Iterator
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import fastadv as fa
from bench.clock import ratio
from bench.session import Case, Row, Session
from bench.subjects.training import random_images
from fastadv import ops
from fastadv.models.abs.decoder import DecoderShape, VAEs, losses
from fastadv.ops._samples import MNIST, random_decoder
from fastadv.ops.latent_decode import forward
from fastadv.ops.registration.library import CARDS, extension

CLASSES = 10
EAGER = "eager, one class after the other"
BATCHES, STEPS = (100, 1), 50
AUTHORS = "eager, as the authors' code"
FEW = 3  # steps of the eager descent; its rate stands for that of all steps
# how an epoch is trained on a CPU
QUICK: dict[str, Any] = {"batch_size": 160, "learning_rate": 3e-3, "augment": False, "prior_samples": CLASSES}
OPTIONS: dict[str, dict[str, Any]] = {
    "fp32": {}, "bf16": {"precision": "bf16"}, "prune": {"prune": True}, "binary": {"binary": True},
}  # fmt: skip


def cases(session: Session) -> Iterator[Case]:
    if not session.on_cpu or (session.official and session.data_dir):
        yield Case("bank", partial(bank, session))
        for batch in session.size((1, 100, 1000), (1, 2), (1, 100)):
            yield Case(f"inference {batch}", partial(inference, session, batch), needs=20)
        yield Case("inference of a test set", partial(whole, session), needs=30)
    if session.on_cpu and extension is not None:
        yield Case("kernels", partial(kernels, session))
    yield Case("training", partial(training, session), needs=60)


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


def named(session: Session, text: str) -> str:
    return "ABS, " + ("authors'" if session.official else "random") + f" weights, {text}"


def images(session: Session, count: int) -> tuple[Tensor, Tensor | None]:
    """Load test images of MNIST with labels if the authors' model is given too, else draw random images."""
    if session.official is None or session.data_dir is None:
        return session.rand(count, 1, 28, 28), None
    test = fa.data.load("mnist", "test", data_dir=session.data_dir, limit=count)
    x, labels, _ = next(iter(fa.data.batches(test, count)))
    return x.to(session.device), labels.to(session.device)


def bank(session: Session) -> Iterator[Row]:
    net = model(session)

    def decode() -> None:
        net.prior_latents = net.prior_latents.clone()
        net.bank()

    what = f"bank of {len(net.prior_latents)} prior samples, {CLASSES} classes"
    for row, values in session.compare({"fastadv": decode}, "eager"):
        seconds = {"seconds": round(median(values) / 1000, 4)} if values else {}
        yield {"what": what, "images": len(net.prior_latents) * CLASSES, **row, **seconds}


def inference(session: Session, batch: int) -> Iterator[Row]:
    """Infer one batch; on a GPU beside the batched eager equivalent."""
    net, x = model(session), images(session, batch)[0]
    prior = net.bank()
    square, bias = prior.square().sum(2), net.options.beta / 2 * net.prior_latents.square().sum(1)
    nets = {f"fastadv {name}": net.with_options(**given) for name, given in OPTIONS.items()}
    ways: dict[str, Any] = {}
    if not session.on_cpu:
        ways["eager"] = lambda: -inference_by_hand(net, x, prior, square, bias)
    ways |= {name: lambda made=made: made(x) for name, made in nets.items()}
    z = net.prior_latents[:CLASSES].expand(batch, -1, -1)
    fit = CARDS["latent_fit"].flops(
        x, z, net.weights, net.biases, list(net.shape.strides), net.options.beta, net.options.steps
    )
    decided = net(x).argmax(1)
    for row, values in session.compare(ways, "eager"):
        name = row["provider"]
        row |= {"what": named(session, f"{batch} images, alone"), "images": batch}
        if values:
            row["ms_per_image"] = round(median(values) / batch, 5)
            if name in ("fastadv fp32", "fastadv bf16"):
                row |= session.share_of_products(fit, median(values), name.split()[1])
            if "binary" not in name:
                row["same_class"] = round(float((ways[name]().argmax(1) == decided).float().mean()), 4)
        yield row


def whole(session: Session) -> Iterator[Row]:
    """Infer a test set batch by batch, the ways taking turns, each after three calls to warm up."""
    count, batch = session.size((10_000, 1000), (4, 2), (session.limit, 100))
    plain, (x, labels) = model(session), images(session, count)
    nets = {name: plain.with_options(**given) for name, given in OPTIONS.items()}
    for made in nets.values():
        for _ in range(3):  # an op captures its CUDA graph at the second call
            made(x[:batch])
    taken, decided = {name: list[float]() for name in nets}, {name: list[Tensor]() for name in nets}
    for part in x.split(batch):
        for name, made in nets.items():
            run = lambda made=made, part=part, to=decided[name]: to.append(made(part).argmax(1))  # noqa: E731
            taken[name].append(session.timed(run) / len(part))
    what = named(session, f"{len(x)} test images, batches of {batch}")
    fp32 = torch.cat(decided["fp32"])
    for name, values in taken.items():
        found = torch.cat(decided[name])
        row: Row = {"what": what, "provider": f"fastadv {name}", "images": len(x)}
        if labels is not None:
            row["accuracy"] = round(float((found == labels).float().mean()), 4)
        row |= {
            "same_class_as_fp32": round(float((found == fp32).float().mean()), 4),
            "ms_per_image": round(median(values), 5),
            "best_ms_per_image": round(min(values), 5),
            "times_fp32": round(ratio(taken["fp32"], values), 2),
        }
        if session.on_cpu:
            row["peak_resident_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        yield row


def training(
    session: Session, shape: DecoderShape | None = None, width: int = 16, batches: int = 4
) -> Iterator[Row]:
    """Train for an epoch; on a CPU beside the same networks in eager torch, one class after the other."""
    shape, losses = shape or DecoderShape(), dict[str, float]()
    size = QUICK["batch_size"]
    data = random_images(session.size(60_000, 10, size * batches), shape.image)
    few, how = (
        data.subset(torch.arange(min(len(data), 1600))),
        {"device": session.device, "prior_samples": session.size(8000, 20)},
    )
    if session.on_cpu:
        few, how = data, {"shape": shape, "width": width, **QUICK}

    def run(provider: str, chosen: "fa.data.ImageSet") -> None:
        if provider == EAGER:
            losses[provider] = training_by_hand(data, shape, width, size, QUICK["learning_rate"])
        else:
            given: Any = {"epochs": 1, "calibration": 0, "training_precision": provider.split()[1], **how}
            losses[provider] = fa.models.ABS.fit(chosen, **given).card["measured"]["loss"]

    names = [EAGER] * session.on_cpu + ["fastadv fp32", "fastadv bf16"]
    ways, warm = ({name: partial(run, name, each) for name in names} for each in (data, few))
    what = f"ABS training, an epoch, {len(data)} images" + f", batch {size}" * session.on_cpu
    for row, values in session.compare(ways, EAGER, least=session.size(1, 1, 5), warm=warm):
        if values:
            row["ms_per_image"] = round(median(values) / len(data), 3)
            row["loss"] = round(losses[row["provider"]], 2)
        yield {"what": what, **row}


def kernels(session: Session) -> Iterator[Row]:
    """Compare the latent descent of a CPU with the authors' code. Speed does not depend on the weights."""
    for batch in BATCHES:
        yield from descents(session, batch)


def descents(session: Session, batch: int) -> Iterator[Row]:
    decoder = random_decoder(torch.Generator().manual_seed(0), CLASSES, MNIST, session.device, torch.float32)
    x, z = session.rand(batch, 1, 28, 28), session.randn(batch, CLASSES, 8)
    args = x, z, *decoder, [layer[3] for layer in MNIST]
    ways = {
        "fastadv fp32": lambda: ops.latent_fit(*args, steps=STEPS),
        "fastadv bf16": lambda: ops.latent_fit(*args, steps=STEPS, bf16=True),
        AUTHORS: lambda: descent_by_hand(*args, steps=FEW),
    }
    flops = CARDS["latent_fit"].flops(*args, 1.0, STEPS)
    work = dict.fromkeys(ways, flops) | {AUTHORS: CARDS["latent_fit"].flops(*args, 1.0, FEW)}
    what = f"latent_fit, {batch} x {CLASSES} x {STEPS}, MNIST decoder"
    found = {row["provider"]: (row, values) for row, values in session.compare(ways, "", least=7)}
    speeds = {name: [work[name] / t for t in values] for name, (_, values) in found.items()}
    for name, (row, values) in found.items():
        if work[name] != flops:  # not the whole descent, so its time says nothing
            row = {"provider": name}
        else:
            row["ms_per_image"] = round(median(values) / batch, 3)
        row |= {"what": what, "gflops": round(median(speeds[name]) / 1e6, 1)}
        keys = {"fastadv fp32": "times_fp32", AUTHORS: "times_eager"}
        for other, key in keys.items():
            if name.startswith("fastadv") and other != name:
                row[key] = round(ratio(speeds[name], speeds[other]), 3)
        yield row


def descent_by_hand(
    x: Tensor, z: Tensor, weights: list[Tensor], biases: list[Tensor], strides: list[int], steps: int
) -> Tensor:
    """Fit latents as the authors' code: autograd through one decoder after the other, one Adam for all."""
    point = z.clone().requires_grad_()
    optimizer = torch.optim.Adam([point], lr=0.05)
    for step in range(steps):
        misfits = []
        for k in range(z.shape[1]):
            out = point[:, k, :, None, None]
            for layer, (weight, bias, stride) in enumerate(zip(weights, biases, strides, strict=True)):
                out = F.conv_transpose2d(out, weight[k], bias[k], stride=stride)
                out = F.elu(out) if layer < len(weights) - 1 else out.sigmoid()
            misfits.append((out - x).square().flatten(1).sum(1) + point[:, k].square().sum(1) / 2)
        loss = torch.stack(misfits, dim=1) / x[0].numel()
        if step < steps - 1:
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            with torch.no_grad():
                point.mul_((5.0 / point.norm(dim=2, keepdim=True)).clamp(max=1))
    return loss.detach()


def inference_by_hand(net: "fa.models.ABS", x: Tensor, prior: Tensor, square: Tensor, bias: Tensor) -> Tensor:
    """Run ABS in plain torch on all classes and many images: a matrix product, autograd and Adam."""
    found, strides, size = [], net.shape.strides, x[0].numel()
    for part in x.split(250):
        rows = part.flatten(1)
        nearest = [(square[k] + bias - 2 * rows @ prior[k].T).argmin(1) for k in range(len(prior))]
        z = net.prior_latents[torch.stack(nearest, dim=1)].requires_grad_()
        optimizer = torch.optim.Adam([z], lr=net.options.step_size)
        for step in range(net.options.steps):
            images = forward(z, net.weights, net.biases, strides)[-1].view(len(z), len(prior), -1)
            misfit = (images - rows[:, None]).square().sum(2)
            loss = (misfit + net.options.beta / 2 * z.square().sum(2)) / size
            if step < net.options.steps - 1:
                optimizer.zero_grad()
                loss.sum().backward()
                optimizer.step()
                with torch.no_grad():
                    z.mul_((net.options.max_norm / z.norm(dim=2, keepdim=True)).clamp(max=1))
        found.append(loss.detach())
    return torch.cat(found)


def training_by_hand(
    data: "fa.data.ImageSet", shape: DecoderShape, width: int, batch: int, learning_rate: float
) -> float:
    """Train the same networks for an epoch, one class after the other. Returns the mean loss."""
    found, classes = [], len(data.classes)
    for k in range(classes):
        net = VAEs(shape, 1, width, seed=k).train()
        optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate)
        for x in data.x[data.y == k].split(batch // classes):
            x = x[:, None].float() / 255
            image, mean, log_variance = net(x, torch.randn(len(x), 1, shape.channels[0]))
            loss = losses(x, image, mean, log_variance, shape.values / 784).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
    return sum(found) / len(found)
