"""Analysis by Synthesis: its bank, inference, bounds and training; on a CPU its two kernels as well.

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

import fastadv as fa
from bench.eager import abs as eager
from bench.session import Case, Row, Session
from bench.subjects import abs_kernels
from bench.timing import quantiles, ratio
from fastadv.models.abs.decoder import DecoderShape
from fastadv.ops._samples import MNIST, random_decoder
from fastadv.ops.registration.library import CARDS, extension

CLASSES = 10
EAGER = "eager, one class after the other"
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
    if session.on_cpu:
        if extension is not None:
            yield Case("kernels", partial(abs_kernels.rows, session))
        yield Case("training", partial(quick_training, session))
        return
    for norm in ("l2", "linf"):
        yield Case(f"bound {norm}", partial(bound, session, norm), needs=20)
    for precision in ("fp32", "bf16"):
        yield Case(f"training {precision}", partial(training, session, precision), needs=60)


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
    weights = "authors' weights" if session.official else "random weights"
    return f"ABS, {weights}, {text}"


def images(session: Session, count: int) -> tuple[Tensor, Tensor | None]:
    """Load test images of MNIST with labels if the authors' model is given too, else draw random images."""
    if session.official is None or session.data_dir is None:
        return session.rand(count, 1, 28, 28), None
    test = fa.data.load("mnist", "test", data_dir=session.data_dir, limit=count)
    x, labels, _ = next(iter(fa.data.batches(test, count)))
    return x.to(session.device), labels.to(session.device)


def bank(session: Session) -> Iterator[Row]:
    """Decode the images of the prior samples, as each model does once."""
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
        ways["eager"] = lambda: -eager.inference(net, x, prior, square, bias)
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
    taken: dict[str, list[float]] = {name: [] for name in nets}
    decided: dict[str, list[Tensor]] = {name: [] for name in nets}
    for part in x.split(batch):
        for name, made in nets.items():
            run = partial(_append, decided[name], made, part)
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


def _append(decided: list[Tensor], net: Any, x: Tensor) -> None:
    decided.append(net(x).argmax(1))


def bound(session: Session, norm: Any) -> Iterator[Row]:
    net, count = model(session), session.size(100, 1)
    x = session.rand(count, 1, 28, 28)
    y = net(x).argmax(1)
    radii: list[Tensor] = []

    def run() -> None:
        radii[:] = [net.lower_bound(x, y, norm=norm, starts=session.size(4, 1))]

    for row, values in session.compare({"fastadv": run}, "eager", least=3):
        if values:
            row |= {
                "ms_per_image": round(median(values) / count, 4),
                "mean_bound": round(float(radii[0].float().mean()), 4),
            }
        yield row | {"what": f"bound, {norm}", "images": count}


def random_images(count: int, shape: tuple[int, ...] = (1, 28, 28)) -> "fa.data.ImageSet":
    """Draw random images, as many of each class; the time does not depend on them."""
    x = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0))
    return fa.data.ImageSet(x, torch.arange(count) % CLASSES, CLASSES, "random images")


def fitted(data: "fa.data.ImageSet", precision: Any, **given: Any) -> float:
    """Train for an epoch. Returns the mean loss."""
    made = fa.models.ABS.fit(data, epochs=1, calibration=0, training_precision=precision, **given)
    loss: float = made.card["measured"]["loss"]
    return loss


def training(session: Session, precision: Any) -> Iterator[Row]:
    """Train for an epoch on as many images as MNIST has; the second of two runs is measured."""
    count, losses = session.size(60_000, 40), []
    data = random_images(count)
    given = {"device": session.device, "prior_samples": session.size(8000, 20)}

    def run(chosen: "fa.data.ImageSet") -> None:
        losses[:] = [fitted(chosen, precision, **given)]

    memory = session.warmed(lambda: run(data.subset(torch.arange(min(count, 1600)))))
    values = session.times({"": lambda: run(data)}, least=1)[""]
    yield {
        "what": f"ABS training, an epoch, {count} images", "provider": f"fastadv {precision}",
        "images": count, **quantiles(values), **memory, "turns": len(values),
        "images_per_s": round(1000 * count / median(values), 1), "loss": round(losses[0], 3),
    }  # fmt: skip


def quick_training(
    session: Session, shape: DecoderShape | None = None, width: int = 16, batches: int = 4
) -> Iterator[Row]:
    """Train for an epoch, beside the same networks in eager torch, one class after the other."""
    shape = shape or DecoderShape()
    data, losses = random_images(QUICK["batch_size"] * batches, shape.image), {}

    def run(provider: str) -> None:
        if provider == EAGER:
            rest = QUICK["batch_size"], QUICK["learning_rate"]
            losses[provider] = eager.training(data, shape, width, *rest)
        else:
            losses[provider] = fitted(data, provider.split()[1], shape=shape, width=width, **QUICK)

    ways = {name: partial(run, name) for name in (EAGER, "fastadv fp32", "fastadv bf16")}
    what = f"ABS training, an epoch, {len(data)} images, batch {QUICK['batch_size']}"
    for row, values in session.compare(ways, EAGER):
        if values:
            row["ms_per_image"] = round(median(values) / len(data), 3)
            row["loss"] = round(losses[row["provider"]], 2)
        yield {"what": what, **row}
