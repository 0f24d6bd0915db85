"""Analysis by Synthesis: the latent descent and the prior search, each against what the machine can do.

The descent is compared with the multiply-add rate and with eager PyTorch, the search with a matrix product.
With the authors' weights and MNIST's test images (`--official DIR --data-dir DIR` of run.py) the whole model
is measured too: seconds for the bank of prior images, milliseconds an image, accuracy, and the share of
images on which each way predicts the same class as fp32.
"""

import resource
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import fastadv as fa
from bench.timing import quantiles, ratio, synchronize, times
from fastadv import ops
from fastadv.ops._samples import MNIST, random_decoder
from fastadv.ops.registration.library import CARDS, extension

Row = dict[str, Any]
CLASSES, BATCH, STEPS, PRIOR = 10, 100, 50, 8000
ROUNDS = (
    300_000  # of multiply-adds for each image, so that one turn takes about as long as the other ways' turns
)
EAGER, PEAK = "eager, as the authors' code", "multiply-adds in registers"
FEW = 3  # steps of the eager descent; its rate stands for that of all steps


def eager(
    x: Tensor, z: Tensor, weights: list[Tensor], biases: list[Tensor], strides: list[int], steps: int
) -> Tensor:
    """The descent of the authors' code: autograd through one decoder after the other, one Adam for all."""
    point = z.clone().requires_grad_()
    optimizer = torch.optim.Adam([point], lr=0.05)
    for step in range(steps):
        losses = []
        for k in range(z.shape[1]):
            out = point[:, k, :, None, None]
            for layer, (weight, bias, stride) in enumerate(zip(weights, biases, strides, strict=True)):
                out = F.conv_transpose2d(out, weight[k], bias[k], stride=stride)
                out = F.elu(out) if layer < len(weights) - 1 else out.sigmoid()
            losses.append((out - x).square().flatten(1).sum(1) + point[:, k].square().sum(1) / 2)
        loss = torch.stack(losses, dim=1) / x[0].numel()
        if step < steps - 1:
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            with torch.no_grad():
                point.mul_((5.0 / point.norm(dim=2, keepdim=True)).clamp(max=1))
    return loss.detach()


def descent(device: torch.device, seconds: float) -> Iterator[Row]:
    """The MNIST decoder at random weights; speed does not depend on them. Rates are medians over turns."""
    draw = torch.Generator().manual_seed(0)
    decoder = random_decoder(draw, CLASSES, MNIST, device, torch.float32)
    strides = [layer[3] for layer in MNIST]
    x, z = (
        torch.rand(BATCH, 1, 28, 28, generator=draw).to(device),
        torch.randn(BATCH, CLASSES, 8, generator=draw).to(device),
    )
    for batch in (BATCH, 1):
        args = x[:batch], z[:batch], *decoder, strides
        ways = {
            "fastadv fp32": lambda args=args: ops.latent_fit(*args, steps=STEPS),
            "fastadv bf16": lambda args=args: ops.latent_fit(*args, steps=STEPS, bf16=True),
            EAGER: lambda args=args: eager(*args, steps=FEW),
        }
        if device.type == "cpu":
            ways[PEAK] = lambda batch=batch: extension.fma_rounds(ROUNDS * (batch + 9))
        taken = times(ways, seconds)
        flops = CARDS["latent_fit"].flops(*args, 1.0, STEPS)
        work = dict.fromkeys(ways, flops) | {EAGER: CARDS["latent_fit"].flops(*args, 1.0, FEW)}
        if device.type == "cpu":
            work[PEAK] = extension.fma_rounds(1) * ROUNDS * (batch + 9)
        speeds = {name: [work[name] / t for t in taken[name]] for name in ways}
        for name in ways:
            row: Row = {"what": f"latent_fit, {batch} x {CLASSES} x {STEPS}, MNIST decoder", "provider": name}
            if work[name] == flops:
                row |= {
                    **quantiles(taken[name]),
                    "ms_per_image": round(statistics.median(taken[name]) / batch, 3),
                }
            row["gflops"] = round(statistics.median(speeds[name]) / 1e6, 1)
            for other, key in (
                (PEAK, "share_of_fma_rate"),
                ("fastadv fp32", "times_fp32"),
                (EAGER, "times_eager"),
            ):
                if other in ways and other != name and name.startswith("fastadv"):
                    row[key] = round(ratio(speeds[name], speeds[other]), 3)
            yield row


