"""Analysis by Synthesis: the latent descent's speed against the machine's multiply-add rate, and the prior search's against a matrix product.

    python bench/abs_inference.py [--seconds 5] [--official DIR --data-dir DIR [--limit N]] [--out FILE]

With the authors' weights and MNIST it also reports accuracy, and on how many images bf16 and fp32 predict the same class.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor
from torch.nn import functional as F

import fastadv as fa
from bench.timing import quantiles, ratio, times
from fastadv import ops
from fastadv._card import machine
from fastadv._library import CARDS, extension
from fastadv.ops._decoders import MNIST, random_decoder

Row = dict[str, Any]
CLASSES, BATCH, STEPS, PRIOR = 10, 100, 50, 8000
ROUNDS = 2_000_000
FEW = 3  # steps of the eager descent, whose time is scaled to all


def eager(x: Tensor, z: Tensor, weights: list[Tensor], biases: list[Tensor], strides: list[int], steps: int) -> Tensor:
    """The descent as the authors' code does it: autograd through one decoder after the other, one Adam over all latents."""
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


def descent(seconds: float) -> Iterator[Row]:
    """The MNIST decoder at random weights: speed does not depend on them. Rates are medians over turns taken side by side."""
    draw = torch.Generator().manual_seed(0)
    decoder = random_decoder(draw, CLASSES, MNIST, torch.device("cpu"), torch.float32)
    strides = [layer[3] for layer in MNIST]
    x, z = torch.rand(BATCH, 1, 28, 28, generator=draw), torch.randn(BATCH, CLASSES, 8, generator=draw)
    operations = extension.fma_rounds(1) * ROUNDS
    for batch in (BATCH, 1):
        args = x[:batch], z[:batch], *decoder, strides
        ways = {
            "fp32": lambda args=args: ops.latent_fit(*args, steps=STEPS),
            "fma": lambda: extension.fma_rounds(ROUNDS),
            "bf16": lambda args=args: ops.latent_fit(*args, steps=STEPS, bf16=True),
        }
        if batch > 1:
            ways["eager"] = lambda args=args: eager(*args, steps=FEW)
        taken = times(ways, seconds)
        flops = CARDS["latent_fit"].flops(*args, 1.0, STEPS)
        for name in ("fp32", "bf16"):
            share = statistics.median(flops / mine / (operations / peak) for mine, peak in zip(taken[name], taken["fma"], strict=False))
            row: Row = {
                "what": f"latent_fit, {batch} x {CLASSES} x {STEPS}, MNIST decoder",
                "provider": f"fastadv {name}",
                **quantiles(taken[name]),
                "ms_per_image": round(statistics.median(taken[name]) / batch, 3),
                "best_ms_per_image": round(min(taken[name]) / batch, 3),
                "gflops": round(flops / statistics.median(taken[name]) / 1e6, 1),
                "share_of_fma_rate": round(share, 3),
            }
            if name == "bf16":
                row |= {"times_fp32": round(ratio(taken["fp32"], taken["bf16"]), 3), "dot_products": bool(extension.bf16())}
            if "eager" in taken:
                scale = flops / CARDS["latent_fit"].flops(*args, 1.0, FEW)
                row["times_eager"] = round(ratio([t * scale for t in taken["eager"]], taken[name]), 2)
            yield row
        yield {
            "what": "multiply-add rate in registers",
            "provider": extension.isa(),
            "gflops": round(operations / statistics.median(taken["fma"]) / 1e6, 1),
        }


def search(seconds: float) -> Iterator[Row]:
    """The prior search, against the matrix product alone, without reduction or exactness."""
    draw = torch.Generator().manual_seed(0)
    bank, bias = torch.rand(CLASSES, PRIOR, 784, generator=draw), torch.rand(CLASSES, PRIOR, generator=draw)
    for batch in (BATCH, 1):
        x = torch.rand(batch, 784, generator=draw)
        ways = {
            "fastadv": lambda x=x: ops.nearest_prototype(x, bank, bias),
            "torch.matmul": lambda x=x: x @ bank.view(-1, 784).T,
        }
        taken = times(ways, seconds)
        what, flops = f"nearest_prototype, {batch} x {CLASSES} x {PRIOR} x 784", CARDS["nearest_prototype"].flops(x, bank, bias)
        for name, values in taken.items():
            yield {
                "what": what,
                "provider": name,
                **quantiles(values),
                "gflops": round(flops / statistics.median(values) / 1e6, 1),
                "times_matmul": round(ratio(taken["torch.matmul"], values), 3),
            }


def agreement(official: Path, data_dir: Path, limit: int | None) -> Iterator[Row]:
    """On MNIST's test images: accuracy in both precisions, and how often they predict the same class."""
    test = fa.data.load("mnist", split="test", data_dir=data_dir, limit=limit)
    models = {name: fa.models.ABS.from_official(official, precision=name) for name in ("fp32", "bf16")}
    right, same, total = dict.fromkeys(models, 0), 0, 0
    for x, y, _ in fa.data.batches(test, BATCH):
        found = {name: model(x).argmax(1) for name, model in models.items()}
        for name in models:
            right[name] += int((found[name] == y).sum())
        same += int((found["fp32"] == found["bf16"]).sum())
        total += len(y)
    for name in models:
        yield {
            "what": f"ABS, authors' weights, {total} test images",
            "provider": f"fastadv {name}",
            "accuracy": right[name] / total,
            "same_class": same / total,
        }


def rows(seconds: float, official: Path | None = None, data_dir: Path | None = None, limit: int | None = None) -> Iterator[Row]:
    """One row a measurement."""
    yield from descent(seconds)
    yield from search(seconds)
    if official and data_dir:
        yield from agreement(official, data_dir, limit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="least time spent on each measurement")
    parser.add_argument("--official", type=Path, help="folder of the authors' ABS_0.net to ABS_9.net")
    parser.add_argument("--data-dir", type=Path, help="folder with MNIST/raw")
    parser.add_argument("--limit", type=int, help="first N test images only")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "results" / "cpu.jsonl")
    options = parser.parse_args()
    if extension is None:
        raise SystemExit("bench: the C++ extension is not built; there is nothing to time")
    about = {**machine(), "isa": extension.isa(), "threads": extension.threads()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a") as file:
        for row in rows(options.seconds, options.official, options.data_dir, options.limit):
            print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
            file.write(json.dumps({**row, "device": "cpu", **about}) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