def search(device: torch.device, seconds: float) -> Iterator[Row]:
    """The prior search, against the matrix product alone, which neither finds the minimum nor is exact."""
    draw = torch.Generator().manual_seed(0)
    bank, bias = (
        torch.rand(CLASSES, PRIOR, 784, generator=draw).to(device),
        torch.rand(CLASSES, PRIOR, generator=draw).to(device),
    )
    for batch in (BATCH, 1):
        x = torch.rand(batch, 784, generator=draw).to(device)
        ways = {
            "fastadv": lambda x=x: ops.nearest_prototype(x, bank, bias),
            "torch.matmul": lambda x=x: x @ bank.view(-1, 784).T,
        }
        taken = times(ways, seconds)
        what, flops = (
            f"nearest_prototype, {batch} x {CLASSES} x {PRIOR} x 784",
            CARDS["nearest_prototype"].flops(x, bank, bias),
        )
        for name, values in taken.items():
            yield {
                "what": what,
                "provider": name,
                **quantiles(values),
                "gflops": round(flops / statistics.median(values) / 1e6, 1),
                "times_matmul": round(ratio(taken["torch.matmul"], values), 3),
            }


def whole(device: torch.device, official: Path, data_dir: Path, limit: int | None) -> Iterator[Row]:
    """The authors' model on MNIST's test images; the ways take turns on each batch."""
    test = fa.data.load("mnist", split="test", data_dir=data_dir, limit=limit)
    ways: dict[str, dict[str, Any]] = {
        "fp32": {},
        "bf16": {"precision": "bf16"},
        "prune": {"prune": True},
        "binary": {"binary": True},
    }
    plain = fa.models.ABS.from_official(official).to(device)
    models = {name: plain.with_options(**options) for name, options in ways.items()}
    started = time.perf_counter()
    plain.bank()
    synchronize()
    yield {
        "what": f"bank of {PRIOR} prior samples, {CLASSES} classes",
        "provider": "fastadv",
        "seconds": round(time.perf_counter() - started, 2),
    }
    for count in (1, BATCH):
        x = torch.stack([test[i][0] for i in range(count)]).to(device)
        for name, model in models.items():
            alone = times({name: lambda model=model, x=x: model(x)}, seconds=1)[name]
            row: Row = {
                "what": f"ABS, authors' weights, {count} images, alone",
                "provider": f"fastadv {name}",
                **quantiles(alone),
            }
            yield row | {"ms_per_image": round(statistics.median(alone) / count, 2)}
    right, same = dict.fromkeys(models, 0), dict.fromkeys(models, 0)
    taken: dict[str, list[float]] = {name: [] for name in models}
    for x, y, _ in fa.data.batches(test, BATCH):
        decided, x, y = {}, x.to(device), y.to(device)
        for name, model in models.items():
            started = time.perf_counter()
            decided[name] = model(x).argmax(1)
            synchronize()
            taken[name].append((time.perf_counter() - started) * 1000 / len(x))
        for name in models:
            right[name] += int((decided[name] == y).sum())
            same[name] += int((decided[name] == decided["fp32"]).sum())
    for name in models:
        yield {
            "what": f"ABS, authors' weights, {len(test)} test images, batches of {BATCH}",
            "provider": f"fastadv {name}",
            "accuracy": round(right[name] / len(test), 4),
            "same_class_as_fp32": round(same[name] / len(test), 4),
            "ms_per_image": round(statistics.median(taken[name]), 2),
            "best_ms_per_image": round(min(taken[name]), 2),
            "times_fp32": round(ratio(taken["fp32"], taken[name]), 2),
            "peak_resident_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }


def rows(
    device: torch.device,
    seconds: float,
    official: Path | None = None,
    data_dir: Path | None = None,
    limit: int | None = None,
) -> Iterator[Row]:
    """One row a measurement; none on a CPU without the extension."""
    if device.type == "cpu" and extension is None:
        return
    yield from descent(device, seconds)
    yield from search(device, seconds)
    if official and data_dir:
        yield from whole(device, official, data_dir, limit)
